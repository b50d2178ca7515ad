//! Mean average precision, under the rules of COCO and under those of ultralytics, and its uncertainty; accuracy of
//! classifiers.

mod bootstrap;
mod classify;
pub mod coco;
mod model;
mod truth;
pub mod ultralytics;

pub use bootstrap::{Interval, bootstrap};
pub use classify::{Accuracy, accuracy};
pub use model::{ClassResult, EvalError, EvalResult, Prepared, check_annotations, evaluate_model};

/// An object that is there. Boxes are left, top, width, height in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truth {
    /// Number of the image.
    pub image: usize,
    /// Class number.
    pub class: usize,
    /// Left, top, width, height.
    pub bbox: [f64; 4],
    /// Area of the object (of its outline where known), square pixels.
    pub area: f64,
    /// A region of many objects: what is found in it counts neither way.
    pub crowd: bool,
}

/// An object that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Number of the image.
    pub image: usize,
    /// Class number.
    pub class: usize,
    /// Left, top, width, height.
    pub bbox: [f64; 4],
    /// Confidence.
    pub score: f64,
}

/// Intersection over union at which a detection counts, 0.50 to 0.95.
pub(crate) fn thresholds() -> [f64; 10] {
    // The reference spaces them by this rounded step, and overlaps can lie right on one.
    std::array::from_fn(|i| if i == 9 { 0.95 } else { 0.5 + i as f64 * ((0.95 - 0.5) / 9.0) })
}

/// Area of the intersection of two boxes.
pub(crate) fn intersection(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |i: usize| (a[i] + a[i + 2]).min(b[i] + b[i + 2]) - a[i].max(b[i]);
    side(0).max(0.0) * side(1).max(0.0)
}
