//! How much the outputs depend on every layer, position by position: the diagonal of the Gauss-Newton matrix.
//!
//! The KL divergence of the outputs from themselves has no gradient, but a curvature. Random vectors whose covariance
//! is that curvature at the outputs, backpropagated through the network, arrive at every layer with the curvature there
//! as their expected square (Martens, "New Insights and Perspectives on the Natural Gradient Method", JMLR 2020).

use super::batches::Batches;
use super::error::SensitivityError;
use super::on_cpu::OnCpu;
use crate::engine::{Device, EngineError, open_cuda};
use crate::graph::{Boxes, Graph, Head};
use crate::model::Model;
use crate::quantise::predictions;
use crate::repair::Sensitivity;
use crate::training::{GradientSquares, Squares};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// Estimates the sensitivity with one random vector per image, on the CPU or on a CUDA device, which takes fewer images
/// at a time where its memory does not hold a batch. `progress` gets how many of this rank's images are done, and how
/// many it has.
///
/// # Errors
/// Those of the tensor library and of the device; if not even one image fits its memory; if a rank cannot be reached.
pub fn sensitivity(
    model: &Model,
    images: &Batches,
    device: Device,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sensitivity, SensitivityError> {
    let mut way = Way::new(model, images, device)?;
    let (head, size) = (&model.graph.head, (images.height, images.width));
    let (mut own, mut done, all) = (Own::default(), 0, images.own());
    for (first, batch) in images.iter() {
        let most = way.most();
        for (number, part) in batch.chunks(most).enumerate() {
            let outputs = way.forward(images, part)?;
            // Whichever rank has an image, and however many it takes at a time.
            let seeds = (first + number * most..).take(part.len()).map(|image| seed ^ ((image as u64) << 32));
            let vectors = random_vectors(head, size, &outputs, &seeds.collect::<Vec<u64>>());
            own.add(way.backward(vectors)?);
            done += part.len();
            progress(done, all);
        }
    }
    Ok(own.of_all(model, images)?)
}

/// Bytes of a CUDA device's memory that the estimate takes at least: with one image of a size at a time.
///
/// # Errors
/// If the graph does not fit the size, or the device has no kernels for it.
pub fn sensitivity_bytes_on_gpu(graph: &Graph, size: (usize, usize)) -> Result<usize, EngineError> {
    Ok(GradientSquares::bytes(graph, size, 1)?)
}

/// What runs the network.
enum Way<'a> {
    Cpu(Box<OnCpu<'a>>),
    Gpu(Box<GradientSquares>),
}

impl<'a> Way<'a> {
    fn new(model: &'a Model, images: &Batches, device: Device) -> Result<Self, SensitivityError> {
        let Device::Cuda(ordinal) = device else { return Ok(Self::Cpu(Box::new(OnCpu::new(model)?))) };
        let device = open_cuda(ordinal).map_err(EngineError::from)?;
        let (size, batch) = ((images.height, images.width), images.batch.min(images.images.len()));
        let squares = GradientSquares::new(device, model, size, batch).map_err(EngineError::from)?;
        Ok(Self::Gpu(Box::new(squares)))
    }

    /// The most images at a time.
    fn most(&self) -> usize {
        match self {
            Self::Cpu(_) => usize::MAX,
            Self::Gpu(squares) => squares.batch(),
        }
    }

    /// By output of the graph its values `[n, c, h, w]` for a part of the images.
    fn forward(&mut self, images: &Batches, part: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, SensitivityError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.forward(images, part)?),
            Self::Gpu(squares) => Ok(squares.forward(part).map_err(EngineError::from)?),
        }
    }

    /// The squares by vectors over those outputs, in their layout.
    fn backward(&mut self, vectors: Vec<Vec<f32>>) -> Result<Vec<Squares>, SensitivityError> {
        match self {
            Self::Cpu(cpu) => Ok(cpu.backward(vectors)?),
            Self::Gpu(squares) => Ok(squares.backward(&vectors).map_err(EngineError::from)?),
        }
    }
}

/// What this rank has found, by node number.
#[derive(Default)]
struct Own {
    /// Image after image the squares at every position.
    positions: BTreeMap<u32, Vec<f32>>,
    /// Part after part of the images the squares of every channel.
    channels: BTreeMap<u32, Vec<f32>>,
}

impl Own {
    fn add(&mut self, found: Vec<Squares>) {
        for Squares { node, positions, channels } in found {
            self.positions.entry(node.0).or_default().extend(positions);
            self.channels.entry(node.0).or_default().extend(channels);
        }
    }

    /// The sensitivity by what all ranks have found.
    fn of_all(mut self, model: &Model, images: &Batches) -> candle_core::Result<Sensitivity> {
        let mut found = Sensitivity::default();
        for (id, conv) in model.graph.convs() {
            let squares = images.gather(self.positions.remove(&id.0).unwrap_or_default())?;
            let channels = images.gather(self.channels.remove(&id.0).unwrap_or_default())?;
            if squares.is_empty() {
                continue;
            }
            let mean = squares.iter().map(|v| f64::from(*v)).sum::<f64>() / squares.len() as f64;
            let scale = 1.0 / mean.max(f64::MIN_POSITIVE);
            let area = squares.len().div_ceil(images.images.len());
            let map = |image: &[f32]| image.iter().map(|v| (f64::from(*v) * scale) as f32).collect();
            found.positions.insert(id.0, squares.chunks(area).map(map).collect());
            let mut sums = vec![0.0; conv.c_out];
            for part in channels.chunks(conv.c_out) {
                sums.iter_mut().zip(part).for_each(|(sum, c)| *sum += f64::from(*c));
            }
            found.channels.insert(id.0, sums);
        }
        Ok(found)
    }
}

/// By output the random vectors of some images, one image after the other; each image has its own seed.
fn random_vectors(head: &Head, size: (usize, usize), outputs: &[Vec<f32>], seeds: &[u64]) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = vec![Vec::new(); outputs.len()];
    for (image, seed) in seeds.iter().enumerate() {
        let own = |values: &Vec<f32>| {
            let len = values.len() / seeds.len();
            image * len..(image + 1) * len
        };
        let of: Vec<&[f32]> = outputs.iter().map(|values| &values[own(values)]).collect();
        let drawn = curvature(head, size, &of, &mut StdRng::seed_from_u64(*seed));
        all.iter_mut().zip(drawn).for_each(|(all, one)| all.extend(one));
    }
    all
}

/// A random vector over the outputs whose covariance is the curvature of [`super::kl_divergence`] where both sides
/// agree.
fn curvature(head: &Head, size: (usize, usize), outputs: &[&[f32]], rng: &mut StdRng) -> Vec<Vec<f32>> {
    let mut seeds: Vec<Vec<f32>> = outputs.iter().map(|o| vec![0.0; o.len()]).collect();
    match head.boxes() {
        None => {
            let logits: Vec<f64> = outputs[0].iter().map(|v| f64::from(*v)).collect();
            seeds[0] = softmax(&logits, 1.0, rng).into_iter().map(|v| v as f32).collect();
        }
        Some(Boxes { nc, reg_max, strides }) => {
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let mut confidence = 0.0;
            for level in 0..strides.len() {
                let (boxes, classes) = (2 * level, 2 * level + 1);
                let area = outputs[classes].len() / nc;
                for cell in 0..area {
                    let best = (0..nc).map(|c| outputs[classes][c * area + cell]).fold(f32::MIN, f32::max);
                    let weight = sigmoid(f64::from(best));
                    confidence += weight;
                    if weight < 0.01 {
                        continue;
                    }
                    for side in 0..4 {
                        let at = |bin: usize| (side * reg_max + bin) * area + cell;
                        if reg_max == 1 {
                            seeds[boxes][at(0)] = ((weight / 4.0).sqrt() * sign(rng)) as f32;
                            continue;
                        }
                        let logits: Vec<f64> = (0..reg_max).map(|i| f64::from(outputs[boxes][at(i)])).collect();
                        let values = softmax(&logits, (weight / 4.0).sqrt(), rng);
                        values.into_iter().enumerate().for_each(|(i, v)| seeds[boxes][at(i)] = v as f32);
                    }
                }
            }
            for level in 0..strides.len() {
                let classes = 2 * level + 1;
                for (seed, logit) in seeds[classes].iter_mut().zip(outputs[classes]) {
                    let p = sigmoid(f64::from(*logit));
                    *seed = ((p * (1.0 - p)).sqrt() * sign(rng)) as f32;
                }
            }
            predictions(head, size, outputs, &mut |prediction| {
                let slope = sign(rng) * (prediction.weight * prediction.curvature(outputs)).max(0.0).sqrt();
                prediction.pass_down(outputs, slope, &mut |output, at, slope| seeds[output][at] += slope as f32);
            });
            let scale = (1.0 / confidence.max(1.0)).sqrt() as f32;
            seeds.iter_mut().flatten().for_each(|v| *v *= scale);
        }
    }
    seeds
}

fn sign(rng: &mut StdRng) -> f64 {
    if rng.random_bool(0.5) { 1.0 } else { -1.0 }
}

/// The root of diag(q) - q q^T for the probabilities of some logits, times random signs and a factor.
fn softmax(logits: &[f64], scale: f64, rng: &mut StdRng) -> Vec<f64> {
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
    let total: f64 = powers.iter().sum();
    let signs: Vec<f64> = powers.iter().map(|_| sign(rng)).collect();
    let mix: f64 = powers.iter().zip(&signs).map(|(p, s)| (p / total).sqrt() * s).sum();
    powers.iter().zip(&signs).map(|(p, s)| scale * ((p / total).sqrt() * s - p / total * mix)).collect()
}

#[cfg(test)]
mod tests;
