//! Why a network cannot be repaired, or what its layers read cannot be gathered.

use crate::engine::EngineError;
use crate::ranks::RankError;
use crate::training::TrainingError;
use thiserror::Error;

/// A repair that failed.
#[derive(Debug, Error)]
pub enum RepairError {
    /// A layer could not be run.
    #[error("repair: {0}")]
    Engine(#[from] EngineError),
    /// There is nothing to calibrate with.
    #[error("repair needs calibration images, none were given")]
    NoImages,
    /// The normal equations could not be solved.
    #[error(
        "repair of layer `{layer}`: the normal equations have no solution; use a larger ridge or more calibration images"
    )]
    Singular {
        /// Name of the convolution.
        layer: String,
    },
    /// The ranks that have other images cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RankError),
}

/// A pass through the calibration images that failed.
#[derive(Debug, Error)]
pub enum PassError {
    /// A layer could not be run, or its second moments not be added up.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The ranks that have other images cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RankError),
}

impl From<TrainingError> for PassError {
    fn from(problem: TrainingError) -> Self {
        Self::Engine(problem.into())
    }
}

impl From<PassError> for RepairError {
    fn from(problem: PassError) -> Self {
        match problem {
            PassError::Engine(problem) => Self::Engine(problem),
            PassError::Ranks(problem) => Self::Ranks(problem),
        }
    }
}
