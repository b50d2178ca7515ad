//! Stands in for [`cuda`](super::cuda) in programs that were built without the feature of that name.

use super::compile::Program;
use super::{EngineError, Options, StepTime};
use crate::model::Model;

/// Whether this program can use a CUDA device.
pub const HAS_CUDA: bool = false;

/// A network on a CUDA device, of which this program makes none.
pub(super) enum Network {}

impl Network {
    pub fn run(&mut self, _: &[f32], _: &mut [f32]) -> Result<(), EngineError> {
        match *self {}
    }

    pub fn profile(&mut self, _: &[f32], _: &mut [f32]) -> Result<Vec<StepTime>, EngineError> {
        match *self {}
    }
}

/// Name and compute capability of the CUDA device that networks would run on.
///
/// # Errors
/// Always: this program has no code for one.
pub fn cuda_device() -> Result<String, EngineError> {
    Err(EngineError::Cuda("this program was built without the feature `cuda`".into()))
}

pub(super) fn network(_: &Model, _: usize, _: usize, _: &Options) -> Result<(Program, Network), EngineError> {
    cuda_device().and_then(|name| Err(EngineError::Cuda(name)))
}
