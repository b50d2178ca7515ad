//! The ranges that the inputs of int8 layers are quantized to, from what calibration images show.
//!
//! Where a range ends is a trade: a value beyond it is clipped, but all others are quantized in smaller steps. Four
//! methods decide it. The squared error of quantization and the entropy are minimised over ends that are tried one after
//! the other, the upper one first.

use super::divergence::Images;
use super::int8_layers;
use crate::engine::{Device, Engine, EngineError, Options};
use crate::graph::NodeId;
use crate::kernels::InputSteps;
use crate::model::Model;
use std::collections::BTreeMap;

/// Values of a tensor that are looked at per image.
const SAMPLE: usize = 1024;

/// Ends of a range that are tried: the extreme value times one less a multiple of this.
const STEP: f32 = 0.04;
const STEPS: usize = 16;

/// Share of the values that the method [`RangeMethod::Percentile`] clips at either end.
const CLIPPED: f64 = 1e-4;

/// Bins of the histogram of the method [`RangeMethod::Entropy`], and the integers that they are merged to.
const BINS: usize = 2048;
const LEVELS: usize = 256;

/// By name of a layer the least and the greatest value of its quantized input.
pub type Ranges = BTreeMap<String, [f32; 2]>;

/// How a range follows from values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RangeMethod {
    /// From the least to the greatest value.
    MinMax,
    /// All values but 1 in 10,000 at either end (Wu et al., "Integer quantization for deep learning inference:
    /// principles and empirical evaluation", 2020).
    Percentile,
    /// The least Kullback-Leibler divergence of the quantized distribution from that of the values (Migacz, "8-bit
    /// inference with TensorRT", 2017).
    Entropy,
    /// The least squared error (Choukroun et al., "Low-bit quantization of neural networks for efficient inference",
    /// 2019).
    #[default]
    Mse,
}

impl RangeMethod {
    /// All with the name users type.
    pub const ALL: [(&str, Self); 4] =
        [("min-max", Self::MinMax), ("percentile", Self::Percentile), ("entropy", Self::Entropy), ("mse", Self::Mse)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, method)| *method == self).map_or("mse", |(name, _)| name)
    }

    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, method)| *method)
    }
}

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

    fn range(&self, method: RangeMethod) -> [f32; 2] {
        match method {
            RangeMethod::MinMax => [self.low, self.high],
            RangeMethod::Percentile => self.percentiles(),
            RangeMethod::Entropy => {
                let bins = self.histogram();
                self.least(&|range| self.divergence(&bins, range))
            }
            RangeMethod::Mse => self.least(&|range| self.squared_error(range)),
        }
    }

    /// The range of the least cost: first its upper end, then its lower one.
    fn least(&self, cost: &dyn Fn([f32; 2]) -> f64) -> [f32; 2] {
        let mut best = [self.low, self.high];
        let mut least = cost(best);
        for end in [1, 0] {
            let whole = best;
            for step in 1..STEPS {
                let mut tried = whole;
                tried[end] *= 1.0 - STEP * step as f32;
                let cost = cost(tried);
                if cost < least {
                    (best, least) = (tried, cost);
                }
            }
        }
        best
    }

    fn percentiles(&self) -> [f32; 2] {
        let mut sorted = self.sample.clone();
        sorted.sort_by(f32::total_cmp);
        let clipped = (CLIPPED * sorted.len() as f64) as usize;
        match (sorted.get(clipped), sorted.len().checked_sub(clipped + 1).and_then(|at| sorted.get(at))) {
            (Some(low), Some(high)) => [low.min(0.0), high.max(0.0)],
            _ => [self.low, self.high],
        }
    }

    /// The squared error of quantizing to a range, over the sample.
    fn squared_error(&self, range: [f32; 2]) -> f64 {
        let steps = InputSteps::of(range);
        self.sample.iter().map(|v| f64::from(v - steps.rounded(*v)).powi(2)).sum()
    }

    /// Which bin of the histogram from the least to the greatest value a value lies in.
    fn bin(&self, value: f32) -> usize {
        let width = (self.high - self.low).max(f32::MIN_POSITIVE);
        (((value - self.low) / width * BINS as f32) as usize).min(BINS - 1)
    }

    fn histogram(&self) -> Vec<f64> {
        let mut bins = vec![0.0; BINS];
        self.sample.iter().for_each(|v| bins[self.bin(*v)] += 1.0);
        bins
    }

    /// The divergence, in nats, of the distribution quantized to a range from that clipped to it.
    fn divergence(&self, bins: &[f64], [low, high]: [f32; 2]) -> f64 {
        let (first, last) = (self.bin(low), self.bin(high));
        let inside = &bins[first..=last];
        let mut clipped = inside.to_vec();
        clipped[0] += bins[..first].iter().sum::<f64>();
        clipped[last - first] += bins[last + 1..].iter().sum::<f64>();
        let (all, kept) = (clipped.iter().sum::<f64>().max(1.0), inside.iter().sum::<f64>().max(1.0));
        let mut total = 0.0;
        for level in 0..LEVELS {
            let run = level * inside.len() / LEVELS..(level + 1) * inside.len() / LEVELS;
            let held = clipped[run.clone()].iter().filter(|count| **count > 0.0).count().max(1);
            // Every bin that holds values gets the mean of its level.
            let mean = (inside[run.clone()].iter().sum::<f64>() / held as f64 / kept).max(f64::EPSILON);
            let shares = clipped[run].iter().filter(|count| **count > 0.0).map(|count| count / all);
            total += shares.map(|share| share * (share / mean).ln()).sum::<f64>();
        }
        total
    }
}

/// What images show of the inputs of the layers that would compute in int8.
pub struct Observed {
    /// Layer and the tensor that it reads.
    layers: Vec<(String, NodeId)>,
    seen: BTreeMap<NodeId, Seen>,
}

impl Observed {
    /// The ranges by a method.
    pub fn ranges(&self, method: RangeMethod) -> Ranges {
        let found: BTreeMap<NodeId, [f32; 2]> =
            self.seen.iter().map(|(node, seen)| (*node, seen.range(method))).collect();
        self.layers.iter().map(|(layer, input)| (layer.clone(), found[input])).collect()
    }
}

/// Observes the inputs of all layers that would compute in int8, over images. The model runs in f32, whatever its dtype.
///
/// # Errors
/// If an image does not fit, or the device cannot be used.
pub fn observe(model: &Model, on: &Images, progress: &mut dyn FnMut(usize, usize)) -> Result<Observed, EngineError> {
    let Images { images, size: (height, width), device } = *on;
    let plain = model.clone().into_f32();
    let node = |id: &NodeId| plain.graph.node(*id);
    let layers: Vec<_> = int8_layers(&plain).iter().map(|id| (node(id).name.clone(), node(id).inputs[0])).collect();
    let mut seen: BTreeMap<NodeId, Seen> = layers.iter().map(|(_, input)| (*input, Seen::default())).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options { threads, device, keep: seen.keys().copied().collect(), ..Options::default() };
    let mut engine = Engine::new(&plain, height, width, &options)?;
    for (number, image) in images.iter().enumerate() {
        engine.run(image)?;
        seen.iter_mut().for_each(|(node, seen)| seen.add(engine.kept(*node), number));
        progress(number + 1, images.len());
    }
    Ok(Observed { layers, seen })
}

/// The ranges of the least squared error, as [`observe`] sees the inputs of images `[C, height, width]` on the CPU.
///
/// # Errors
/// As [`observe`].
pub fn ranges(
    model: &Model,
    images: &[Vec<f32>],
    size: (usize, usize),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Ranges, EngineError> {
    let on = Images { images, size, device: Device::Cpu };
    Ok(observe(model, &on, progress)?.ranges(RangeMethod::default()))
}

/// The least ranges around these whose zero point is in the middle, as signed integers without a zero point have them:
/// from -128 to 127 steps. TensorRT takes no others.
pub fn symmetric(ranges: &Ranges) -> Ranges {
    let around = |[low, high]: [f32; 2]| {
        let step = (low / -128.0).max(high / 127.0).max(f32::MIN_POSITIVE);
        [-128.0 * step, 127.0 * step]
    };
    ranges.iter().map(|(layer, range)| (layer.clone(), around(*range))).collect()
}
