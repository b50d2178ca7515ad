//! A comparison of several ways to prune: `compare.json` serialises this structure, `compare.html` shows it.

use crate::eval::Metric;
use crate::size::ImageSize;
use serde::{Deserialize, Serialize};

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of secateurs.
    pub version: String,
    /// What measured: CPU, threads, image size.
    pub device: String,
    /// The model file.
    pub model: String,
    /// The dataset.
    pub data: String,
    /// Size of the image.
    pub imgsz: ImageSize,
    /// Validation images.
    pub images: usize,
    /// Resamples of the images that intervals are taken from.
    pub resamples: usize,
    /// What the models are compared by: mAP50-95 of boxes, masks, keypoints or rotated boxes, or accuracy.
    #[serde(default = "map")]
    pub metric: String,
    /// That of the baseline model, with its interval.
    #[serde(rename = "uncut")]
    pub baseline: Score,
    /// One per way to prune, budget and repair.
    pub rows: Vec<Row>,
}

/// The metric of a comparison that names none.
fn map() -> String {
    Metric::Boxes.name().into()
}

/// A figure of accuracy and how much it would vary with other images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The metric of the comparison; mAP50-95 by COCO's rules.
    pub map50_95: f64,
    /// 2.5th percentile of the resamples.
    pub low: f64,
    /// 97.5th percentile of the resamples.
    pub high: f64,
}

/// One pruned model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How channels were ranked, and how widths were chosen: `l1` (searched), `l1-global`, `l1-uniform`.
    pub scheme: String,
    /// How it was repaired.
    pub repair: String,
    /// The latency that was asked for, as a share of the baseline model's.
    pub asked_ratio: f64,
    /// Measured latency, interleaved with the baseline model.
    pub latency_ratio: f64,
    /// Median milliseconds of a frame.
    pub p50_ms: f64,
    /// Trained values.
    pub params: usize,
    /// Multiply-accumulates.
    pub macs: usize,
    /// Its accuracy.
    pub score: Score,
    /// The first scheme's mAP less this one's, same budget and repair, on the same images; none for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<Behind>,
}

/// A paired difference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Behind {
    /// The difference on all images.
    pub difference: f64,
    /// Standard deviation over the resamples, both models on the same images each time.
    pub deviation: f64,
}
