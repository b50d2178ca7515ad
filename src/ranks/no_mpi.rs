//! Stands in for [`mpi`](super::mpi) in programs that were built without the feature of that name.

use super::{Launched, RankError, Ranks};

/// Whether this program can work together with others.
pub const HAS_MPI: bool = false;

/// Joins the other processes.
///
/// # Errors
/// Always: that takes the feature `mpi`.
pub fn join(launched: &Launched) -> Result<Ranks, RankError> {
    Err(RankError::NotBuilt { launcher: launched.launcher, size: launched.size })
}
