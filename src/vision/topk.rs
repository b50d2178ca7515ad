//! What a one-to-one branch finds: the best scores of the best cells, nothing suppressed.

use super::boxes::Detection;
use super::decode::Candidate;
use super::levels::{levels, sigmoid};
use super::nms::NmsOptions;
use crate::graph::Head;

/// The candidates of one image, best first (Wang et al., "YOLOv10", NeurIPS 2024): the `max_det` cells with the best
/// classes, then the `max_det` best of all their classes, so that a cell may come several times with other classes.
/// With `agnostic` every cell comes once, with its best class. Of equal scores the earlier cell, then the lower class,
/// comes first. Values that are not numbers lead to no candidate.
pub fn top(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<Candidate> {
    let mut found = Vec::new();
    top_to(head, size, outputs, options, &mut TopBuffers::default(), &mut found);
    found
}

/// Buffers that [`top_to`] uses again from image to image.
#[derive(Clone, Debug, Default)]
pub(super) struct TopBuffers {
    /// Best value of every cell, and its number.
    cells: Vec<(f32, [usize; 2])>,
    /// Value, position among the cells that were kept, class.
    scores: Vec<(f32, [usize; 2])>,
}

impl TopBuffers {
    /// Chooses as [`top`] does: `best` has the greatest value of every cell, `values` tells those of a cell's classes.
    pub fn choose(
        &mut self,
        best: impl Iterator<Item = f32>,
        values: impl Fn(usize, &mut dyn FnMut(f32)),
        options: &NmsOptions,
    ) {
        let Self { cells, scores } = self;
        cells.clear();
        cells.extend(best.enumerate().map(|(cell, value)| (value, [cell, 0])));
        first(cells, options.max_det);
        scores.clear();
        for (at, (best, [cell, _])) in cells.iter().enumerate() {
            let (mut class, mut taken) = (0, false);
            values(*cell, &mut |value| {
                if !options.agnostic || (value == *best && !taken) {
                    scores.push((value, [at, class]));
                    taken = true;
                }
                class += 1;
            });
        }
        first(scores, options.max_det);
    }

    /// Value, cell and class of what was chosen, best first.
    pub fn chosen(&self) -> impl Iterator<Item = (f32, usize, usize)> {
        self.scores.iter().map(|(value, [at, class])| (*value, self.cells[*at].1[0], *class))
    }
}

/// As [`top`], behind what `found` holds.
pub(super) fn top_to(
    head: &Head,
    size: (usize, usize),
    outputs: &[&[f32]],
    options: &NmsOptions,
    buffers: &mut TopBuffers,
    found: &mut Vec<Candidate>,
) {
    let of = |cell: usize| levels(head, size, outputs).filter(|level| level.first_cell <= cell).last();
    let best = levels(head, size, outputs).flat_map(|level| {
        let (area, classes) = (level.area, level.classes());
        (0..area).map(move |cell| (0..classes).map(|class| level.logit(class, cell)).fold(f32::MIN, f32::max))
    });
    let values = |cell: usize, tell: &mut dyn FnMut(f32)| {
        let Some(level) = of(cell) else { return };
        (0..level.classes()).for_each(|class| tell(level.logit(class, cell - level.first_cell)));
    };
    buffers.choose(best, values, options);
    for (value, cell, class) in buffers.chosen() {
        let Some(level) = of(cell) else { continue };
        let (score, bbox) = (sigmoid(value), level.bbox(cell - level.first_cell));
        if score > options.score && bbox.is_finite() {
            found.push(Candidate { detection: Detection { class, score, bbox }, cell });
        }
    }
}

/// Keeps the items with the greatest values, greatest first; of equal ones those whose place comes first. What is no number
/// is dropped.
fn first(items: &mut Vec<(f32, [usize; 2])>, count: usize) {
    items.retain(|(value, _)| !value.is_nan());
    items.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    items.truncate(count);
}
