//! Networks on the machine's own CUDA device, with the code that this program carries.

pub(super) use super::gpu::Network;

use super::compile::Program;
use super::{EngineError, Options, gpu};
use crate::kernels::cuda::{CudaError, Device, code};
use crate::model::Model;
use std::path::Path;

/// Whether this program can use a CUDA device.
pub const HAS_CUDA: bool = true;

/// The driver's name for the loader.
const DRIVER: &str = "libcuda.so.1";

/// Name and compute capability of the CUDA device that networks would run on.
///
/// # Errors
/// If there is none, or it cannot run the code that this program carries: with the reason.
pub fn cuda_device() -> Result<String, EngineError> {
    let device = open()?;
    let (major, minor) = device.capability()?;
    Ok(format!("{} (compute capability {major}.{minor})", device.name()))
}

/// Makes a model ready for images of `height` x `width` on the device.
pub(super) fn network(
    model: &Model,
    height: usize,
    width: usize,
    options: &Options,
) -> Result<(Program, Network), EngineError> {
    let program = gpu::program(model, height, width, options)?;
    let network = Network::new(open()?, model, &program)?;
    Ok((program, network))
}

fn open() -> Result<Device, CudaError> {
    Device::open(Path::new(DRIVER), code::fat_binary())
}
