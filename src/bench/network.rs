//! Times a model in the engine, alone or interleaved with another.

use super::{Distribution, Energy, PairedTimes, compare, peak_resident, phases, time};
use crate::detector::{Detector, DetectorError};
use crate::engine::{self, Engine, EngineError, StepTime};
use crate::kernels::Isa;
use crate::model::{Model, ModelError};
use crate::size::{ImageSize, is_one, one};
use crate::vision::{Image, NmsOptions, Preprocess, least_logit};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// A network that cannot be timed.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The engine refused the network or the image size.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The detector around it failed.
    #[error(transparent)]
    Detector(#[from] DetectorError),
    /// The structure contradicts itself.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A table asks for more than any has.
    #[error("{what} is {found}, expected {expected}")]
    Table {
        /// What is asked for.
        what: &'static str,
        /// How much of it.
        found: String,
        /// How much there may be.
        expected: String,
    },
}

/// How a network is timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Size of the image.
    pub imgsz: ImageSize,
    /// Threads of the engine.
    pub threads: usize,
    /// Whether every thread is bound to a CPU core.
    pub pin: bool,
    /// Frames off the clock.
    pub warmup: usize,
    /// Frames on the clock.
    pub runs: usize,
    /// What computes.
    pub device: engine::Device,
    /// The instruction set of the CPU's kernels; `None`: the best that it has.
    pub isa: Option<Isa>,
    /// Images of a frame: those of several cameras. All times are those of the whole batch.
    pub batch: usize,
}

impl Options {
    /// Those of the engine.
    fn engine(&self) -> engine::Options {
        let Self { threads, pin, device, isa, batch, .. } = *self;
        engine::Options { threads, pin, device, isa, batch, ..engine::Options::default() }
    }
}

/// What was measured of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Time of the network per frame.
    #[serde(flatten)]
    pub latency: Distribution,
    /// Weights, activations and workspace of the network, bytes.
    pub peak_memory_bytes: usize,
    /// Threads of the engine.
    pub threads: usize,
    /// Size of the image.
    pub imgsz: ImageSize,
    /// Images of a frame; all times are those of the whole batch.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub batch: usize,
    /// The most memory the whole process had resident, bytes: code, file buffers and the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_resident_bytes: Option<usize>,
    /// Median times from image to detections; only of detectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// Energy per frame, where the machine shows its power rails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
    /// The rails that it was read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rails: Option<String>,
    /// The comparison with another network, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<PairedNetwork>,
}

/// Median milliseconds of a frame's phases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Letterbox.
    pub pre_ms: f64,
    /// The network.
    pub network_ms: f64,
    /// Decoding and suppression of duplicates.
    pub post_ms: f64,
    /// All of it.
    pub total_ms: f64,
}

/// The other network of a paired measurement, and the ratios of the measured one to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedNetwork {
    /// Time of the other network.
    #[serde(flatten)]
    pub latency: Distribution,
    /// Weights, activations and workspace of the other network, bytes.
    pub peak_memory_bytes: usize,
    /// Median wall time of the measured network over the other's.
    pub ratio: f64,
    /// The same over pairs of neighbouring frames.
    pub pair_ratio: f64,
    /// What that is at most with 95 % confidence, where there are pairs enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_ratio_bound: Option<f64>,
    /// Median CPU time of the measured network over the other's.
    pub cpu_ratio: f64,
    /// Energy per frame of the other network, where the machine shows its power rails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let bound = |bound: Option<f64>| bound.map_or(String::new(), |ms| format!(" (95 % sure: at most {ms:.2})"));
        let time = &self.latency;
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        writeln!(
            f,
            "{} px{}, {} thread{}, {} frames",
            self.imgsz,
            if self.batch > 1 { format!(", times per batch of {} images", self.batch) } else { String::new() },
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            time.runs
        )?;
        writeln!(f, "  p50     {:9.2} ms{}", time.p50_ms, bound(time.p50_bound_ms))?;
        writeln!(f, "  p95     {:9.2} ms{}", time.p95_ms, bound(time.p95_bound_ms))?;
        writeln!(f, "  p99     {:9.2} ms{}", time.p99_ms, bound(time.p99_bound_ms))?;
        writeln!(f, "  CPU p50 {:9.2} ms", time.cpu_p50_ms)?;
        writeln!(f, "  memory  {:9.2} MiB (weights, activations, workspace)", mib(self.peak_memory_bytes))?;
        if let Some(bytes) = self.peak_resident_bytes {
            writeln!(f, "  process {:9.2} MiB at most resident", mib(bytes))?;
        }
        if let (Some(energy), Some(rails)) = (&self.energy, &self.rails) {
            let (mj, least, most) = (energy.p50_mj, energy.least_mj, energy.most_mj);
            writeln!(
                f,
                "  energy  {mj:9.2} mJ per frame ({least:.2} to {most:.2} in {} blocks; {rails})",
                energy.blocks
            )?;
        }
        if let Some(p) = &self.phases {
            writeln!(
                f,
                "  frame   {:9.2} ms = letterbox {:.2} + network {:.2} + decoding {:.2}",
                p.total_ms, p.pre_ms, p.network_ms, p.post_ms
            )?;
        }
        if let Some(other) = &self.against {
            writeln!(
                f,
                "  against {:9.2} ms: {:.3}x (pair by pair {:.3}x, CPU {:.3}x)",
                other.latency.p50_ms, other.ratio, other.pair_ratio, other.cpu_ratio
            )?;
        }
        Ok(())
    }
}

/// Times two compiled networks interleaved on one input.
///
/// # Errors
/// As [`Engine::run`].
pub fn interleave(
    a: &mut Engine,
    b: &mut Engine,
    input: &[f32],
    warmup: usize,
    runs: usize,
) -> Result<PairedTimes, EngineError> {
    compare(warmup, runs, &mut || a.run(input), &mut || b.run(input))
}

/// Times a network by itself, then the way from a photo to its detections.
///
/// # Errors
/// If the engine refuses the model or the image size.
pub fn measure(model: &Model, options: &Options) -> Result<Measured, BenchError> {
    let mut engine = compile(model, options)?;
    let photo = Photo::new(model, options);
    let samples = time(options.warmup, options.runs, &mut || photo.run(&mut engine))?;
    finish(model, options, samples.distribution(), engine, None)
}

/// Times a network interleaved with another one.
///
/// # Errors
/// If the engine refuses one of the models or the image size.
pub fn measure_paired(model: &Model, other: &Model, options: &Options) -> Result<Measured, BenchError> {
    let (mut one, mut two) = (compile(model, options)?, compile(other, options)?);
    let photo = Photo::new(model, options);
    let mut first = || photo.run(&mut two);
    let pair = compare(options.warmup, options.runs, &mut first, &mut || photo.run(&mut one))?;
    let against = PairedNetwork {
        latency: pair.a,
        peak_memory_bytes: two.memory().total(),
        ratio: pair.ratio,
        pair_ratio: pair.pair_ratio,
        pair_ratio_bound: pair.pair_ratio_bound,
        cpu_ratio: pair.cpu_ratio,
        energy: None,
    };
    drop(two);
    finish(model, options, pair.b, one, Some(against))
}

/// Makes a network ready that gives what a detection reads, as in a detector.
pub(super) fn compile(model: &Model, options: &Options) -> Result<Engine, EngineError> {
    let mut engine = Engine::new(model, options.imgsz.height, options.imgsz.width, &options.engine())?;
    engine.select_cells(Some(least_logit(NmsOptions::default().score)))?;
    Ok(engine)
}

fn finish(
    model: &Model,
    options: &Options,
    latency: Distribution,
    engine: Engine,
    against: Option<PairedNetwork>,
) -> Result<Measured, BenchError> {
    let peak_memory_bytes = engine.memory().total();
    drop(engine);
    Ok(Measured {
        latency,
        peak_memory_bytes,
        threads: options.threads,
        imgsz: options.imgsz,
        batch: options.batch.max(1),
        phases: split(model, options)?,
        peak_resident_bytes: peak_resident(),
        energy: None,
        rails: None,
        against,
    })
}

/// Times the way from 640 x 480 photos, as many as a batch has, to their detections; nothing for networks that are no detectors.
pub(super) fn split(model: &Model, options: &Options) -> Result<Option<Phases>, BenchError> {
    let mut detector = match Detector::new(model, options.imgsz, &engine::Options { pin: false, ..options.engine() }) {
        Err(DetectorError::NoDetector) => return Ok(None),
        detector => detector?,
    };
    let (width, height) = (640, 480);
    let pixels = picture_bytes(width * height * 3);
    let image = Image::new(width, height, pixels);
    let (mut letterboxes, batch) = (Vec::new(), options.batch.max(1));
    let runs = options.runs.min(100);
    let (parts, total_ms) = phases::<3, DetectorError>(options.warmup.min(5), runs, &mut |phase| {
        match phase {
            0 => {
                letterboxes.clear();
                letterboxes.extend((0..batch).map(|slot| detector.prepare(slot, &image)));
            }
            1 => detector.run(batch)?,
            _ => letterboxes.iter().enumerate().for_each(|(slot, letterbox)| {
                std::hint::black_box(detector.finish(slot, letterbox));
            }),
        }
        Ok(())
    })?;
    let [pre_ms, network_ms, post_ms] = parts;
    Ok(Some(Phases { pre_ms, network_ms, post_ms, total_ms }))
}

/// The input of a batch that networks are timed on: smooth colours with some noise, the same every time, without zeros and
/// without denormals.
pub(super) struct Photo {
    values: Vec<f32>,
    /// Of every image, where the network's input is bytes.
    bytes: Option<Vec<u8>>,
    batch: usize,
}

impl Photo {
    pub fn new(model: &Model, options: &Options) -> Self {
        let batch = options.batch.max(1);
        let bytes = picture_bytes(batch * model.graph.input_channels() * options.imgsz.area());
        let values = bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect();
        let is_bytes = Preprocess::new(model).is_ok_and(|preprocess| preprocess.is_bytes());
        Self { values, bytes: is_bytes.then_some(bytes), batch }
    }

    /// Whether the engine takes it as bytes, as a detector gives it a photo; then it is in its place.
    fn enter(&self, engine: &mut Engine) -> bool {
        let Some(bytes) = &self.bytes else { return false };
        let mut images = bytes.chunks_exact((bytes.len() / self.batch).max(1)).enumerate();
        images.all(|(image, bytes)| engine.bytes_mut(image).map(|own| own.copy_from_slice(bytes)).is_some())
    }

    /// Runs a network on it.
    pub fn run(&self, engine: &mut Engine) -> Result<(), EngineError> {
        if self.enter(engine) { engine.run_in_place() } else { engine.run(&self.values) }
    }

    /// Runs a network on it once, step by step.
    pub fn profile(&self, engine: &mut Engine) -> Result<Vec<StepTime>, EngineError> {
        if self.enter(engine) { engine.profile_in_place() } else { engine.profile(&self.values) }
    }
}

fn picture_bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |i: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (96 + (i / 64) % 64) as u8 + (state % 64) as u8
    };
    (0..len).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Builder, Head, Op};
    use crate::kernels::cuda::emulated;
    use crate::model::{Info, Normalise};
    use std::collections::BTreeMap;

    #[test]
    fn a_gpu_gives_what_a_detection_reads() {
        if emulated::device().is_none() {
            return;
        }
        let mut builder = Builder::default();
        let input = builder.push("images", Op::Input { channels: 3 }, &[]);
        let classes = builder.push("classes", Op::MaxPool { kernel: 1, stride: 1, padding: 0 }, &[input]);
        let first = builder.push("first", Op::Slice { start: 0, len: 1 }, &[classes]);
        let boxes = builder.push("boxes", Op::Concat, &[input, first]);
        let head = Head::Detect { nc: 3, reg_max: 1, strides: vec![1] };
        let graph = builder.finish(vec![boxes, classes], head).unwrap();
        let model = Model { graph, weights: BTreeMap::new(), info: Info::default() };
        let options = options(engine::Device::Cuda(0), 1);
        let (photo, mut gpu) = (Photo::new(&model, &options), compile(&model, &options).unwrap());
        photo.run(&mut gpu).unwrap();
        // All of a photo's values are above the threshold, a logit of -1.1.
        assert!(gpu.cells_of(0).is_none());
        let names: Vec<&str> = photo.profile(&mut gpu).unwrap().iter().map(|step| step.kernel).collect();
        assert_eq!(names[names.len() - 3..], ["find-cells", "take-cells", "download"]);
        gpu.select_cells(Some(f32::INFINITY)).unwrap();
        photo.run(&mut gpu).unwrap();
        assert_eq!(gpu.cells_of(0).map(|cells| cells.numbers.len()), Some(0));
    }

    fn options(device: engine::Device, batch: usize) -> Options {
        let imgsz = ImageSize::square(32);
        Options { imgsz, threads: 1, pin: false, warmup: 0, runs: 1, device, isa: None, batch }
    }

    #[test]
    fn a_gpu_gets_a_photo_as_bytes_unless_it_is_normalised() {
        if emulated::device().is_none() {
            return;
        }
        let mut builder = Builder::default();
        let input = builder.push("images", Op::Input { channels: 3 }, &[]);
        let mean = builder.push("mean", Op::GlobalAvgPool, &[input]);
        let graph = builder.finish(vec![mean], Head::Classify { nc: 3 }).unwrap();
        for (normalise, size) in [(None, 1), (Some(Normalise::IMAGENET), 4)] {
            let info = Info { normalise, ..Info::default() };
            let model = Model { graph: graph.clone(), weights: BTreeMap::new(), info };
            let mut options = options(engine::Device::Cuda(0), 2);
            let photo = Photo::new(&model, &options);
            let mut gpu = compile(&model, &options).unwrap();
            let steps = photo.profile(&mut gpu).unwrap();
            assert_eq!((steps[0].kernel, steps[0].bytes), ("upload", 2 * size * 3 * 32 * 32));
            assert_eq!(steps[1].kernel == "bytes", normalise.is_none());
            photo.run(&mut gpu).unwrap();
            options.device = engine::Device::Cpu;
            let mut cpu = compile(&model, &options).unwrap();
            photo.run(&mut cpu).unwrap();
            for image in 0..2 {
                let pairs = gpu.output_of(image, 0).iter().zip(cpu.output_of(image, 0));
                assert!(pairs.into_iter().all(|(a, b)| *a > 0.3 && (a - b).abs() < 1e-5), "image {image}");
            }
        }
    }
}
