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
    let levels: Vec<Level> = levels(head, size, outputs).collect();
    // The level of every cell, and its place there.
    let places: Vec<(&Level, usize)> =
        levels.iter().flat_map(|level| (0..level.area).map(move |cell| (level, cell))).collect();
    let nc = levels.first().map_or(0, classes);
    let value = |class: usize, at: usize| {
        let (level, cell) = places[at];
        logit(level, class, cell)
    };
    let candidate = |(at, class): (usize, usize)| {
        let (level, cell) = places[at];
        let (score, bbox) = (sigmoid(value(class, at)), level.bbox(cell));
        (score > options.score && bbox.is_finite())
            .then(|| Candidate { detection: Detection { class, score, bbox }, cell: level.first_cell + cell })
    };
    choose(places.len(), nc, options, value).into_iter().filter_map(candidate).collect()
}

/// Cells and classes as [`top`] chooses them, by the value of a class in a cell.
pub(super) fn choose(
    cells: usize,
    classes: usize,
    options: &NmsOptions,
    value: impl Fn(usize, usize) -> f32,
) -> Vec<(usize, usize)> {
    let best = |cell: usize| (0..classes).map(|class| value(class, cell)).fold(f32::MIN, f32::max);
    let mut chosen: Vec<(f32, usize)> = (0..cells).map(|cell| (best(cell), cell)).collect();
    first(&mut chosen, options.max_det, |cell| cell.0);
    let mut scores: Vec<(f32, usize, usize)> = Vec::new();
    for (best, cell) in chosen {
        let mut all = (0..classes).map(|class| (value(class, cell), cell, class));
        if options.agnostic {
            scores.extend(all.find(|(value, ..)| *value == best));
        } else {
            scores.extend(all);
        }
    }
    first(&mut scores, options.max_det, |score| score.0);
    scores.into_iter().map(|(_, cell, class)| (cell, class)).collect()
}

fn classes(level: &Level) -> usize {
    level.classes.len() / level.area.max(1)
}

fn logit(level: &Level, class: usize, cell: usize) -> f32 {
    level.classes[class * level.area + cell]
}

/// Keeps the items with the greatest values, greatest first; of equal ones the earlier. What is no number is dropped.
fn first<T>(items: &mut Vec<T>, count: usize, value: impl Fn(&T) -> f32) {
    items.retain(|item| !value(item).is_nan());
    items.sort_by(|a, b| value(b).total_cmp(&value(a)));
    items.truncate(count);
}
