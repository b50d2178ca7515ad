//! Stands in for [`cuda`](super::cuda) in the tests of this crate: the emulated driver of `tests/cuda`.

use crate::kernels::cuda::{CudaError, Device, emulated};

/// No program finds the emulated driver by itself.
pub const HAS_CUDA: bool = false;

pub(super) fn open() -> Result<Device, CudaError> {
    emulated::device().ok_or(CudaError::NotBuilt)
}
