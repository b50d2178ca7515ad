//! Quantization after training: f16, which only rounds, and int8 (Krishnamoorthi, "Quantizing deep convolutional
//! networks for efficient inference", 2018): weights with a scale for each output channel, inputs with the range that
//! calibration images show.
//!
//! [`observe`] looks at the inputs of the layers, [`choose`] picks the ranges on images that were held back, [`quantise`]
//! applies them, and [`control`] leaves the layers out whose quantization costs most.

mod choose;
mod control;
mod divergence;
mod ranges;

pub use choose::{Chosen, choose};
pub use control::{Kept, Limit, control, sensitivities, time_lost};
pub use divergence::{Images, Prediction, kl_divergence, outputs, outputs_from, predictions, task_divergence};
pub use ranges::{Observed, RangeMethod, Ranges, observe, ranges, symmetric};

use crate::graph::{Dtype, NodeId};
use crate::kernels::quantize_kernel;
use crate::model::{Model, Tensor};
use half::f16;
use std::collections::BTreeMap;

/// By name of a layer the dtype that it computes in instead of int8.
pub type Exceptions = BTreeMap<String, Dtype>;

/// The int8 model: with these ranges, and its weights quantized to 8 bits per output channel. A model file refuses an
/// int8 layer without a range.
pub fn quantise(model: &Model, ranges: &Ranges) -> Model {
    quantise_except(model, ranges, &Exceptions::new())
}

/// As [`quantise`], but some layers compute in f16 or f32.
pub fn quantise_except(model: &Model, ranges: &Ranges, exceptions: &Exceptions) -> Model {
    let mut model = model.clone();
    model.graph.dtype = Dtype::Int8;
    model.graph.exceptions.clone_from(exceptions);
    model.info.ranges.clone_from(ranges);
    model.info.ranges.retain(|layer, _| !exceptions.contains_key(layer));
    for (_, conv) in model.graph.convs_in(Dtype::Int8) {
        if let Some(tensor) = model.weights.get_mut(&conv.weight) {
            *tensor = quantized(tensor, conv.c_out);
        }
    }
    round_f16_layers(&mut model);
    model
}

/// The f16 model: the weights of its [`crate::graph::Graph::narrow_convs`] rounded to 11 bits. A kernel with a weight
/// beyond the range of f16 keeps its values.
pub fn to_f16(model: &Model) -> Model {
    let mut model = model.clone();
    model.graph.dtype = Dtype::F16;
    model.graph.exceptions.clear();
    model.info.ranges.clear();
    round_f16_layers(&mut model);
    model
}

fn round_f16_layers(model: &mut Model) {
    for (_, conv) in model.graph.convs_in(Dtype::F16) {
        let Some(tensor) = model.weights.get_mut(&conv.weight) else { continue };
        let data: Vec<f32> = tensor.data().iter().map(|w| f16::from_f32(*w).to_f32()).collect();
        if data.iter().all(|w| w.is_finite()) {
            *tensor = Tensor::new(tensor.shape().to_vec(), data);
        }
    }
}

/// The layers that compute in int8 where the whole model does, in execution order.
pub fn int8_layers(model: &Model) -> Vec<NodeId> {
    let graph = crate::graph::Graph { dtype: Dtype::Int8, exceptions: BTreeMap::new(), ..model.graph.clone() };
    graph.convs_in(Dtype::Int8).map(|(id, _)| id).collect()
}

/// A kernel `[channels, ...]` with every channel's weights quantized to multiples of its scale.
fn quantized(tensor: &Tensor, channels: usize) -> Tensor {
    let mut data = tensor.data().to_vec();
    quantize_kernel(&mut data, channels);
    Tensor::new(tensor.shape().to_vec(), data)
}
