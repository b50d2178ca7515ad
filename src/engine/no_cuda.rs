//! Stands in for [`cuda`](super::cuda) in programs that were built without the feature of that name.

use crate::kernels::cuda::nccl::{Nccl, NcclError};
use crate::kernels::cuda::{CudaError, Device};

/// Whether this program can use a CUDA device.
pub const HAS_CUDA: bool = false;

/// Opens the machine's CUDA device of this number, counted from 0.
///
/// # Errors
/// If there is none, or it cannot run the code that this program carries.
pub fn open(_ordinal: u32) -> Result<Device, CudaError> {
    Err(CudaError::NotBuilt)
}

/// How many CUDA devices the machine has.
///
/// # Errors
/// Always: that takes the feature `cuda`.
pub fn count() -> Result<u32, CudaError> {
    Err(CudaError::NotBuilt)
}

/// Opens NCCL, through which the devices of several ranks reach each other.
///
/// # Errors
/// Always: that takes the feature `cuda`.
pub fn nccl() -> Result<Nccl, NcclError> {
    Err(CudaError::NotBuilt.into())
}
