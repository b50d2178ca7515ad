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
    let mut cells: Vec<(f32, usize, usize)> = Vec::new();
    for (number, level) in levels.iter().enumerate() {
        let best = |cell: usize| (0..classes(level)).map(|class| logit(level, class, cell)).fold(f32::MIN, f32::max);
        cells.extend((0..level.area).map(|cell| (best(cell), number, cell)));
    }
    first(&mut cells, options.max_det, |cell| cell.0);
    let mut scores: Vec<(f32, usize, usize)> = Vec::new();
    for (at, (best, number, cell)) in cells.iter().enumerate() {
        let level = &levels[*number];
        let mut all = (0..classes(level)).map(|class| (logit(level, class, *cell), at, class));
        if options.agnostic {
            scores.extend(all.find(|(value, ..)| value == best));
        } else {
            scores.extend(all);
        }
    }
    first(&mut scores, options.max_det, |score| score.0);
    let candidate = |(value, at, class): (f32, usize, usize)| {
        let (_, number, cell) = cells[at];
        let (level, score) = (&levels[number], sigmoid(value));
        let bbox = level.bbox(cell);
        (score > options.score && bbox.is_finite())
            .then(|| Candidate { detection: Detection { class, score, bbox }, cell: level.first_cell + cell })
    };
    scores.into_iter().filter_map(candidate).collect()
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
