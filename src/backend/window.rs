//! Max-pooling and nearest enlargement on the CPU as candle operations.

use super::conv::{slice, with};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Maximum over a window; padding never wins. The gradient goes to the first largest value.
pub(super) struct MaxPool {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl MaxPool {
    fn side(&self, n: usize) -> usize {
        (n + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// For every output of a plane, the position of its maximum.
    fn winners(&self, x: &[f32], (h, w): (usize, usize)) -> Vec<usize> {
        let range = |o: usize, n: usize| {
            let from = (o * self.stride).saturating_sub(self.padding);
            from..(o * self.stride + self.kernel).saturating_sub(self.padding).min(n)
        };
        let mut winners = Vec::with_capacity(self.side(h) * self.side(w));
        for oy in 0..self.side(h) {
            for ox in 0..self.side(w) {
                let cells = range(oy, h).flat_map(|y| range(ox, w).map(move |x| y * w + x));
                let best = cells.reduce(|best, at| if x[at] > x[best] { at } else { best });
                winners.push(best.unwrap_or(0));
            }
        }
        winners
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "secateurs-max-pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let x = slice(x, layout)?;
        let (oh, ow) = (self.side(h), self.side(w));
        let mut y = vec![0.0; n * c * oh * ow];
        y.par_chunks_exact_mut(oh * ow).zip(x.par_chunks_exact(h * w)).for_each(|(y, x)| {
            y.iter_mut().zip(self.winners(x, (h, w))).for_each(|(y, at)| *y = x[at]);
        });
        Ok((CpuStorage::F32(y), Shape::from((n, c, oh, ow))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (n, c, h, w) = x.dims4()?;
        let area = self.side(h) * self.side(w);
        let mut dx = vec![0.0; n * c * h * w];
        let dy = dy.contiguous()?;
        with(x, |x| {
            with(&dy, |dy| {
                let planes = dx.par_chunks_exact_mut(h * w).zip(x.par_chunks_exact(h * w));
                planes.zip(dy.par_chunks_exact(area)).for_each(|((dx, x), dy)| {
                    self.winners(x, (h, w)).into_iter().zip(dy).for_each(|(at, d)| dx[at] += d);
                });
            })
        })??;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Repeats every value `factor` times in both directions.
pub(super) struct Upsample {
    pub factor: usize,
}

impl CustomOp1 for Upsample {
    fn name(&self) -> &'static str {
        "secateurs-upsample"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, h, w) = layout.shape().dims4()?;
        let (f, x) = (self.factor, slice(x, layout)?);
        let mut y = vec![0.0; n * c * h * w * f * f];
        y.par_chunks_exact_mut(w * f).enumerate().for_each(|(row, y)| {
            let x = &x[row / f * w..][..w];
            y.chunks_exact_mut(f).zip(x).for_each(|(y, x)| y.fill(*x));
        });
        Ok((CpuStorage::F32(y), Shape::from((n, c, h * f, w * f))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, _, w) = x.dims4()?;
        let f = self.factor;
        let mut dx = vec![0.0; x.elem_count()];
        with(&dy.contiguous()?, |dy| {
            dx.par_chunks_exact_mut(w).zip(dy.par_chunks_exact(w * f * f)).for_each(|(dx, dy)| {
                for row in dy.chunks_exact(w * f) {
                    dx.iter_mut().zip(row.chunks_exact(f)).for_each(|(dx, dy)| *dx += dy.iter().sum::<f32>());
                }
            });
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
