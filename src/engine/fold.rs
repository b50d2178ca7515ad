//! Folded kernels and biases, packed for the kernels.

use super::arithmetic::Arithmetic;
use super::compile::Action;
use super::place::Program;
use crate::graph::{ConvTranspose, NodeId, Op};
use crate::kernels::ConvSpec;
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
        let Some((kernel, bias)) = kernel_of(model, step.node, spec) else { continue };
        let range = model.range(&model.graph.node(step.node).name);
        arithmetic.pack(spec, depthwise, &kernel, &bias, range, &mut weights[packed.clone()]);
    }
}

/// Kernel `[c_out, c_in / groups, k, k]` and bias `[c_out]` of the convolution that computes a node.
pub(super) fn kernel_of(model: &Model, node: NodeId, spec: &ConvSpec) -> Option<(Vec<f32>, Vec<f32>)> {
    match &model.graph.node(node).op {
        Op::Conv(conv) => Some(fold(model, conv)),
        Op::ConvTranspose(conv) => Some(squares(model, conv)),
        Op::AvgPool { kernel, .. } => {
            let taps = kernel * kernel;
            Some((vec![1.0 / taps as f32; spec.c_out * taps], vec![0.0; spec.c_out]))
        }
        _ => None,
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
