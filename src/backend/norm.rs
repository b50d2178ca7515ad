//! Batch normalisation and activation on the CPU as one candle operation.

use super::conv::{slice, with};
use crate::graph::Activation;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::OnceLock;

/// Mean and biased variance per channel.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub mean: Vec<f32>,
    pub var: Vec<f32>,
}

/// `act(gamma * (x - mean) / sqrt(var + eps) + beta)`, with the moments of the batch or with given ones.
pub(super) struct NormOp {
    pub act: Activation,
    pub eps: f32,
    /// Given moments, or those of the batch after the forward pass.
    pub moments: Arc<OnceLock<Moments>>,
    /// Whether the moments are those of the batch, so that gradients pass through them.
    pub batch: bool,
}

impl NormOp {
    fn moments(&self, x: &[f32], c: usize, area: usize) -> &Moments {
        self.moments.get_or_init(|| {
            let count = (x.len() / c) as f64;
            let channel = |channel: usize| {
                let planes = || x.chunks_exact(area).skip(channel).step_by(c);
                let mean = planes().map(|p| sum(p, |v| v)).sum::<f64>() / count;
                let shift = mean as f32;
                let var = planes().map(|p| sum(p, |v| (v - shift) * (v - shift))).sum::<f64>() / count;
                (shift, var as f32)
            };
            let (mean, var) = (0..c).into_par_iter().map(channel).unzip();
            Moments { mean, var }
        })
    }
}

/// Sum of a function of all values: strands of f32 over short runs, then f64.
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0f64;
    for run in values.chunks(1024) {
        let mut strands = [0.0f32; 8];
        let eight = run.chunks_exact(8);
        let rest: f32 = eight.remainder().iter().map(|v| f(*v)).sum();
        for values in eight {
            for i in 0..8 {
                strands[i] += f(values[i]);
            }
        }
        total += f64::from(strands.iter().sum::<f32>() + rest);
    }
    total
}

impl CustomOp3 for NormOp {
    fn name(&self) -> &'static str {
        "secateurs-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gamma: &CpuStorage,
        lg: &Layout,
        beta: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, c, h, w) = lx.shape().dims4()?;
        let (x, gamma, beta) = (slice(x, lx)?, slice(gamma, lg)?, slice(beta, lb)?);
        let moments = self.moments(x, c, h * w);
        let mut y = vec![0.0f32; x.len()];
        y.par_chunks_exact_mut(h * w).zip(x.par_chunks_exact(h * w)).enumerate().for_each(|(i, (y, x))| {
            let c = i % c;
            let scale = gamma[c] / (moments.var[c] + self.eps).sqrt();
            let shift = beta[c] - moments.mean[c] * scale;
            match self.act {
                Activation::Identity => y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale + shift),
                Activation::Relu => y.iter_mut().zip(x).for_each(|(y, x)| *y = (x * scale + shift).max(0.0)),
                Activation::Silu => y.iter_mut().zip(x).for_each(|(y, x)| {
                    let z = x * scale + shift;
                    *y = z * sigmoid(z);
                }),
            }
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (n, c, h, w) = x.dims4()?;
        let (area, count) = (h * w, (n * h * w) as f64);
        let dy = dy.contiguous()?;
        let mut dx = vec![0.0f32; n * c * area];
        let (mut d_gamma, mut d_beta) = (vec![0.0f32; c], vec![0.0f32; c]);
        with(gamma, |gamma| {
            with(beta, |beta| {
                with(x, |x| {
                    with(&dy, |dy| {
                        let moments = self.moments(x, c, area);
                        let inverse: Vec<f32> = moments.var.iter().map(|v| 1.0 / (v + self.eps).sqrt()).collect();
                        // First the gradient before the activation, and its sums per plane.
                        let planes =
                            dx.par_chunks_exact_mut(area).zip(x.par_chunks_exact(area)).zip(dy.par_chunks_exact(area));
                        let sums: Vec<[f64; 2]> = planes
                            .enumerate()
                            .map(|(i, ((dz, x), dy))| {
                                let c = i % c;
                                let (scale, mean) = (gamma[c] * inverse[c], moments.mean[c]);
                                let shift = beta[c] - mean * scale;
                                let slope = |z: f32| match self.act {
                                    Activation::Identity => 1.0,
                                    Activation::Relu => {
                                        if z > 0.0 {
                                            1.0
                                        } else {
                                            0.0
                                        }
                                    }
                                    Activation::Silu => {
                                        let s = sigmoid(z);
                                        s * (1.0 + z * (1.0 - s))
                                    }
                                };
                                dz.iter_mut()
                                    .zip(x)
                                    .zip(dy)
                                    .for_each(|((dz, x), dy)| *dz = dy * slope(x * scale + shift));
                                let mut with_x = 0.0f64;
                                for (dz, x) in dz.chunks(1024).zip(x.chunks(1024)) {
                                    let mut strands = [0.0f32; 8];
                                    for (dz, x) in dz.chunks(8).zip(x.chunks(8)) {
                                        for (s, (dz, x)) in strands.iter_mut().zip(dz.iter().zip(x)) {
                                            *s += dz * (x - mean);
                                        }
                                    }
                                    with_x += f64::from(strands.iter().sum::<f32>());
                                }
                                [sum(dz, |v| v), with_x * f64::from(inverse[c])]
                            })
                            .collect();
                        for c_at in 0..c {
                            let [mut plain, mut with_x] = [0.0f64; 2];
                            for s in sums.iter().skip(c_at).step_by(c) {
                                plain += s[0];
                                with_x += s[1];
                            }
                            d_beta[c_at] = plain as f32;
                            d_gamma[c_at] = with_x as f32;
                        }
                        // Then the gradient of the input.
                        dx.par_chunks_exact_mut(area).zip(x.par_chunks_exact(area)).enumerate().for_each(
                            |(i, (dx, x))| {
                                let c = i % c;
                                let scale = gamma[c] * inverse[c];
                                if !self.batch {
                                    dx.iter_mut().for_each(|d| *d *= scale);
                                    return;
                                }
                                let mean_dz = (f64::from(d_beta[c]) / count) as f32;
                                let slope = (f64::from(d_gamma[c]) / count) as f32 * inverse[c];
                                let mean = moments.mean[c];
                                dx.iter_mut()
                                    .zip(x)
                                    .for_each(|(d, x)| *d = scale * (*d - mean_dz - (x - mean) * slope));
                            },
                        );
                    })
                })
            })
        })????;
        let vector = |v: Vec<f32>| Tensor::from_vec(v, c, x.device());
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), Some(vector(d_gamma)?), Some(vector(d_beta)?)))
    }
}

/// Logistic function; no overflow for any finite value.
fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + exp(-z))
}

/// `e^x` by a polynomial on the fraction of the binary exponent (Cephes' expf), so that loops over it vectorise;
/// relative error below 2e-7 for |x| < 87.
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 0.166_666_65) * r
        + 0.5;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits((((n as i32) + 127) << 23) as u32)
}
