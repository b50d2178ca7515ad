//! What a one-to-one branch finds: the best scores of the best cells, nothing suppressed.

use super::boxes::Detection;
use super::decode::Candidate;
use super::levels::{Level, levels, sigmoid};
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
    /// Best logit of every cell, and its number over all levels.
    cells: Vec<(f32, [usize; 2])>,
    /// Logit, position among the cells that were kept, class.
    scores: Vec<(f32, [usize; 2])>,
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
    let TopBuffers { cells, scores } = buffers;
    cells.clear();
    for level in levels(head, size, outputs) {
        let best = |cell: usize| (0..classes(&level)).map(|class| logit(&level, class, cell)).fold(f32::MIN, f32::max);
        cells.extend((0..level.area).map(|cell| (best(cell), [level.first_cell + cell, 0])));
    }
    first(cells, options.max_det);
    let of = |cell: usize| levels(head, size, outputs).filter(|level| level.first_cell <= cell).last();
    scores.clear();
    for (at, (best, [cell, _])) in cells.iter().enumerate() {
        let Some(level) = of(*cell) else { continue };
        let mut all = (0..classes(&level)).map(|class| (logit(&level, class, cell - level.first_cell), [at, class]));
        if options.agnostic {
            scores.extend(all.find(|(value, ..)| value == best));
        } else {
            scores.extend(all);
        }
    }
    first(scores, options.max_det);
    for (value, [at, class]) in scores.iter().copied() {
        let (_, [cell, _]) = cells[at];
        let Some(level) = of(cell) else { continue };
        let (score, bbox) = (sigmoid(value), level.bbox(cell - level.first_cell));
        if score > options.score && bbox.is_finite() {
            found.push(Candidate { detection: Detection { class, score, bbox }, cell });
        }
    }
}

fn classes(level: &Level) -> usize {
    level.classes.len() / level.area.max(1)
}

fn logit(level: &Level, class: usize, cell: usize) -> f32 {
    level.classes[class * level.area + cell]
}

/// Keeps the items with the greatest values, greatest first; of equal ones those whose place comes first. What is no number
/// is dropped.
fn first(items: &mut Vec<(f32, [usize; 2])>, count: usize) {
    items.retain(|(value, _)| !value.is_nan());
    items.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    items.truncate(count);
}
