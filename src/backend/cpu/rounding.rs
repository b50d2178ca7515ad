//! The inputs of layers that compute in int8, rounded as there.

use super::lanes;
use crate::kernels::InputSteps;
use rayon::prelude::*;

/// Values that a thread takes at a time.
const PART: usize = 1 << 15;

/// What int8 computes with in place of `x`.
pub fn forward(x: &[f32], steps: InputSteps) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(y, x)| lanes::rounded(steps, x, y));
    y
}

/// The gradient by `x` as if nothing were rounded: that of the outputs inside the range, 0 where values are clamped.
pub fn backward(x: &[f32], dy: &[f32], steps: InputSteps) -> Vec<f32> {
    let mut dx = vec![0.0; x.len()];
    let parts = dx.par_chunks_mut(PART).zip(x.par_chunks(PART).zip(dy.par_chunks(PART)));
    parts.for_each(|(dx, (x, dy))| lanes::rounded_dx(steps, x, dy, dx));
    dx
}
