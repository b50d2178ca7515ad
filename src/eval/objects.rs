//! Objects as the metrics count them, labelled and detected.

use crate::vision::Xywh;
use serde::{Deserialize, Serialize};

/// A labelled object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Number of the image.
    pub image: usize,
    /// Class number.
    pub class: usize,
    /// Where it is, pixels.
    pub bbox: Xywh,
    /// Area of the object (of its outline where known), square pixels.
    pub area: f64,
    /// A region of many objects: what is found in it counts neither way.
    pub crowd: bool,
}

/// A detected object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detected {
    /// Number of the image.
    pub image: usize,
    /// Class number.
    pub class: usize,
    /// Where it is, pixels.
    pub bbox: Xywh,
    /// Confidence.
    pub score: f64,
}

/// Intersection over union at which a detection counts, 0.50 to 0.95.
pub(super) fn thresholds() -> [f64; 10] {
    // The reference spaces them by this rounded step, and overlaps can lie right on one.
    std::array::from_fn(|i| if i == 9 { 0.95 } else { 0.5 + i as f64 * ((0.95 - 0.5) / 9.0) })
}
