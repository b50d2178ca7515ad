//! Why the importance of channels cannot be measured.

use crate::engine::EngineError;
use crate::profile::Criterion;
use crate::ranks::RankError;
use crate::repair::PassError;
use crate::surgery::SurgeryError;
use thiserror::Error;

/// A measurement that failed.
#[derive(Debug, Error)]
pub enum ImportanceError {
    /// A network could not be run.
    #[error("importance: {0}")]
    Engine(#[from] EngineError),
    /// The criterion lacks what it reads.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A group could not be pruned.
    #[error("importance: {0}")]
    Surgery(#[from] SurgeryError),
    /// The ranks that share the work cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RankError),
}

impl From<PassError> for ImportanceError {
    fn from(problem: PassError) -> Self {
        match problem {
            PassError::Engine(problem) => Self::Engine(problem),
            PassError::Ranks(problem) => Self::Ranks(problem),
        }
    }
}

/// An estimate of the output sensitivity that failed.
#[derive(Debug, Error)]
pub enum SensitivityError {
    /// The tensor backend, or the ranks that have other images.
    #[error("tensor backend: {0}")]
    Backend(#[from] candle_core::Error),
    /// The network cannot be run on the device.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A criterion that cannot be computed: what it reads is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("importance `{}` needs {what}", criterion.name())]
pub struct Missing {
    /// The criterion.
    pub criterion: Criterion,
    /// What is missing.
    pub what: &'static str,
}
