//! The machine's own CUDA device, with the code that this program carries.

use crate::kernels::cuda::{CudaError, Device, code};
use std::path::Path;

/// Whether this program can use a CUDA device.
pub const HAS_CUDA: bool = true;

/// The driver's name for the loader.
const DRIVER: &str = "libcuda.so.1";

/// Opens the machine's CUDA device of this number, counted from 0.
///
/// # Errors
/// If there is none, or it cannot run the code that this program carries.
pub fn open(ordinal: u32) -> Result<Device, CudaError> {
    Device::open(Path::new(DRIVER), code::fat_binary(), ordinal)
}
