//! Task-aligned assignment (Feng et al., "TOOD: Task-aligned One-stage Object Detection", 2021): every object takes
//! the cells inside it that classify and locate it best.

use super::{Level, boxes, sigmoid};
use std::collections::BTreeMap;

/// Cells an object may take.
const TOP: usize = 10;
/// Exponent of the class score in the alignment metric.
const ALPHA: f64 = 0.5;
/// Exponent of the overlap in the alignment metric.
const BETA: i32 = 6;
/// Objects count as at least this wide and high, in pixels, when cells are looked for inside them.
const MIN_SIDE: f64 = 16.0;
/// Guards a division, and the margin of the inside test.
const EPS: f64 = 1e-9;

/// An object of an image: class and corners in pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truth {
    pub class: usize,
    pub bbox: [f64; 4],
}

/// A cell that answers for an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Positive {
    /// The cell, counted over all levels, finest first, row by row.
    pub anchor: usize,
    /// The object, counted within its image.
    pub object: usize,
    /// Soft class target in 0..=1.
    pub score: f64,
}

/// A cell inside an object, and how well its prediction fits.
#[derive(Clone, Copy)]
struct Fit {
    anchor: usize,
    overlap: f64,
    metric: f64,
}

/// The positives of an image in the order of their cells. Cells whose metric is zero are never taken: they would carry
/// no weight in any term of the loss.
pub(super) fn assign(levels: &[Level<'_>], reg_max: usize, truths: &[Truth]) -> Vec<Positive> {
    let mut decoded = BTreeMap::new();
    let fits: Vec<Vec<Fit>> = truths.iter().map(|truth| fit(levels, reg_max, truth, &mut decoded)).collect();

    // Cell -> the objects that chose it.
    let mut choices: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (object, fits) in fits.iter().enumerate() {
        let mut best: Vec<&Fit> = fits.iter().filter(|f| f.metric > 0.0).collect();
        best.sort_by(|a, b| b.metric.total_cmp(&a.metric).then(a.anchor.cmp(&b.anchor)));
        for fit in best.iter().take(TOP) {
            choices.entry(fit.anchor).or_default().push(object);
        }
    }
    // A cell that several objects chose is assigned to the object it overlaps most, be it one of them or not.
    let find = |object: usize, anchor: usize| {
        let fits = &fits[object];
        fits.binary_search_by_key(&anchor, |f| f.anchor).ok().map(|i| fits[i])
    };
    let mut taken: Vec<(usize, Fit)> = Vec::with_capacity(choices.len());
    for (anchor, objects) in choices {
        let candidates = if objects.len() == 1 { objects } else { (0..truths.len()).collect() };
        let fits = candidates.into_iter().filter_map(|object| Some((object, find(object, anchor)?)));
        taken.extend(fits.reduce(|best, next| if next.1.overlap > best.1.overlap { next } else { best }));
    }
    // Scores: the best cell of an object gets the object's best overlap, the others their share of the metric.
    let mut best = vec![(0.0f64, 0.0f64); truths.len()];
    for (object, fit) in &taken {
        best[*object] = (best[*object].0.max(fit.metric), best[*object].1.max(fit.overlap));
    }
    let score = |(object, fit): (usize, Fit)| {
        let (metric, overlap) = best[object];
        Positive { anchor: fit.anchor, object, score: fit.metric * overlap / (metric + EPS) }
    };
    taken.into_iter().map(score).collect()
}

/// The cells with their centre inside an object, in order.
fn fit(levels: &[Level<'_>], reg_max: usize, truth: &Truth, decoded: &mut BTreeMap<usize, [f64; 4]>) -> Vec<Fit> {
    let [x1, y1, x2, y2] = truth.bbox;
    let widen = |low: f64, high: f64| {
        let (centre, half) = ((low + high) / 2.0, (high - low).max(MIN_SIDE) / 2.0);
        (centre - half, centre + half)
    };
    let ((left, right), (top, bottom)) = (widen(x1, x2), widen(y1, y2));
    let mut fits = Vec::new();
    for level in levels {
        // Rows and columns whose centres may be inside; the exact test follows.
        let range = |low: f64, high: f64, side: usize| {
            let at = |v: f64| (v / level.stride).floor().clamp(0.0, side as f64) as usize;
            at(low - level.stride)..at(high + level.stride).saturating_add(1).min(side)
        };
        for row in range(top, bottom, level.h) {
            for column in range(left, right, level.w) {
                let cell = row * level.w + column;
                let [x, y] = level.centre(cell).map(|v| v * level.stride);
                if (x - left).min(right - x).min(y - top).min(bottom - y) <= EPS {
                    continue;
                }
                let anchor = level.first + cell;
                let bbox = decoded.entry(anchor).or_insert_with(|| boxes::decode(level, cell, reg_max));
                let overlap = boxes::ciou(bbox.map(|v| v * level.stride), truth.bbox).max(0.0);
                let score = f64::from(sigmoid(level.classes[truth.class * level.area() + cell]));
                fits.push(Fit { anchor, overlap, metric: score.powf(ALPHA) * overlap.powi(BETA) });
            }
        }
    }
    fits
}
