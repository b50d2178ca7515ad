//! Why the importance of channels cannot be measured.

use super::statistics::Missing;
use crate::engine::EngineError;
use crate::ranks::RankError;
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
