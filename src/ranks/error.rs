//! Why ranks cannot work together.

use crate::kernels::cuda::CudaError;
use crate::kernels::cuda::nccl::NcclError;
use thiserror::Error;

/// Ranks that cannot be joined or reached.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RankError {
    /// A launcher has started several processes, and this program has no way to reach the others.
    #[error(
        "{launcher} has started {size} processes of this program, which cannot reach each other: it was built without \
         `--features mpi`; build it so, start one process, or train on GPUs, which reach each other by NCCL"
    )]
    NotBuilt {
        /// Who started them.
        launcher: &'static str,
        /// How many.
        size: usize,
    },
    /// The launcher and the message passing library disagree.
    #[error("{launcher} has started {size} processes, of which MPI reaches {reached}: {advice}")]
    Apart {
        /// Who started them.
        launcher: &'static str,
        /// How many.
        size: usize,
        /// How many of them the library knows.
        reached: usize,
        /// What to do about it.
        advice: &'static str,
    },
    /// The launcher's environment makes no sense.
    #[error("{variable}={value}: expected {expected}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A launcher has started several processes and does not say where they meet.
    #[error(
        "{launcher} has started {size} processes of this program, and does not say where they meet: set MASTER_ADDR to a \
         name or address of the first one's machine, and MASTER_PORT to a free port there"
    )]
    Nowhere {
        /// Who started them.
        launcher: &'static str,
        /// How many.
        size: usize,
    },
    /// NCCL does not know where ranks meet, which it reads from the environment that the process started with.
    #[error("NCCL is not told where the processes meet: start them with {variable}={meeting}")]
    Untold {
        /// The variable.
        variable: &'static str,
        /// What the launcher says.
        meeting: String,
    },
    /// The GPUs of the ranks cannot reach each other.
    #[error(transparent)]
    Gpus(#[from] NcclError),
    /// The message passing library cannot be used.
    #[error("MPI: {0}")]
    Library(&'static str),
    /// Something that the ranks have found cannot be sent.
    #[error("what a rank has found cannot be sent: {0}")]
    Unsent(String),
    /// A rank has ended.
    #[error("rank {0} has ended")]
    Lost(usize),
}

impl From<CudaError> for RankError {
    fn from(error: CudaError) -> Self {
        Self::Gpus(error.into())
    }
}
