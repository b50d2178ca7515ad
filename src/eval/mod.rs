//! Mean average precision of boxes, masks, keypoints and rotated boxes, under the rules of COCO and under those of
//! ultralytics, and its uncertainty; accuracy of classifiers.

mod bootstrap;
mod classify;
pub mod coco;
mod error;
mod model;
mod objects;
mod overlap;
mod rle;
mod task;
mod truth;
pub mod ultralytics;

pub use bootstrap::{Interval, bootstrap};
pub use classify::{Accuracy, accuracy, accuracy_by};
pub use error::EvalError;
pub use model::{ClassResult, EvalResult, Prepared, check_annotations, evaluate_model};
pub use objects::{Detected, Truth};
pub use overlap::{BoxPairs, MaskPairs, Overlap, PoseArea, PosePairs, RotatedPairs};
pub use rle::Rle;
pub use task::{Figures, TaskClass, TaskResult, evaluate_task};
