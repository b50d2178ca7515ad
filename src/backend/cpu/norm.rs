//! Batch normalisation and activation: `y = act(gamma * (z - mean) / sqrt(var + eps) + beta)` (Ioffe and Szegedy 2015).

#![allow(unsafe_code)]

use super::lanes;
use crate::graph::Activation;
use rayon::prelude::*;

/// Mean and biased variance per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: Vec<f32>,
    /// Mean square of the distance from the mean.
    pub var: Vec<f32>,
}

/// The moments of `z` `[N, C, area]` over images and positions.
pub fn moments(z: &[f32], channels: usize, area: usize) -> Moments {
    let count = (z.len() / channels) as f64;
    let channel = |channel: usize| {
        let planes = || z.chunks_exact(area).skip(channel).step_by(channels);
        let mean = (planes().map(lanes::sum).sum::<f64>() / count) as f32;
        (mean, (planes().map(|p| lanes::squares(p, mean)).sum::<f64>() / count) as f32)
    };
    let (mean, var) = (0..channels).into_par_iter().map(channel).unzip();
    Moments { mean, var }
}

/// What is done to every channel: `act(scale * z + shift)`, with `scale = gamma * inverse`.
#[derive(Clone, Debug)]
pub struct Affine {
    act: Activation,
    gamma: Vec<f32>,
    mean: Vec<f32>,
    /// `1 / sqrt(var + eps)`.
    inverse: Vec<f32>,
    shift: Vec<f32>,
}

/// Gradients of an [`Affine`].
pub struct Gradients {
    /// Of `z`, in its shape.
    pub z: Vec<f32>,
    /// Of gamma, per channel.
    pub gamma: Vec<f32>,
    /// Of beta, per channel.
    pub beta: Vec<f32>,
}

impl Affine {
    /// Activation alone, on a number of channels.
    pub fn activation(act: Activation, channels: usize) -> Self {
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        Self { act, gamma: ones.clone(), mean: zeros.clone(), inverse: ones, shift: zeros }
    }

    /// Normalisation and activation.
    pub fn norm(act: Activation, moments: &Moments, eps: f32, gamma: &[f32], beta: &[f32]) -> Self {
        let inverse: Vec<f32> = moments.var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        let scale = gamma.iter().zip(&inverse).map(|(g, i)| g * i);
        let shift = beta.iter().zip(&moments.mean).zip(scale).map(|((b, m), s)| b - m * s).collect();
        Self { act, gamma: gamma.to_vec(), mean: moments.mean.clone(), inverse, shift }
    }

    fn scale(&self, channel: usize) -> f32 {
        self.gamma[channel] * self.inverse[channel]
    }

    /// `y` for `z` `[N, C, area]`.
    pub fn forward(&self, z: &[f32], area: usize) -> Vec<f32> {
        let mut y = Vec::with_capacity(z.len());
        let planes = y.spare_capacity_mut()[..z.len()].par_chunks_mut(area).zip(z.par_chunks(area));
        planes.enumerate().for_each(|(i, (y, z))| {
            let c = i % self.gamma.len();
            lanes::affine(self.act, self.scale(c), self.shift[c], z, y);
        });
        // SAFETY: every plane was written.
        unsafe { y.set_len(z.len()) };
        y
    }

    /// The gradients for `dy`; `batch` says that the moments are those of `z`, so that gradients pass through them.
    pub fn backward(&self, z: &[f32], dy: &[f32], area: usize, batch: bool) -> Gradients {
        assert_eq!(z.len(), dy.len());
        let channels = self.gamma.len();
        let count = (z.len() / channels) as f64;
        let mut dz = Vec::with_capacity(z.len());
        // First the gradient before the activation, and its sums per plane.
        let planes = dz.spare_capacity_mut()[..z.len()].par_chunks_mut(area);
        let planes = planes.zip(z.par_chunks(area)).zip(dy.par_chunks(area));
        let sums = planes.enumerate().map(|(i, ((dz, z), dy))| {
            let c = i % channels;
            let [plain, with_z] = lanes::affine_slopes(self.act, self.scale(c), self.shift[c], self.mean[c], z, dy, dz);
            [plain, with_z * f64::from(self.inverse[c])]
        });
        let sums: Vec<[f64; 2]> = sums.collect();
        // SAFETY: every plane was written, as there are as many gradients.
        unsafe { dz.set_len(z.len()) };
        let total = |which: usize| {
            let channel = |c: usize| sums.iter().skip(c).step_by(channels).map(|s| s[which]).sum::<f64>() as f32;
            (0..channels).map(channel).collect::<Vec<f32>>()
        };
        let (beta, gamma) = (total(0), total(1));
        // Then that of the input.
        dz.par_chunks_exact_mut(area).zip(z.par_chunks_exact(area)).enumerate().for_each(|(i, (dz, z))| {
            let c = i % channels;
            if !batch {
                let scale = self.scale(c);
                dz.iter_mut().for_each(|dz| *dz *= scale);
                return;
            }
            let [offset, slope] = [beta[c], gamma[c]].map(|s| (f64::from(s) / count) as f32);
            lanes::centred(self.scale(c), offset, self.mean[c], slope * self.inverse[c], z, dz);
        });
        Gradients { z: dz, gamma, beta }
    }
}

/// The sum of every channel of `values` `[N, C, area]`.
pub fn channel_sums(values: &[f32], channels: usize, area: usize) -> Vec<f32> {
    let planes = |c: usize| values.chunks_exact(area).skip(c).step_by(channels);
    (0..channels).into_par_iter().map(|c| planes(c).map(lanes::sum).sum::<f64>() as f32).collect()
}

/// Adds to every channel of `values` `[N, C, area]` its bias.
pub fn add_bias(values: &mut [f32], bias: &[f32], area: usize) {
    values.par_chunks_exact_mut(area).enumerate().for_each(|(i, plane)| {
        let bias = bias[i % bias.len()];
        plane.iter_mut().for_each(|v| *v += bias);
    });
}

/// Every plane of `x` `[planes, area]` times its factor.
pub fn scale_planes(x: &[f32], factors: &[f32], area: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let planes = y.par_chunks_exact_mut(area).zip(x.par_chunks_exact(area)).zip(factors);
    planes.for_each(|((y, x), factor)| lanes::scaled(*factor, x, y));
    y
}

/// The sum of the products of every plane of `a` and `b` `[planes, area]`.
pub fn plane_products(a: &[f32], b: &[f32], area: usize) -> Vec<f32> {
    let planes = a.par_chunks_exact(area).zip(b.par_chunks_exact(area));
    planes.map(|(a, b)| lanes::products(a, b) as f32).collect()
}
