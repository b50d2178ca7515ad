//! Folded kernels and biases, packed for the kernels.

use super::compile::{Action, Program};
use crate::graph::Op;
use crate::kernels::{Isa, pack_conv, pack_depthwise};
use crate::model::{Model, fold};

/// Packs the weights of every convolution of a program.
pub(super) fn pack(isa: Isa, model: &Model, program: &Program, weights: &mut [f32]) {
    for step in &program.steps {
        let (spec, depthwise, packed) = match &step.action {
            Action::Conv { spec, depthwise, packed, .. } => (spec, *depthwise, packed),
            Action::ConvImage { spec, packed, .. } => (spec, false, packed),
            _ => continue,
        };
        if let Op::Conv(conv) = &model.graph.node(step.node).op {
            let (kernel, bias) = fold(model, conv);
            let packed = &mut weights[packed.clone()];
            match depthwise {
                true => pack_depthwise(spec, &kernel, &bias, packed),
                false => pack_conv(isa, spec, &kernel, &bias, packed),
            }
        }
    }
}
