//! Int8 kernels in a model file: a byte per value, and a scale per output channel.
//!
//! A kernel `KEY` of a layer that computes in int8 is stored as two tensors: `KEY.int8` (U8, the shape of the
//! kernel, 128 more than the integer) and `KEY.scale` (F32, one for each output channel); a value is integer times
//! scale.

use super::{Tensor, Weights};
use crate::graph::Graph;
use crate::kernels::{quantize_weight, weight_scale};
use safetensors::{Dtype, SafeTensors};

/// Suffixes of the two tensors.
pub(super) const NUMBERS: &str = ".int8";
pub(super) const SCALE: &str = ".scale";

/// What is added to an integer.
const ZERO: i32 = 128;

/// A kernel in parts.
pub(super) struct Quantized {
    pub numbers: Vec<u8>,
    pub scale: Vec<f32>,
}

/// The keys of the kernels that may be stored so, with their output channels.
pub(super) fn keys(graph: &Graph) -> impl Iterator<Item = (&str, usize)> {
    graph.convs_in(crate::graph::Dtype::Int8).map(|(_, conv)| (conv.weight.as_str(), conv.c_out))
}

/// The parts of a kernel; `None` unless every value is an integer times the scale, to the bit.
pub(super) fn split(tensor: &Tensor, channels: usize) -> Option<Quantized> {
    let (mut numbers, mut scale) = (Vec::with_capacity(tensor.data().len()), Vec::with_capacity(channels));
    for kernel in tensor.data().chunks((tensor.data().len() / channels.max(1)).max(1)) {
        let step = weight_scale(kernel.iter().fold(0.0, |most, w| w.abs().max(most)));
        for weight in kernel {
            let number = quantize_weight(*weight, step);
            if value(number, step).to_bits() != weight.to_bits() {
                return None;
            }
            numbers.push(u8::try_from(number + ZERO).ok()?);
        }
        scale.push(step);
    }
    (scale.len() == channels).then_some(Quantized { numbers, scale })
}

fn value(number: i32, scale: f32) -> f32 {
    number as f32 * scale
}

/// Puts the kernels of a file that are stored so, which the graph names, into its weights.
///
/// # Errors
/// Names the tensor whose parts do not fit each other or the graph.
pub(super) fn join(graph: &Graph, file: &SafeTensors, weights: &mut Weights) -> Result<(), String> {
    for (key, channels) in keys(graph) {
        let Ok(view) = file.tensor(&format!("{key}{NUMBERS}")) else { continue };
        if view.dtype() != Dtype::U8 {
            return Err(format!("`{key}{NUMBERS}` has type {:?}, expected U8", view.dtype()));
        }
        let scale = weights.remove(&format!("{key}{SCALE}")).map(Tensor::into_data).unwrap_or_default();
        if scale.len() != channels || channels == 0 || !view.data().len().is_multiple_of(channels) {
            let (found, bytes) = (scale.len(), view.data().len());
            return Err(format!(
                "`{key}{SCALE}` has {found} values for the {channels} channels of `{key}{NUMBERS}`, {bytes} bytes"
            ));
        }
        let per_channel = (view.data().len() / channels).max(1);
        let kernels = view.data().chunks(per_channel).zip(scale);
        let data = kernels.flat_map(|(bytes, scale)| bytes.iter().map(move |b| value(i32::from(*b) - ZERO, scale)));
        weights.insert(key.to_owned(), Tensor::new(view.shape().to_vec(), data.collect()));
    }
    Ok(())
}
