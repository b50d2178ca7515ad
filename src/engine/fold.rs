//! Folded kernels and biases, packed for the kernels.

use super::compile::{Action, Program, spec};
use crate::graph::Op;
use crate::kernels;
use crate::model::{Model, fold};

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
