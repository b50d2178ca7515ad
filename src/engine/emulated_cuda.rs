//! Stands in for [`cuda`](super::cuda) in the tests of this crate: the emulated driver of `tests/cuda`.

use crate::kernels::cuda::nccl::{Nccl, NcclError};
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

/// How many CUDA devices the machine has.
///
/// # Errors
/// If there is no driver.
pub fn count() -> Result<u32, CudaError> {
    Device::count(emulated::driver().ok_or(CudaError::NotBuilt)?)
}

/// Opens NCCL, through which the devices of several ranks reach each other.
///
/// # Errors
/// If it is not there, or too old.
pub fn nccl() -> Result<Nccl, NcclError> {
    emulated::nccl().transpose()?.ok_or(NcclError::Cuda(CudaError::NotBuilt))
}
