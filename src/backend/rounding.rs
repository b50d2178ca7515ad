//! The rounding of int8 in a network of f32 (simulated quantization; Jacob et al., "Quantization and Training of Neural
//! Networks for Efficient Integer-Arithmetic-Only Inference", 2018). Forward it is what `quantise` does to kernels and
//! the engine to inputs, by the same functions. Backward gradients pass it unchanged (straight-through estimator; Bengio
//! et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013), but values that are clamped get none.

use super::cpu::rounding;
use super::custom_ops::{slice, tensor, with};
use crate::kernels::{InputSteps, quantize_kernel};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// The input of a layer in steps of its range.
pub(super) struct RoundInput(pub InputSteps);

impl CustomOp1 for RoundInput {
    fn name(&self) -> &'static str {
        "secateurs-round-input"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(rounding::forward(slice(x, layout)?, self.0)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = with([x, &dy.contiguous()?], |[x, dy]| rounding::backward(x, dy, self.0))?;
        tensor(dx, x).map(Some)
    }
}

/// A kernel `[c_out, ...]` in steps of a scale for each output channel. No weight lies outside of its channel's range.
pub(super) struct RoundKernel;

impl CustomOp1 for RoundKernel {
    fn name(&self) -> &'static str {
        "secateurs-round-kernel"
    }

    fn cpu_fwd(&self, kernel: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut kernel = slice(kernel, layout)?.to_vec();
        quantize_kernel(&mut kernel, layout.dims()[0]);
        Ok((CpuStorage::F32(kernel), layout.shape().clone()))
    }

    fn bwd(&self, _kernel: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.clone()))
    }
}
