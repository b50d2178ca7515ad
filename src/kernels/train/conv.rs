//! Convolution as matrix products per image; depthwise convolution plane by plane.

use super::lanes;
use crate::graph::Conv;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// The geometry of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
    /// Whether every channel is convolved by itself.
    pub depthwise: bool,
}

/// Gradients of a convolution; empty where they were not asked for.
#[derive(Debug, Default)]
pub struct Gradients {
    /// Of the input `[N, c_in, H, W]`.
    pub input: Vec<f32>,
    /// Of the kernel `[c_out, c_in / groups, k, k]`.
    pub kernel: Vec<f32>,
}

impl Geometry {
    /// The geometry of a layer.
    pub fn of(conv: &Conv) -> Self {
        let Conv { c_in, c_out, kernel, stride, padding, groups, .. } = *conv;
        Self { c_in, c_out, kernel, stride, padding, depthwise: groups > 1 }
    }

    /// Outputs along a side of `n` inputs.
    pub fn side(&self, n: usize) -> usize {
        (n + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Output positions of an `h` x `w` image.
    pub fn area(&self, h: usize, w: usize) -> usize {
        self.side(h) * self.side(w)
    }

    /// Rows of the patch matrix.
    fn rows(&self) -> usize {
        self.c_in * self.kernel * self.kernel
    }

    /// Whether the image is its own patch matrix.
    fn plain(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    /// For an offset inside the window: the outputs `from..to` whose input is inside `0..n`.
    fn valid(&self, offset: usize, n: usize) -> (usize, usize) {
        let from = self.padding.saturating_sub(offset).div_ceil(self.stride);
        let to = (n + self.padding).saturating_sub(offset).div_ceil(self.stride).min(self.side(n));
        (from, to.max(from))
    }

    /// Calls `visit(row of the patch matrix, first output, first input, count)` for every run of outputs whose inputs
    /// are inside the image; input positions advance by the stride.
    #[inline(always)]
    pub(super) fn runs(
        &self,
        (h, w): (usize, usize),
        channel: usize,
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) {
        let ow = self.side(w);
        for ky in 0..self.kernel {
            let (y0, y1) = self.valid(ky, h);
            for kx in 0..self.kernel {
                let (x0, x1) = self.valid(kx, w);
                if x0 == x1 {
                    continue;
                }
                let row = (channel * self.kernel + ky) * self.kernel + kx;
                for oy in y0..y1 {
                    let input = (oy * self.stride + ky - self.padding) * w + x0 * self.stride + kx - self.padding;
                    visit(row, oy * ow + x0, input, x1 - x0);
                }
            }
        }
    }
}

fn rows(data: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, rows, columns)
}

fn rows_mut(data: &mut [f32], rows: usize, columns: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(data, rows, columns)
}

/// The patch matrix `[c_in * k * k, area]` of an image.
fn patches<'a>(g: &Geometry, x: &'a [f32], (h, w): (usize, usize), scratch: &'a mut Vec<f32>) -> &'a [f32] {
    if g.plain() {
        return x;
    }
    let area = g.area(h, w);
    scratch.clear();
    scratch.resize(g.rows() * area, 0.0);
    for (channel, x) in x.chunks_exact(h * w).enumerate() {
        g.runs((h, w), channel, |row, out, input, count| {
            let to = &mut scratch[row * area + out..][..count];
            if g.stride == 1 {
                to.copy_from_slice(&x[input..input + count]);
            } else {
                to.iter_mut().zip(x[input..].iter().step_by(g.stride)).for_each(|(to, x)| *to = *x);
            }
        });
    }
    scratch
}

/// The outputs `[N, c_out, oh, ow]` for images `[N, c_in, h, w]` and a kernel `[c_out, c_in / groups, k, k]`.
pub fn forward(g: &Geometry, x: &[f32], kernel: &[f32], (h, w): (usize, usize)) -> Vec<f32> {
    let (area, n) = (g.area(h, w), x.len() / (g.c_in * h * w));
    let mut y = vec![0.0; n * g.c_out * area];
    if g.depthwise {
        let taps = g.kernel * g.kernel;
        y.par_chunks_exact_mut(area).zip(x.par_chunks_exact(h * w)).enumerate().for_each(|(i, (y, x))| {
            lanes::depthwise(g, (h, w), &kernel[i % g.c_out * taps..][..taps], x, y);
        });
        return y;
    }
    let images = y.par_chunks_exact_mut(g.c_out * area).zip(x.par_chunks_exact(g.c_in * h * w));
    images.for_each_init(Vec::new, |scratch, (y, x)| {
        let patches = rows(patches(g, x, (h, w), scratch), g.rows(), area);
        matmul(rows_mut(y, g.c_out, area), Accum::Replace, rows(kernel, g.c_out, g.rows()), patches, 1.0, Par::Seq);
    });
    y
}

/// The gradients for those of the outputs, `dy` `[N, c_out, oh, ow]`; `wanted` is input, kernel.
pub fn backward(
    g: &Geometry,
    x: &[f32],
    kernel: &[f32],
    dy: &[f32],
    (h, w): (usize, usize),
    wanted: [bool; 2],
) -> Gradients {
    let [want_input, want_kernel] = wanted;
    let mut dx = vec![0.0; if want_input { x.len() } else { 0 }];
    let mut dk = vec![0.0; if want_kernel { kernel.len() } else { 0 }];
    // A depthwise convolution goes plane by plane, any other image by image.
    let inner = if g.depthwise { h * w } else { g.c_in * h * w };
    let outer = if g.depthwise { g.area(h, w) } else { g.c_out * g.area(h, w) };
    let mut into: Vec<&mut [f32]> = dx.chunks_exact_mut(inner).collect();
    into.resize_with(x.len() / inner, Default::default); // empty where the input's is not wanted
    let parts = into.into_par_iter().zip(x.par_chunks_exact(inner)).zip(dy.par_chunks_exact(outer)).enumerate();
    let parts: Vec<Vec<f32>> = parts
        .map_init(Scratch::default, |scratch, (i, ((dx, x), dy))| {
            if g.depthwise {
                let taps = g.kernel * g.kernel;
                let mut part = vec![0.0; if want_kernel { taps } else { 0 }];
                if want_kernel {
                    lanes::depthwise_dw(g, (h, w), x, dy, &mut part);
                }
                if want_input {
                    lanes::depthwise_dx(g, (h, w), &kernel[i % g.c_out * taps..][..taps], dy, dx);
                }
                return part;
            }
            image(g, x, kernel, dy, (h, w), dx, wanted, scratch)
        })
        .collect();
    if want_kernel {
        for (i, part) in parts.iter().enumerate() {
            let at = i * part.len() % dk.len();
            lanes::accumulate(part, &mut dk[at..at + part.len()]);
        }
    }
    Gradients { input: dx, kernel: dk }
}

/// Patch matrices, kept from image to image.
#[derive(Default)]
struct Scratch {
    patches: Vec<f32>,
    gradient: Vec<f32>,
}

/// One image's part of the gradients: the kernel's is returned.
#[expect(clippy::too_many_arguments, reason = "the three tensors of a convolution with their places")]
fn image(
    g: &Geometry,
    x: &[f32],
    kernel: &[f32],
    dy: &[f32],
    (h, w): (usize, usize),
    dx: &mut [f32],
    [want_input, want_kernel]: [bool; 2],
    scratch: &mut Scratch,
) -> Vec<f32> {
    let (k, area) = (g.rows(), g.area(h, w));
    let dy = rows(dy, g.c_out, area);
    let mut dk = Vec::new();
    if want_kernel {
        dk.resize(g.c_out * k, 0.0);
        let patches = rows(patches(g, x, (h, w), &mut scratch.patches), k, area);
        matmul(rows_mut(&mut dk, g.c_out, k), Accum::Replace, dy, patches.transpose(), 1.0, Par::Seq);
    }
    if want_input {
        let kernel = rows(kernel, g.c_out, k).transpose();
        if g.plain() {
            matmul(rows_mut(dx, k, area), Accum::Replace, kernel, dy, 1.0, Par::Seq);
        } else {
            scratch.gradient.resize(k * area, 0.0);
            matmul(rows_mut(&mut scratch.gradient, k, area), Accum::Replace, kernel, dy, 1.0, Par::Seq);
            lanes::add_patches(g, (h, w), &scratch.gradient, dx);
        }
    }
    dk
}
