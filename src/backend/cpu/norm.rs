//! Batch normalisation and activation: `y = act(gamma * (z - mean) / sqrt(var + eps) + beta)` (Ioffe and Szegedy 2015).

#![allow(unsafe_code)]

use super::lanes;
use crate::graph::Activation;
use crate::ranks::{RankError, Share, tree};
use rayon::prelude::*;

/// Mean and biased variance per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// Mean.
    pub mean: Vec<f32>,
    /// Mean square of the distance from the mean.
    pub var: Vec<f32>,
}

/// The moments of `z` `[N, C, area]` over images and positions; of a batch that is shared over ranks those of the whole
/// batch.
///
/// # Errors
/// If a rank cannot be reached.
pub fn moments(z: &[f32], channels: usize, area: usize, share: Option<&Share>) -> Result<Moments, RankError> {
    let over = |sums: Vec<f64>| {
        let sums = gathered(sums, share)?;
        let count = (sums.len() / channels * area) as f64;
        let mean = |channel: usize| (sums.iter().skip(channel).step_by(channels).sum::<f64>() / count) as f32;
        Ok::<_, RankError>((0..channels).map(mean).collect::<Vec<f32>>())
    };
    let planes = || z.par_chunks_exact(area).enumerate();
    let mean = over(planes().map(|(_, plane)| lanes::sum(plane)).collect())?;
    let var = over(planes().map(|(i, plane)| lanes::squares(plane, mean[i % channels])).collect())?;
    Ok(Moments { mean, var })
}

/// Values of all images of a batch, of those of this rank's images.
fn gathered(own: Vec<f64>, share: Option<&Share>) -> Result<Vec<f64>, RankError> {
    match share {
        Some(share) => share.gather(own),
        None => Ok(own),
    }
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

    /// The gradients for `dy`; `batch` says that the moments are those of `z`, so that gradients pass through them. Of
    /// a batch that is shared over ranks, gamma and beta get the gradients of the whole batch.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn backward(
        &self,
        z: &[f32],
        dy: &[f32],
        area: usize,
        (batch, share): (bool, Option<&Share>),
    ) -> Result<Gradients, RankError> {
        assert_eq!(z.len(), dy.len());
        let channels = self.gamma.len();
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
        let sums = gathered(sums.into_flattened(), share)?;
        let count = (sums.len() / 2 / channels * area) as f64;
        let total = |which: usize| {
            let channel = |c: usize| sums.iter().skip(2 * c + which).step_by(2 * channels).sum::<f64>() as f32;
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
        Ok(Gradients { z: dz, gamma, beta })
    }
}

/// The sum of every channel of `values` `[N, C, area]`, part by part of the batch.
pub fn channel_sums(values: &[f32], channels: usize, area: usize, parts: &[usize]) -> Vec<f32> {
    let sums: Vec<f64> = values.par_chunks_exact(area).map(lanes::sum).collect();
    let mut rest = &sums[..];
    let part = |images: &usize| {
        let (part, behind) = rest.split_at(images * channels);
        rest = behind;
        (0..channels).map(|c| part.iter().skip(c).step_by(channels).sum::<f64>() as f32).collect()
    };
    tree(parts.iter().map(part).collect())
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
