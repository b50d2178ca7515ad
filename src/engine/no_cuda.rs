//! Stands in for [`cuda`](super::cuda) in programs that were built without the feature of that name.

use crate::kernels::cuda::{CudaError, Device};

/// Whether this program can use a CUDA device.
pub const HAS_CUDA: bool = false;

pub(super) fn open() -> Result<Device, CudaError> {
    Err(CudaError::NotBuilt)
}
