//! How far the outputs of a pruned or quantized network are from those of the baseline, without labels.

mod predictions;
#[cfg(test)]
mod tests;

pub use predictions::{Prediction, predictions, task_divergence};

use crate::engine::{Device, Engine, EngineError, Options};
use crate::graph::{Boxes, Head, NodeId};
use crate::model::Model;
use predictions::{CONFIDENT, bernoulli_divergence};
use rayon::prelude::*;
use std::borrow::Cow;

/// Images that networks are compared on, and what runs the networks.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// `[C, height, width]` each.
    pub images: &'a [Vec<f32>],
    /// Height and width.
    pub size: (usize, usize),
    /// What runs networks.
    pub device: Device,
}

/// All outputs of a model for every image.
///
/// # Errors
/// If the model cannot be run at this size, or the device cannot be used.
pub fn outputs(model: &Model, on: &Images) -> Result<Vec<Vec<Vec<f32>>>, EngineError> {
    let run = (on.device, &[][..]);
    outputs_from(model, run, on.images.len(), on.size, &|image| Cow::Borrowed(&on.images[image]))
}

/// All outputs of a model for a number of images, computed by a device of the tensors of some nodes on
/// ([`Options::given`](crate::engine::Options::given)). `input` gives, for the number of an image, all of these tensors
/// one after the other.
///
/// # Errors
/// If the model cannot be run at this size, what is given does not suffice, or the device cannot be used.
pub fn outputs_from<'a>(
    model: &Model,
    (device, given): (Device, &[NodeId]),
    images: usize,
    (height, width): (usize, usize),
    input: &(dyn Fn(usize) -> Cow<'a, [f32]> + Sync),
) -> Result<Vec<Vec<Vec<f32>>>, EngineError> {
    let options = Options { threads: 1, given: given.to_vec(), device, ..Options::default() };
    let mut engines = vec![Engine::new(model, height, width, &options)?];
    // A CUDA device runs one image after the other; engines there have weights of their own.
    let most = if device.is_cuda() { 1 } else { rayon::current_num_threads().max(1) };
    let share = images.div_ceil(most).max(1);
    for _ in 1..images.div_ceil(share) {
        engines.push(engines[0].twin()?);
    }
    let all = |engine: &Engine| (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect::<Vec<_>>();
    let run = |(part, mut engine): (usize, Engine)| {
        let mine = part * share..images.min((part + 1) * share);
        mine.map(|image| engine.run(&input(image)).map(|()| all(&engine))).collect::<Result<Vec<_>, EngineError>>()
    };
    let parts: Result<Vec<_>, EngineError> = engines.into_par_iter().enumerate().map(run).collect();
    Ok(parts?.into_iter().flatten().collect())
}

/// KL divergence of the outputs for an image of `size` (height, width) from those of a reference, in nats per confident
/// prediction of the reference; 0 when equal.
///
/// Classes: that of Bernoulli distributions, over all cells. Boxes: that of the side distributions, or where a box output
/// is a distance itself that of normal distributions with a deviation of a stride, weighted with the reference's
/// confidence in the cell. What else a head predicts, masks, keypoints and angles, with the same weight: see
/// [`task_divergence`]. A classifier: that of its class distributions.
pub fn kl_divergence(head: &Head, size: (usize, usize), reference: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    match head.boxes() {
        None => softmax_divergence(reference[0].iter().copied(), found[0].iter().copied()),
        Some(Boxes { nc, reg_max, strides }) => {
            let (mut total, mut confidence) = (0.0, 0.0);
            for level in 0..strides.len() {
                let (boxes, classes) = (2 * level, 2 * level + 1);
                let area = reference[classes].len() / nc;
                for cell in 0..area {
                    let logits = |of: &[Vec<f32>], class: usize| f64::from(of[classes][class * area + cell]);
                    let best = (0..nc).map(|c| logits(reference, c)).fold(f64::MIN, f64::max);
                    total += (0..nc).map(|c| bernoulli_divergence(logits(reference, c), logits(found, c))).sum::<f64>();
                    let weight = 1.0 / (1.0 + (-best).exp());
                    confidence += weight;
                    if weight < CONFIDENT {
                        continue;
                    }
                    for side in 0..4 {
                        let (a, b) = (&reference[boxes], &found[boxes]);
                        let at = |bin: usize| (side * reg_max + bin) * area + cell;
                        let bins = 0..reg_max;
                        let sides = match reg_max {
                            1 => f64::from(b[at(0)] - a[at(0)]).powi(2) / 2.0,
                            _ => softmax_divergence(bins.clone().map(|i| a[at(i)]), bins.map(|i| b[at(i)])),
                        };
                        total += weight * sides / 4.0;
                    }
                }
            }
            let [reference, found] = [reference, found].map(|all| all.iter().map(Vec::as_slice).collect::<Vec<_>>());
            total += task_divergence(head, size, &reference, &found, None);
            total / confidence.max(1.0)
        }
    }
}

fn softmax_divergence(reference: impl Iterator<Item = f32> + Clone, found: impl Iterator<Item = f32> + Clone) -> f64 {
    let log_total = |values: &mut dyn Iterator<Item = f32>| {
        let values: Vec<f64> = values.map(f64::from).collect();
        let top = values.iter().copied().fold(f64::MIN, f64::max);
        top + values.iter().map(|v| (v - top).exp()).sum::<f64>().ln()
    };
    let (a, b) = (log_total(&mut reference.clone()), log_total(&mut found.clone()));
    let term = |(r, f): (f32, f32)| {
        let (r, f) = (f64::from(r) - a, f64::from(f) - b);
        r.exp() * (r - f)
    };
    reference.zip(found).map(term).sum::<f64>().max(0.0)
}
