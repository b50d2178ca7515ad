//! Operations for callers of the backend.

use super::conv::{slice, with};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Multiplies every channel of `x` `[N, C, H, W]` by its factor in `mask` `[N, C, 1, 1]`; gradients reach both.
///
/// # Errors
/// If the shapes do not fit, and those of candle.
pub fn channel_scale(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (n, c, _, _) = x.dims4()?;
    if mask.dims() != [n, c, 1, 1] {
        candle_core::bail!("a mask of shape {:?} for a tensor of shape {:?}", mask.shape(), x.shape());
    }
    if x.device().is_cpu() {
        x.contiguous()?.apply_op2(&mask.contiguous()?, ChannelScale)
    } else {
        x.broadcast_mul(mask)
    }
}

struct ChannelScale;

impl CustomOp2 for ChannelScale {
    fn name(&self) -> &'static str {
        "secateurs-channel-scale"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, mask: &CpuStorage, lm: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, _, h, w) = lx.shape().dims4()?;
        let mut y = slice(x, lx)?.to_vec();
        y.par_chunks_exact_mut(h * w)
            .zip(slice(mask, lm)?)
            .for_each(|(y, factor)| y.iter_mut().for_each(|y| *y *= factor));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, mask: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, c, h, w) = x.dims4()?;
        let dy = dy.contiguous()?;
        let product = |(x, dy): (&[f32], &[f32])| x.iter().zip(dy).map(|(x, d)| f64::from(x * d)).sum::<f64>() as f32;
        let d_mask: Vec<f32> = with(x, |x| {
            with(&dy, |dy| x.par_chunks_exact(h * w).zip(dy.par_chunks_exact(h * w)).map(product).collect())
        })??;
        let dx = if x.track_op() { Some(channel_scale(&dy, &mask.detach())?.detach()) } else { None };
        Ok((dx, Some(Tensor::from_vec(d_mask, (n, c, 1, 1), x.device())?)))
    }
}
