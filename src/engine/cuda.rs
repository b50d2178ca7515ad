//! The machine's own CUDA device, with the code that this program carries.

use crate::kernels::cuda::nccl::{Nccl, NcclError};
use crate::kernels::cuda::{CudaError, Device, code};
use std::path::Path;

/// Whether this program can use a CUDA device.
pub const HAS_CUDA: bool = true;

/// Names for the loader.
const DRIVER: &str = "libcuda.so.1";
const NCCL: &str = "libnccl.so.2";

/// Opens the machine's CUDA device of this number, counted from 0.
///
/// # Errors
/// If there is none, or it cannot run the code that this program carries.
pub fn open(ordinal: u32) -> Result<Device, CudaError> {
    Device::open(Path::new(DRIVER), code::fat_binary(), ordinal)
}

/// How many CUDA devices the machine has.
///
/// # Errors
/// If there is no driver.
pub fn count() -> Result<u32, CudaError> {
    Device::count(Path::new(DRIVER))
}

/// Opens NCCL, through which the devices of several ranks reach each other.
///
/// # Errors
/// If it is not there, or too old.
pub fn nccl() -> Result<Nccl, NcclError> {
    Nccl::open(Path::new(NCCL))
}
