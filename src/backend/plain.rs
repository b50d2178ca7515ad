//! The operations composed of candle's, for devices without operations of our own. Only such are used whose gradients
//! are right: candle's own max-pooling and nearest enlargement are not among them.

use super::norm::{Moments, NormOp};
use crate::graph::{Activation, Conv};
use candle_core::{Result, Tensor};

pub(super) fn conv(x: &Tensor, weight: &Tensor, conv: &Conv) -> Result<Tensor> {
    let Conv { kernel, stride, padding, .. } = *conv;
    if conv.groups == 1 {
        return x.conv2d(weight, padding, stride, 1, 1);
    }
    // Depthwise: candle would launch one convolution per channel.
    let (_, c, h, w) = x.dims4()?;
    let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
    let x = x.pad_with_zeros(2, padding, padding + stride)?.pad_with_zeros(3, padding, padding + stride)?;
    let mut sum: Option<Tensor> = None;
    for (dy, dx) in (0..kernel).flat_map(|dy| (0..kernel).map(move |dx| (dy, dx))) {
        let view = strided(&strided(&x, 2, dy, side(h), stride)?, 3, dx, side(w), stride)?;
        let factor = weight.narrow(2, dy, 1)?.narrow(3, dx, 1)?.reshape((1, c, 1, 1))?;
        let term = view.broadcast_mul(&factor)?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.ok_or_else(|| candle_core::Error::Msg("an empty kernel".into()))
}

/// Every `stride`-th entry of an axis from `start` on; the axis must reach `start + count * stride`.
fn strided(x: &Tensor, axis: usize, start: usize, count: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return x.narrow(axis, start, count);
    }
    let mut shape = x.dims().to_vec();
    shape[axis] = count;
    shape.insert(axis + 1, stride);
    x.narrow(axis, start, count * stride)?.contiguous()?.reshape(shape)?.narrow(axis + 1, 0, 1)?.squeeze(axis + 1)
}

/// The maximum of shifted views; what lies outside never wins.
pub(super) fn max_pool(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let mut x = x.clone();
    for axis in [2, 3] {
        let count = (x.dim(axis)? + 2 * padding - kernel) / stride + 1;
        let lowest = |len: usize| {
            let mut shape = x.dims().to_vec();
            shape[axis] = len;
            Tensor::full(f32::MIN, shape, x.device())
        };
        let padded = Tensor::cat(&[&lowest(padding.max(1))?, &x, &lowest(padding + stride)?], axis)?;
        let first = padding.max(1) - padding;
        let mut best = strided(&padded, axis, first, count, stride)?;
        for shift in 1..kernel {
            best = best.maximum(&strided(&padded, axis, first + shift, count, stride)?)?;
        }
        x = best;
    }
    Ok(x)
}

pub(super) fn upsample(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let wide = x.reshape((n, c, h, 1, w, 1))?.broadcast_as((n, c, h, factor, w, factor))?.contiguous()?;
    wide.reshape((n, c, h * factor, w * factor))
}

/// As [`NormOp`]; leaves the moments of the batch where that does.
pub(super) fn norm(x: &Tensor, gamma: &Tensor, beta: &Tensor, op: &NormOp) -> Result<Tensor> {
    let c = gamma.elem_count();
    let shape = (1, c, 1, 1);
    let (mean, var) = match op.moments.get() {
        Some(Moments { mean, var }) => {
            let tensor = |values: &[f32]| Tensor::from_slice(values, shape, x.device());
            (tensor(mean)?, tensor(var)?)
        }
        None => {
            let mean = x.mean_keepdim((0, 2, 3))?;
            let var = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim((0, 2, 3))?;
            let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
            let moments = Moments { mean: values(&mean)?, var: values(&var)? };
            op.moments.get_or_init(|| moments);
            (mean, var)
        }
    };
    let scale = (gamma.reshape(shape)? / (var + f64::from(op.eps))?.sqrt()?)?;
    let y = x.broadcast_sub(&mean)?.broadcast_mul(&scale)?.broadcast_add(&beta.reshape(shape)?)?;
    match op.act {
        Activation::Identity => Ok(y),
        Activation::Relu => y.relu(),
        Activation::Silu => y.silu(),
    }
}
