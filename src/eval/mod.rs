//! Mean average precision of boxes, masks, keypoints and rotated boxes, under the rules of COCO and under those of
//! ultralytics, and its uncertainty; accuracy of classifiers.

mod bootstrap;
mod classify;
pub mod coco;
mod error;
#[cfg(test)]
mod goldens_on_gpu;
mod judged;
mod metric;
mod model;
mod objects;
#[cfg(test)]
mod on_gpu;
mod overlap;
mod rle;
mod shapes;
mod task;
mod truth;
pub mod ultralytics;
mod validator;

pub use bootstrap::{Interval, bootstrap};
pub use classify::{Accuracy, Answer, accuracy, accuracy_by};
pub use error::EvalError;
pub use judged::Judged;
pub use metric::Metric;
pub use model::{ClassResult, EvalResult, Prepared, check_annotations, evaluate_model};
pub use objects::{Detected, Truth};
pub use overlap::{BoxPairs, MaskPairs, Overlap, PoseArea, PosePairs, RotatedPairs};
pub use rle::Rle;
pub use shapes::Found;
pub use task::{Figures, ShapeSet, TaskClass, TaskResult, evaluate_task};
pub use validator::{Answers, Score, Validator};
