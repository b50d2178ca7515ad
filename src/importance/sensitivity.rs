//! How much the outputs depend on every layer, position by position: the diagonal of the Gauss-Newton matrix.
//!
//! The KL divergence of the outputs from themselves has no gradient, but a curvature. Random vectors whose covariance
//! is that curvature at the outputs, backpropagated through the network, arrive at every layer with the curvature there
//! as their expected square (Martens, "New Insights and Perspectives on the Natural Gradient Method", JMLR 2020).

use super::batches::Batches;
use crate::backend::{Mode, Net};
use crate::graph::{Boxes, Head, NodeId, Op};
use crate::model::Model;
use crate::quantise::predictions;
use crate::repair::Sensitivity;
use candle_core::{DType, Result, Tensor, Var};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

/// Estimates the sensitivity with one random vector per image. `progress` gets how many of this rank's images are done, and
/// how many it has.
///
/// # Errors
/// Those of the tensor library; if a rank cannot be reached.
pub fn sensitivity(
    model: &Model,
    images: &Batches,
    seed: u64,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Sensitivity> {
    let device = images.device;
    let net = Net::new(model, device)?.frozen();
    let size = (images.height, images.width);
    let mut own = Own::default();
    let (mut done, all) = (0, images.own());
    for (first, part) in images.iter() {
        let input = images.tensor(part, model.graph.input_channels())?;
        let mut shifts: Vec<(NodeId, Var)> = Vec::new();
        let outputs = net.forward_with(&input, Mode::Eval, &mut |id, output| {
            if !matches!(model.graph.node(id).op, Op::Conv(_)) {
                return Ok(output);
            }
            let shift = Var::zeros(output.shape(), DType::F32, device)?;
            let moved = (&output + shift.as_tensor())?;
            shifts.push((id, shift));
            Ok(moved)
        })?;
        let values = outputs.iter().map(|o| o.flatten_from(1)?.to_vec2::<f32>()).collect::<Result<Vec<_>>>()?;
        let mut seeds: Vec<Vec<f32>> = vec![Vec::new(); outputs.len()];
        for image in 0..part.len() {
            let of: Vec<&[f32]> = values.iter().map(|v| v[image].as_slice()).collect();
            // Whichever rank has the image.
            let mut rng = StdRng::seed_from_u64(seed ^ (((first + image) as u64) << 32));
            seeds
                .iter_mut()
                .zip(curvature(&model.graph.head, size, &of, &mut rng))
                .for_each(|(all, one)| all.extend(one));
        }
        let mut total = Tensor::zeros((), DType::F32, device)?;
        for (output, seed) in outputs.iter().zip(seeds) {
            total = (total + (output * Tensor::from_vec(seed, output.shape(), device)?)?.sum_all()?)?;
        }
        let store = total.backward()?;
        for (id, shift) in &shifts {
            let Some(gradient) = store.get(shift.as_tensor()) else { continue };
            let squares = gradient.sqr()?;
            own.positions.entry(id.0).or_default().extend(squares.sum(1)?.flatten_all()?.to_vec1::<f32>()?);
            own.channels.entry(id.0).or_default().extend(squares.sum((0, 2, 3))?.to_vec1::<f32>()?);
        }
        done += part.len();
        progress(done, all);
    }
    own.of_all(model, images)
}

/// What this rank has found, by node number.
#[derive(Default)]
struct Own {
    /// Image after image the squares at every position.
    positions: BTreeMap<u32, Vec<f32>>,
    /// Batch after batch the squares of every channel.
    channels: BTreeMap<u32, Vec<f32>>,
}

impl Own {
    /// The sensitivity by what all ranks have found.
    fn of_all(mut self, model: &Model, images: &Batches) -> Result<Sensitivity> {
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
            for batch in channels.chunks(conv.c_out) {
                sums.iter_mut().zip(batch).for_each(|(sum, c)| *sum += f64::from(*c));
            }
            found.channels.insert(id.0, sums);
        }
        Ok(found)
    }
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
