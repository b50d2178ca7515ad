//! Convolution on the CPU as a candle operation: matrix products per image, images in parallel, both directions.
//!
//! Sums over images are made in the order of the images, so that the result does not depend on the number of threads.

use crate::graph::Conv;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// The geometry of a convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub c_in: usize,
    pub c_out: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub depthwise: bool,
}

impl Geometry {
    pub fn of(conv: &Conv) -> Self {
        let Conv { c_in, c_out, kernel, stride, padding, groups, .. } = *conv;
        Self { c_in, c_out, kernel, stride, padding, depthwise: groups > 1 }
    }

    fn side(&self, n: usize) -> usize {
        (n + 2 * self.padding - self.kernel) / self.stride + 1
    }

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
    fn runs(&self, (h, w): (usize, usize), channel: usize, mut visit: impl FnMut(usize, usize, usize, usize)) {
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

/// `y = w * x` for `x` `[N, c_in, H, W]` and `w` `[c_out, c_in / groups, k, k]`.
pub(super) struct ConvOp(pub Geometry);

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "secateurs-conv"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, _, h, wd) = lx.shape().dims4()?;
        let (x, w) = (slice(x, lx)?, slice(w, lw)?);
        let (oh, ow) = (self.0.side(h), self.0.side(wd));
        let y = forward(&self.0, x, w, n, (h, wd));
        Ok((CpuStorage::F32(y), Shape::from((n, self.0.c_out, oh, ow))))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, _, h, wd) = x.dims4()?;
        let want_dx = x.track_op();
        let dy = dy.contiguous()?;
        let (dx, dw) = with(x, |x| with(w, |w| with(&dy, |dy| backward(&self.0, x, w, dy, n, (h, wd), want_dx))))???;
        let dx = if want_dx { Some(Tensor::from_vec(dx, x.shape(), x.device())?) } else { None };
        Ok((dx, Some(Tensor::from_vec(dw, w.shape(), w.device())?)))
    }
}

/// The values of a contiguous f32 storage.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&values[from..to]),
        None => candle_core::bail!("a contiguous tensor is expected"),
    }
}

/// Calls `f` with the values of a contiguous CPU tensor.
pub(super) fn with<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => candle_core::bail!("a tensor on the CPU is expected"),
    }
}

fn rows(data: &[f32], rows: usize, columns: usize) -> MatRef<'_, f32> {
    MatRef::from_row_major_slice(data, rows, columns)
}

fn rows_mut(data: &mut [f32], rows: usize, columns: usize) -> MatMut<'_, f32> {
    MatMut::from_row_major_slice_mut(data, rows, columns)
}

fn forward(g: &Geometry, x: &[f32], w: &[f32], n: usize, (h, wd): (usize, usize)) -> Vec<f32> {
    let area = g.side(h) * g.side(wd);
    let mut y = vec![0.0; n * g.c_out * area];
    if g.depthwise {
        let taps = g.kernel * g.kernel;
        y.par_chunks_exact_mut(area).zip(x.par_chunks_exact(h * wd)).enumerate().for_each(|(i, (y, x))| {
            let w = &w[i % g.c_out * taps..][..taps];
            g.runs((h, wd), 0, |row, out, input, count| {
                let factor = w[row];
                let y = &mut y[out..out + count];
                if g.stride == 1 {
                    y.iter_mut().zip(&x[input..input + count]).for_each(|(y, x)| *y += factor * x);
                } else {
                    y.iter_mut().zip(x[input..].iter().step_by(g.stride)).for_each(|(y, x)| *y += factor * x);
                }
            });
        });
        return y;
    }
    let images = y.par_chunks_exact_mut(g.c_out * area).zip(x.par_chunks_exact(g.c_in * h * wd));
    images.for_each_init(Vec::new, |scratch, (y, x)| {
        let patches = patches(g, x, (h, wd), scratch);
        let (w, patches) = (rows(w, g.c_out, g.rows()), rows(patches, g.rows(), area));
        matmul(rows_mut(y, g.c_out, area), Accum::Replace, w, patches, 1.0, Par::Seq);
    });
    y
}

/// The patch matrix `[c_in * k * k, area]` of an image.
fn patches<'a>(g: &Geometry, x: &'a [f32], (h, w): (usize, usize), scratch: &'a mut Vec<f32>) -> &'a [f32] {
    if g.plain() {
        return x;
    }
    let area = g.side(h) * g.side(w);
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

/// Gradients of input and kernel.
fn backward(
    g: &Geometry,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    n: usize,
    (h, wd): (usize, usize),
    want_dx: bool,
) -> (Vec<f32>, Vec<f32>) {
    let area = g.side(h) * g.side(wd);
    let mut dx = vec![0.0; n * g.c_in * h * wd];
    if g.depthwise {
        let taps = g.kernel * g.kernel;
        let planes = dx.par_chunks_exact_mut(h * wd).zip(x.par_chunks_exact(h * wd)).zip(dy.par_chunks_exact(area));
        let parts: Vec<Vec<f32>> = planes
            .enumerate()
            .map(|(i, ((dx, x), dy))| {
                let w = &w[i % g.c_out * taps..][..taps];
                let mut dw = vec![0.0; taps];
                g.runs((h, wd), 0, |row, out, input, count| {
                    let (dy, factor) = (&dy[out..out + count], w[row]);
                    if g.stride == 1 {
                        let end = input + count;
                        dx[input..end].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += factor * dy);
                        dw[row] += dot(&x[input..end], dy);
                    } else {
                        dx[input..].iter_mut().step_by(g.stride).zip(dy).for_each(|(dx, dy)| *dx += factor * dy);
                        dw[row] += x[input..].iter().step_by(g.stride).zip(dy).map(|(x, dy)| x * dy).sum::<f32>();
                    }
                });
                dw
            })
            .collect();
        let mut dw = vec![0.0; g.c_out * taps];
        for parts in parts.chunks_exact(g.c_out) {
            dw.iter_mut().zip(parts.iter().flatten()).for_each(|(sum, part)| *sum += part);
        }
        return (dx, dw);
    }
    let (c_out, k) = (g.c_out, g.rows());
    let inputs = dx.par_chunks_exact_mut(g.c_in * h * wd).zip(x.par_chunks_exact(g.c_in * h * wd));
    let parts: Vec<Vec<f32>> = inputs
        .zip(dy.par_chunks_exact(c_out * area))
        .map_init(
            || (Vec::new(), Vec::new()),
            |(scratch, d_patches), ((dx, x), dy)| {
                let mut dw = vec![0.0; c_out * k];
                let patches = patches(g, x, (h, wd), scratch);
                let dy = rows(dy, c_out, area);
                matmul(
                    rows_mut(&mut dw, c_out, k),
                    Accum::Replace,
                    dy,
                    rows(patches, k, area).transpose(),
                    1.0,
                    Par::Seq,
                );
                if !want_dx {
                    return dw;
                }
                let w = rows(w, c_out, k).transpose();
                if g.plain() {
                    matmul(rows_mut(dx, k, area), Accum::Replace, w, dy, 1.0, Par::Seq);
                    return dw;
                }
                d_patches.resize(k * area, 0.0);
                matmul(rows_mut(d_patches, k, area), Accum::Replace, w, dy, 1.0, Par::Seq);
                for (channel, dx) in dx.chunks_exact_mut(h * wd).enumerate() {
                    g.runs((h, wd), channel, |row, out, input, count| {
                        let from = &d_patches[row * area + out..][..count];
                        if g.stride == 1 {
                            dx[input..input + count].iter_mut().zip(from).for_each(|(dx, d)| *dx += d);
                        } else {
                            dx[input..].iter_mut().step_by(g.stride).zip(from).for_each(|(dx, d)| *dx += d);
                        }
                    });
                }
                dw
            },
        )
        .collect();
    let mut dw = vec![0.0; c_out * k];
    for part in &parts {
        dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    (dx, dw)
}

/// Sum of products in eight strands.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}
