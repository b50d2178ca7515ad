//! int8 layers as pairs of `QuantizeLinear` and `DequantizeLinear` around the input and the kernel of a convolution, and
//! the calibration cache of TensorRT.
//!
//! The pairs say what this library's kernels compute: integers of -127 to 127 with one scale for each output channel of
//! the kernel, and for the input the range of the model file. A runtime that fuses the pairs multiplies the same
//! integers. TensorRT takes zero points of zero only, so a model for it has symmetric ranges
//! ([`crate::quantise::symmetric`]); ONNX Runtime takes any. Kernels stand in f32 before their pair, which all versions
//! of TensorRT take, and are exact multiples of their scales.

use super::Writer;
use super::int;
use super::proto::INT8;
use crate::graph::{Conv, Dtype};
use crate::kernels::{input_scale, quantize_weight, weight_scale};
use crate::model::Model;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Less than the zero point of an unsigned integer, that of a signed one.
const SIGNED: f32 = 128.0;

/// First line of a calibration cache: TensorRT compares the version and the calibrator with its own only to warn.
const CACHE_HEADER: &str = "TRT-8600-EntropyCalibration2";

/// The dequantized tensor by input tensor, bits of the scale, and zero point: layers that read the same share a pair.
pub(super) type Pairs = BTreeMap<(String, u32, i8), String>;

impl Writer {
    /// The input of an int8 layer behind its pair.
    pub(super) fn quantized_input(&mut self, layer: &str, input: &str, range: [f32; 2]) -> String {
        let (scale, zero) = input_scale(range);
        let zero = (zero - SIGNED) as i8;
        let key = (input.to_owned(), scale.to_bits(), zero);
        if let Some(pair) = self.pairs.get(&key) {
            return pair.clone();
        }
        let pair = self.pair(&format!("{layer}/input"), input, &[], vec![scale], zero);
        self.pairs.insert(key, pair.clone());
        pair
    }

    /// The kernel of an int8 layer behind its pair.
    pub(super) fn quantized_kernel(&mut self, layer: &str, conv: &Conv, mut kernel: Vec<f32>) -> String {
        let per_channel = (kernel.len() / conv.c_out.max(1)).max(1);
        let mut scales = Vec::with_capacity(conv.c_out);
        for channel in kernel.chunks_mut(per_channel) {
            let scale = weight_scale(channel.iter().fold(0.0, |most, w| w.abs().max(most)));
            channel.iter_mut().for_each(|w| *w = quantize_weight(*w, scale) as f32 * scale);
            // A channel of zeros has no scale, and a scale of zero is refused.
            scales.push(if scale > 0.0 { scale } else { 1.0 });
        }
        let weight = self.floats(format!("{layer}/weight"), &conv.weight_shape(), kernel);
        self.pair(&weight, &weight, &[conv.c_out], scales, 0)
    }

    /// Quantizes and dequantizes a tensor; the name of the result. Scales of the given shape, along axis 0.
    fn pair(&mut self, name: &str, tensor: &str, shape: &[usize], scales: Vec<f32>, zero: i8) -> String {
        let zeros = vec![zero; scales.len()];
        let scale = self.floats(format!("{name}/scale"), shape, scales);
        let zero = self.int8s(format!("{name}/zero-point"), shape, &zeros);
        let axis = || if shape.is_empty() { vec![] } else { vec![int("axis", 0)] };
        let quantized = self.step("QuantizeLinear", name, "quantized", &[tensor, &scale, &zero], axis());
        self.step("DequantizeLinear", name, "dequantized", &[&quantized, &scale, &zero], axis())
    }

    fn int8s(&mut self, name: String, shape: &[usize], values: &[i8]) -> String {
        self.constant(name, shape, INT8, values.iter().map(|v| v.cast_unsigned()).collect())
    }
}

/// The calibration cache for TensorRT's own quantization of the f32 export: by tensor the scale of signed 8-bit integers
/// around zero, an f32 in hexadecimal digits. `None` for a model without int8 layers.
pub fn calibration_cache(model: &Model) -> Option<String> {
    let graph = &model.graph;
    let mut scales: BTreeMap<&str, f32> = BTreeMap::new();
    for (id, _) in graph.convs_in(Dtype::Int8) {
        let node = graph.node(id);
        let Some(input) = node.inputs.first() else { continue };
        let [low, high] = model.range(&node.name);
        let scale = match input_scale([low, high]) {
            // A range around zero is that of signed integers already.
            (scale, SIGNED) => scale,
            _ => (low / -SIGNED).max(high / (SIGNED - 1.0)).max(f32::MIN_POSITIVE),
        };
        let most = scales.entry(super::name_of(&graph.node(*input).name, input.index())).or_insert(scale);
        *most = most.max(scale);
    }
    if scales.is_empty() {
        return None;
    }
    // The image has values of 0 to 1.
    scales.entry("images").or_insert(1.0 / (SIGNED - 1.0));
    let mut text = format!("{CACHE_HEADER}\n");
    for (tensor, scale) in scales {
        let _ = writeln!(text, "{tensor}: {:08x}", scale.to_bits());
    }
    Some(text)
}
