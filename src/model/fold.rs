//! Batch normalisation folded into kernels and biases.

use super::Model;
use crate::graph::Conv;

/// Kernel `[c_out, c_in / groups, k, k]` and bias `[c_out]` of the same function without normalisation.
///
/// # Panics
/// If the convolution is not one of the model's graph.
pub fn fold(model: &Model, conv: &Conv) -> (Vec<f32>, Vec<f32>) {
    let kernel = model.tensor(&conv.weight).data();
    let per_channel = kernel.len() / conv.c_out;
    let bias = |c: usize| conv.bias.as_ref().map_or(0.0, |key| f64::from(model.tensor(key).data()[c]));
    let Some(norm) = &conv.norm else {
        return (kernel.to_vec(), (0..conv.c_out).map(|c| bias(c) as f32).collect());
    };
    let [gamma, beta, mean, var] = norm.keys().map(|key| model.tensor(&key).data());
    let scale = |c: usize| f64::from(gamma[c]) / (f64::from(var[c]) + f64::from(norm.eps)).sqrt();
    let mut folded = kernel.to_vec();
    for (c, channel) in folded.chunks_mut(per_channel).enumerate() {
        let scale = scale(c);
        channel.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
    }
    let shift = |c: usize| (f64::from(beta[c]) + (bias(c) - f64::from(mean[c])) * scale(c)) as f32;
    (folded, (0..conv.c_out).map(shift).collect())
}
