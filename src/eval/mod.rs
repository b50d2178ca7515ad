//! Mean average precision, under the rules of COCO and under those of ultralytics, and its uncertainty; accuracy of
//! classifiers.

mod bootstrap;
mod classify;
pub mod coco;
mod error;
mod model;
mod objects;
mod truth;
pub mod ultralytics;

pub use bootstrap::{Interval, bootstrap};
pub use classify::{Accuracy, accuracy};
pub use error::EvalError;
pub use model::{ClassResult, EvalResult, Prepared, check_annotations, evaluate_model};
pub use objects::{Detected, Truth};
