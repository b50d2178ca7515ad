//! Stands in for [`cuda`](super::cuda) in the tests of this crate: the emulated driver of `tests/cuda`.

use crate::kernels::cuda::{CudaError, Device, emulated};

/// No program finds the emulated driver by itself.
pub const HAS_CUDA: bool = false;

/// Opens the machine's CUDA device of this number, counted from 0.
///
/// # Errors
/// If there is none, or it cannot run the code that this program carries.
pub fn open(ordinal: u32) -> Result<Device, CudaError> {
    emulated::device_of(ordinal).transpose()?.ok_or(CudaError::NotBuilt)
}
