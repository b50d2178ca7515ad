//! Folded kernels and biases, packed for the kernels.

use super::arithmetic::Arithmetic;
use super::compile::{Action, Program};
use crate::graph::{ConvTranspose, Op};
use crate::model::{Model, fold};

/// Packs the weights of every convolution of a program.
pub(super) fn pack(arithmetic: &dyn Arithmetic, model: &Model, program: &Program, weights: &mut [f32]) {
    for step in &program.steps {
        let (spec, depthwise, packed) = match &step.action {
            Action::Conv { spec, depthwise, packed, .. } => (spec, *depthwise, packed),
            Action::ConvLowPrecision { spec, packed, .. } => (spec, false, packed),
            Action::ConvImage { spec, packed, .. } | Action::ConvOut { spec, packed, .. } => (spec, false, packed),
            _ => continue,
        };
        let node = model.graph.node(step.node);
        let (kernel, bias) = match &node.op {
            Op::Conv(conv) => fold(model, conv),
            Op::ConvTranspose(conv) => squares(model, conv),
            Op::AvgPool { kernel, .. } => {
                let taps = kernel * kernel;
                (vec![1.0 / taps as f32; spec.c_out * taps], vec![0.0; spec.c_out])
            }
            _ => continue,
        };
        let range = model.range(&node.name);
        arithmetic.pack(spec, depthwise, &kernel, &bias, range, &mut weights[packed.clone()]);
    }
}

/// Kernel `[factor * factor * c_out, c_in]` and bias of the 1x1 convolution that computes the squares row after row.
fn squares(model: &Model, conv: &ConvTranspose) -> (Vec<f32>, Vec<f32>) {
    let (weights, taps) = (model.tensor(&conv.weight).data(), conv.factor * conv.factor);
    let mut kernel = Vec::with_capacity(weights.len());
    for tap in 0..taps {
        for co in 0..conv.c_out {
            kernel.extend((0..conv.c_in).map(|ci| weights[(ci * conv.c_out + co) * taps + tap]));
        }
    }
    let bias = conv.bias.as_ref().map_or_else(|| vec![0.0; conv.c_out], |key| model.tensor(key).data().to_vec());
    (kernel, bias.repeat(taps))
}
