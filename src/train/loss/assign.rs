//! Task-aligned assignment (Feng et al., "TOOD: Task-aligned One-stage Object Detection", 2021): every object takes
//! the cells inside it that classify and locate it best.

use super::scene::Scene;
use super::sigmoid;
use std::collections::BTreeMap;

/// Exponent of the class score in the alignment metric.
const ALPHA: f64 = 0.5;
/// Exponent of the overlap in the alignment metric.
const BETA: i32 = 6;
/// Guards a division.
const EPS: f64 = 1e-9;

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
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// The cell, as in [`Positive`].
    pub anchor: usize,
    /// Overlap of prediction and object, 0 to 1.
    pub overlap: f64,
    /// Alignment metric: the class score to the power of 1/2 times the overlap to the power of 6.
    pub metric: f64,
}

/// The assignment of an image, stage by stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignment {
    /// By object, the cells inside it, in order.
    pub fits: Vec<Vec<Fit>>,
    /// Object and cell of the best cells of every object, by cell.
    pub top: Vec<(usize, usize)>,
    /// The same once every contested cell belongs to one object, by cell.
    pub settled: Vec<(usize, usize)>,
    /// What every object keeps, by cell. Cells whose metric is zero are never taken: they would carry no weight in any
    /// term of the loss.
    pub positives: Vec<Positive>,
}

/// Assigns the cells of an image to its objects: the best `top` of each, of which it keeps `keep` at most.
pub(super) fn assign(scene: &mut Scene<'_>, top: usize, keep: Option<usize>) -> Assignment {
    let objects = scene.truths.len();
    let fits: Vec<Vec<Fit>> = (0..objects).map(|object| fit(scene, object)).collect();
    // Cell -> the objects that chose it.
    let mut choices: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (object, fits) in fits.iter().enumerate() {
        for fit in best(fits.iter().filter(|f| f.metric > 0.0).copied().collect(), top) {
            choices.entry(fit.anchor).or_default().push(object);
        }
    }
    let chosen = choices.iter().flat_map(|(anchor, objects)| objects.iter().map(|object| (*object, *anchor)));
    let chosen: Vec<(usize, usize)> = chosen.collect();
    // A cell that several objects chose is assigned to the object it overlaps most, be it one of them or not.
    let find = |object: usize, anchor: usize| {
        let fits = &fits[object];
        fits.binary_search_by_key(&anchor, |f| f.anchor).ok().map(|i| fits[i])
    };
    let mut taken: Vec<(usize, Fit)> = Vec::with_capacity(choices.len());
    for (anchor, chose) in choices {
        let candidates = if chose.len() == 1 { chose } else { (0..objects).collect() };
        let fits = candidates.into_iter().filter_map(|object| Some((object, find(object, anchor)?)));
        taken.extend(fits.reduce(|best, next| if next.1.overlap > best.1.overlap { next } else { best }));
    }
    let settled = taken.iter().map(|(object, fit)| (*object, fit.anchor)).collect();
    if let Some(keep) = keep {
        let of = |object: usize| taken.iter().filter(|(o, _)| *o == object).map(|(_, fit)| *fit).collect();
        let kept = (0..objects).flat_map(|object| best(of(object), keep).into_iter().map(move |fit| (object, fit)));
        taken = kept.collect();
        taken.sort_by_key(|(_, fit)| fit.anchor);
    }
    // Scores: the best cell of an object gets the object's best overlap, the others their share of the metric.
    let mut most = vec![(0.0f64, 0.0f64); objects];
    for (object, fit) in &taken {
        most[*object] = (most[*object].0.max(fit.metric), most[*object].1.max(fit.overlap));
    }
    let score = |(object, fit): (usize, Fit)| {
        let (metric, overlap) = most[object];
        Positive { anchor: fit.anchor, object, score: fit.metric * overlap / (metric + EPS) }
    };
    Assignment { fits, top: chosen, settled, positives: taken.into_iter().map(score).collect() }
}

/// The best by metric; of equal ones those of the first cells.
fn best(mut fits: Vec<Fit>, count: usize) -> Vec<Fit> {
    fits.sort_by(|a, b| b.metric.total_cmp(&a.metric).then(a.anchor.cmp(&b.anchor)));
    fits.truncate(count);
    fits
}

/// The cells with their centre inside an object, in order.
fn fit(scene: &mut Scene<'_>, object: usize) -> Vec<Fit> {
    let cells = scene.inside(object);
    let overlaps = scene.overlaps(object, &cells);
    let class = scene.truths[object].class;
    let fit = |((level, cell), overlap): (&(usize, usize), f64)| {
        let level = &scene.levels[*level];
        let score = f64::from(sigmoid(level.classes[class * level.area() + cell]));
        Fit { anchor: level.first + cell, overlap, metric: score.powf(ALPHA) * overlap.powi(BETA) }
    };
    cells.iter().zip(overlaps).map(fit).collect()
}
