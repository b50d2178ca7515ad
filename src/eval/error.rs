//! Errors of an evaluation.

use crate::detector::DetectorError;
use crate::engine::EngineError;
use crate::ranks::RankError;
use crate::vision::{ImageError, PreprocessError};
use std::path::PathBuf;
use thiserror::Error;

/// An evaluation that failed.
#[derive(Debug, Error)]
pub enum EvalError {
    /// The network could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The detector could not be built or run.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// No image fills the network's input.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The ranks that have other images cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// An image could not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Model, dataset and image size do not go together.
    #[error("{0}")]
    Unfit(String),
    /// The COCO annotations do not fit.
    #[error("{path}: {problem}")]
    Annotations {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
}
