//! Batch normalisation folded into kernels and biases, packed for the kernels.

use super::compile::{Action, Program, spec};
use crate::graph::{Conv, Op};
use crate::kernels;
use crate::model::Model;

/// Packs the weights of every convolution of a program.
pub(super) fn pack(model: &Model, program: &Program, weights: &mut [f32]) {
    for step in &program.steps {
        if let (Action::Conv { depthwise, packed, .. }, Op::Conv(conv)) =
            (&step.action, &model.graph.node(step.node).op)
        {
            let (kernel, bias) = fold(model, conv);
            let pack = if *depthwise { kernels::pack_depthwise } else { kernels::pack_conv };
            pack(&spec(conv), &kernel, &bias, &mut weights[packed.clone()]);
        }
    }
}

/// Kernel `[c_out, c_in / groups, k, k]` and bias `[c_out]` of the same function without normalisation.
fn fold(model: &Model, conv: &Conv) -> (Vec<f32>, Vec<f32>) {
    let kernel = model.tensor(&conv.weight).data();
    let per_channel = kernel.len() / conv.c_out;
    let bias = |c: usize| conv.bias.as_ref().map_or(0.0, |key| f64::from(model.tensor(key).data()[c]));
    let Some(norm) = &conv.norm else {
        return (kernel.to_vec(), (0..conv.c_out).map(|c| bias(c) as f32).collect());
    };
    let [gamma, beta, mean, var] = norm.keys().map(|key| model.tensor(&key).data());
    let scale = |c: usize| f64::from(gamma[c]) / (f64::from(var[c]) + f64::from(norm.eps)).sqrt();
    let folded = kernel.chunks(per_channel).enumerate();
    let folded = folded.flat_map(|(c, k)| k.iter().map(move |v| (f64::from(*v) * scale(c)) as f32)).collect();
    let shift = |c: usize| (f64::from(beta[c]) + (bias(c) - f64::from(mean[c])) * scale(c)) as f32;
    (folded, (0..conv.c_out).map(shift).collect())
}
