//! The operations composed of candle's, which tests hold our own against, and the few that need none of our own. It uses
//! only those whose gradients are right: candle's max-pooling and nearest-neighbour upsampling are not among them.

use crate::graph::{Activation, Conv, ConvTranspose};
use candle_core::{Result, Tensor};

pub(super) fn conv(x: &Tensor, weight: &Tensor, conv: &Conv) -> Result<Tensor> {
    let Conv { kernel, stride, padding, .. } = *conv;
    let (_, c, h, w) = x.dims4()?;
    let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
    if conv.groups == 1 {
        // The pixels that the last window does not reach. Candle's gradient takes their number from the height for both
        // sides.
        let spare = |n: usize| (n + 2 * padding - kernel) % stride;
        if spare(h) == spare(w) {
            return x.conv2d(weight, padding, stride, 1, 1);
        }
        let x = x.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
        let reached = |n: usize| n + 2 * padding - spare(n);
        let x = x.narrow(2, 0, reached(h))?.narrow(3, 0, reached(w))?.contiguous()?;
        return x.conv2d(weight, 0, stride, 1, 1);
    }
    // Depthwise: candle would launch one convolution per channel.
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

/// All squares by one matrix product, then each where it belongs.
pub(super) fn conv_transpose(x: &Tensor, weight: &Tensor, conv: &ConvTranspose) -> Result<Tensor> {
    let (n, c_in, h, w) = x.dims4()?;
    let (f, c_out) = (conv.factor, conv.c_out);
    let rows = weight.permute((1, 2, 3, 0))?.contiguous()?.reshape((1, c_out * f * f, c_in))?;
    let squares = rows.broadcast_matmul(&x.contiguous()?.reshape((n, c_in, h * w))?)?;
    let squares = squares.reshape(&[n, c_out, f, f, h, w][..])?.permute([0, 1, 4, 2, 5, 3])?.contiguous()?;
    squares.reshape((n, c_out, h * f, w * f))
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

/// The mean of shifted views.
pub(super) fn avg_pool(x: &Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    let mut x = x.clone();
    for axis in [2, 3] {
        let count = (x.dim(axis)? - kernel) / stride + 1;
        // What the last view's stride reaches beyond the edge is not used.
        let padded = x.pad_with_zeros(axis, 0, stride - 1)?;
        let mut sum = strided(&padded, axis, 0, count, stride)?;
        for shift in 1..kernel {
            sum = (sum + strided(&padded, axis, shift, count, stride)?)?;
        }
        x = (sum / kernel as f64)?;
    }
    Ok(x)
}

pub(super) fn upsample(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (n, c, h, w) = x.dims4()?;
    let wide = x.reshape((n, c, h, 1, w, 1))?.broadcast_as((n, c, h, factor, w, factor))?.contiguous()?;
    wide.reshape((n, c, h * factor, w * factor))
}

/// Mean and biased variance per channel, `[1, C, 1, 1]`.
pub(super) fn moments(x: &Tensor) -> Result<[Tensor; 2]> {
    let mean = x.mean_keepdim((0, 2, 3))?;
    let var = x.broadcast_sub(&mean)?.sqr()?.mean_keepdim((0, 2, 3))?;
    Ok([mean, var])
}

/// Normalisation with given moments `[1, C, 1, 1]`; gradients pass through them.
pub(super) fn norm(x: &Tensor, [mean, var]: &[Tensor; 2], eps: f32, gamma: &Tensor, beta: &Tensor) -> Result<Tensor> {
    let shape = mean.shape();
    let scale = (gamma.reshape(shape)? / (var + f64::from(eps))?.sqrt()?)?;
    x.broadcast_sub(mean)?.broadcast_mul(&scale)?.broadcast_add(&beta.reshape(shape)?)
}

pub(super) fn activate(act: Activation, x: &Tensor) -> Result<Tensor> {
    match act {
        Activation::Identity => Ok(x.clone()),
        Activation::Relu => x.relu(),
        Activation::Silu => x.silu(),
    }
}
