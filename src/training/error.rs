//! Why a training cannot run on a CUDA device.

use crate::engine::EngineError;
use crate::graph::GraphError;
use crate::kernels::cuda::CudaError;
use crate::ranks::RankError;
use thiserror::Error;

/// A training that cannot run on a CUDA device.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// The graph does not fit the size of the images.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The device, or its driver.
    #[error("CUDA: {0}")]
    Cuda(#[from] CudaError),
    /// The memory of the device.
    #[error("a step of {batch} images needs {} MiB of GPU memory, {} MiB are free; {}", bytes >> 20, free >> 20, advice(*fits))]
    Memory {
        /// Images of a step.
        batch: usize,
        /// Bytes needed.
        bytes: usize,
        /// Bytes that are free.
        free: usize,
        /// The most images that would fit.
        fits: Option<usize>,
    },
    /// A network that the kernels cannot train.
    #[error("{0}")]
    Unfit(String),
    /// The other ranks.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// Images or gradients of the wrong length.
    #[error("the {what} of a step have {found} values, expected {expected}")]
    Length {
        /// What.
        what: &'static str,
        /// Values given.
        found: usize,
        /// What was expected.
        expected: String,
    },
}

impl From<TrainingError> for EngineError {
    fn from(problem: TrainingError) -> Self {
        match problem {
            TrainingError::Graph(problem) => problem.into(),
            TrainingError::Cuda(problem) => problem.into(),
            other => Self::Cuda(other.to_string()),
        }
    }
}

fn advice(fits: Option<usize>) -> String {
    match fits {
        Some(1) => "a batch of 1 would fit".into(),
        Some(batch) => format!("batches of up to {batch} images would fit"),
        None => "not even one image would fit".into(),
    }
}
