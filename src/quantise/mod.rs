//! Quantization after training: f16, which only rounds, and int8 (Krishnamoorthi, "Quantizing deep convolutional
//! networks for efficient inference", 2018): weights with a scale for each output channel, inputs with the range that
//! calibration images show.
//!
//! A range ends where the squared quantization error is least: a value beyond it is clipped, but all others are
//! quantized in smaller steps (Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient Inference",
//! 2019).

use crate::engine::{Engine, EngineError, Options};
use crate::graph::{Dtype, Graph, NodeId};
use crate::kernels::{input_scale, quantize_weight, weight_scale};
use crate::model::{Model, Tensor};
use half::f16;
use std::collections::BTreeMap;

/// Values of a tensor that are looked at per image.
const SAMPLE: usize = 1024;

/// Ends of a range that are tried: the extreme value times one less a multiple of this.
const STEP: f32 = 0.04;
const STEPS: usize = 16;

/// By name of a layer the least and the greatest value of its quantized input.
pub type Ranges = BTreeMap<String, [f32; 2]>;

/// Extremes and a sample of the values of one tensor.
#[derive(Default)]
struct Seen {
    low: f32,
    high: f32,
    sample: Vec<f32>,
}

impl Seen {
    fn add(&mut self, values: &[f32], image: usize) {
        (self.low, self.high) = values.iter().fold((self.low, self.high), |(a, b), v| (a.min(*v), b.max(*v)));
        let step = (values.len() / SAMPLE).max(1);
        // Other positions in every image.
        self.sample.extend(values.iter().skip(image * 7 % step).step_by(step).take(SAMPLE));
    }

    /// The squared error of quantizing to a range, over the sample.
    fn error(&self, range: [f32; 2]) -> f64 {
        let (scale, zero) = input_scale(range);
        let (factor, least, most) = (1.0 / scale, -zero, 255.0 - zero);
        let quantized = |v: f32| (v * factor).clamp(least, most).round_ties_even() * scale;
        self.sample.iter().map(|v| f64::from(v - quantized(*v)).powi(2)).sum()
    }

    /// The range of the least error: first its upper end, then its lower one.
    fn range(&self) -> [f32; 2] {
        let mut best = [self.low, self.high];
        let mut least = self.error(best);
        for end in [1, 0] {
            let whole = best;
            for step in 1..STEPS {
                let mut tried = whole;
                tried[end] *= 1.0 - STEP * step as f32;
                let error = self.error(tried);
                if error < least {
                    (best, least) = (tried, error);
                }
            }
        }
        best
    }
}

/// The ranges of the inputs of all layers that would compute in int8, over images `[C, height, width]`. The model runs
/// in f32, whatever its dtype.
///
/// # Errors
/// If an image does not fit.
pub fn ranges(
    model: &Model,
    images: &[Vec<f32>],
    (height, width): (usize, usize),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Ranges, EngineError> {
    let quantized = Graph { dtype: Dtype::Int8, ..model.graph.clone() };
    let plain = model.clone().into_f32();
    let graph = &plain.graph;
    let chosen = || quantized.narrow_convs().map(|(id, _)| (id, graph.node(id).inputs[0]));
    let mut seen: BTreeMap<NodeId, Seen> = chosen().map(|(_, input)| (input, Seen::default())).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options { threads, keep: seen.keys().copied().collect(), ..Options::default() };
    let mut engine = Engine::new(&plain, height, width, &options)?;
    for (number, image) in images.iter().enumerate() {
        engine.run(image)?;
        seen.iter_mut().for_each(|(node, seen)| seen.add(engine.kept(*node), number));
        progress(number + 1, images.len());
    }
    let found: BTreeMap<NodeId, [f32; 2]> = seen.iter().map(|(node, seen)| (*node, seen.range())).collect();
    Ok(chosen().map(|(layer, input)| (graph.node(layer).name.clone(), found[&input])).collect())
}

/// The int8 model: with these ranges, and its weights quantized to 8 bits per output channel. A model file refuses an
/// int8 layer without a range.
pub fn quantise(model: &Model, ranges: &Ranges) -> Model {
    let mut model = model.clone();
    model.graph.dtype = Dtype::Int8;
    model.info.ranges.clone_from(ranges);
    for (_, conv) in model.graph.narrow_convs() {
        if let Some(tensor) = model.weights.get_mut(&conv.weight) {
            *tensor = quantized(tensor, conv.c_out);
        }
    }
    model
}

/// The f16 model: the weights of its [`Graph::narrow_convs`] rounded to 11 bits. A kernel with a weight beyond the
/// range of f16 keeps its values.
pub fn to_f16(model: &Model) -> Model {
    let mut model = model.clone();
    model.graph.dtype = Dtype::F16;
    model.info.ranges.clear();
    for (_, conv) in model.graph.narrow_convs() {
        let Some(tensor) = model.weights.get_mut(&conv.weight) else { continue };
        let data: Vec<f32> = tensor.data().iter().map(|w| f16::from_f32(*w).to_f32()).collect();
        if data.iter().all(|w| w.is_finite()) {
            *tensor = Tensor::new(tensor.shape().to_vec(), data);
        }
    }
    model
}

/// A kernel `[channels, ...]` with every channel's weights quantized to multiples of its scale.
fn quantized(tensor: &Tensor, channels: usize) -> Tensor {
    let mut data = tensor.data().to_vec();
    let per_channel = (data.len() / channels.max(1)).max(1);
    for kernel in data.chunks_mut(per_channel) {
        let scale = weight_scale(kernel.iter().fold(0.0, |most, w| w.abs().max(most)));
        kernel.iter_mut().for_each(|w| *w = quantize_weight(*w, scale) as f32 * scale);
    }
    Tensor::new(tensor.shape().to_vec(), data)
}
