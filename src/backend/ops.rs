//! Operations for callers of the backend.

use super::custom_ops;
use candle_core::{Result, Tensor};

/// Multiplies every channel of `x` `[N, C, H, W]` by its factor in `mask` `[N, C, 1, 1]`; gradients reach both.
///
/// # Errors
/// If the shapes do not fit, and those of candle.
pub fn channel_scale(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (n, c, _, _) = x.dims4()?;
    if mask.dims() != [n, c, 1, 1] {
        candle_core::bail!("a mask of shape {:?} for a tensor of shape {:?}", mask.shape(), x.shape());
    }
    x.contiguous()?.apply_op2(&mask.contiguous()?, custom_ops::ChannelScale)
}
