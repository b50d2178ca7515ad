//! Time per layer, compared with what the machine was seen to do at most: the FLOP/s of its cores, or the operations and
//! the bytes of its GPU.

use super::distribution::median;
use super::network::{Options, Photo, compile};
use super::{BenchError, over};
use crate::engine::{Device, Engine, GpuPeaks, StepTime, gpu_peaks};
use crate::graph::{Dtype, Graph, Op};
use crate::kernels::peak_flops;
use crate::model::Model;
use crate::size::ImageSize;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How long the machine's peak is measured.
const PEAK_TIME: Duration = Duration::from_millis(300);

/// Time of a frame, step by step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Multiply-adds in registers that one core was seen to do, 1e9 operations per second (a multiply-add is two).
    pub peak_gflops: f64,
    /// The peaks of the GPU, where that ran the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuPeaks>,
    /// Threads that computed together.
    pub threads: usize,
    /// Size of the image.
    pub imgsz: ImageSize,
    /// Milliseconds of all steps together.
    pub total_ms: f64,
    /// Lower bound: milliseconds that the network's arithmetic would take at the peak of all threads; on a GPU the sum of
    /// what every step would take at the peak that binds it, of its operations or of its bytes.
    #[serde(rename = "floor_ms")]
    pub lower_bound_ms: f64,
    /// Every step in the order it runs.
    pub steps: Vec<Step>,
}

/// One step of a frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Name of the layer.
    pub layer: String,
    /// The kernel that runs.
    pub kernel: &'static str,
    /// Shape of the layer, for people.
    pub shape: String,
    /// Median milliseconds.
    pub ms: f64,
    /// Arithmetic of the layer as its definition counts it, 1e9 operations per second. Fast algorithms need fewer
    /// operations and may exceed the peak.
    pub gflops: f64,
    /// Bytes of tensors that a GPU reads and writes; 0 on the CPU.
    pub bytes: u64,
    /// The same over the peak of all threads. On a GPU: the time that the peak of its operations, or of its bytes where that
    /// is longer, would take, over the time that it took.
    pub roofline: f64,
}

/// Times every step of a network, `runs` times each.
///
/// # Errors
/// If the engine refuses the model or the image size.
pub fn profile(model: &Model, options: &Options) -> Result<Profile, BenchError> {
    let mut engine = compile(model, options)?;
    let size = options.imgsz;
    let shapes = model.graph.shapes(size.height, size.width).map_err(crate::engine::EngineError::from)?;
    let macs: Vec<usize> = model.graph.macs(&shapes).into_iter().map(|macs| options.batch.max(1) * macs).collect();
    let times = times(&mut engine, &Photo::new(model, options), options)?;
    let gpu = match options.device {
        Device::Cpu => None,
        Device::Cuda(ordinal) => Some(gpu_peaks(ordinal)?),
    };
    let peak = peak_flops(engine.isa(), PEAK_TIME) / 1e9;
    let reachable = peak * options.threads as f64;
    let mut bounds = 0.0;
    let steps: Vec<Step> = times
        .into_iter()
        .map(|(step, ms)| {
            let node = model.graph.node(step.node);
            let moves = matches!(
                step.kernel,
                "import"
                    | "bytes"
                    | "copy"
                    | "export"
                    | "upload"
                    | "download"
                    | "quantize"
                    | "pixel-shuffle"
                    | "find-cells"
                    | "take-cells"
            );
            let flops = if moves { 0.0 } else { 2.0 * macs[step.node.index()] as f64 };
            let gflops = if flops > 0.0 { over(flops / 1e6, ms) } else { 0.0 };
            let out = shapes[step.node.index()];
            let shape = match &node.op {
                Op::Conv(conv) if !moves => {
                    let window = format!("{0}x{0} s{1}", conv.kernel, conv.stride);
                    format!("{window} {} -> {} at {}x{}", conv.c_in, conv.c_out, out.h, out.w)
                }
                _ => format!("{} at {}x{}", out.c, out.h, out.w),
            };
            let roofline = match &gpu {
                None => gflops / reachable,
                // What crosses the bus is not the device's memory alone.
                Some(_) if matches!(step.kernel, "upload" | "download") => 0.0,
                Some(peaks) => {
                    let least = least_ms(peaks, dtype_of(&model.graph, step.kernel), flops, step.bytes as f64);
                    bounds += least;
                    over(least, ms)
                }
            };
            Step { layer: node.name.clone(), kernel: step.kernel, shape, ms, gflops, bytes: step.bytes, roofline }
        })
        .collect();
    Ok(Profile {
        peak_gflops: peak,
        threads: options.threads,
        imgsz: size,
        total_ms: steps.iter().map(|step| step.ms).sum(),
        lower_bound_ms: match gpu {
            None => 2.0 * macs.iter().sum::<usize>() as f64 / (reachable * 1e6),
            Some(_) => bounds,
        },
        gpu,
        steps,
    })
}

/// The dtype that a kernel of a GPU multiplies in.
fn dtype_of(graph: &Graph, kernel: &str) -> Dtype {
    match (graph.dtype, kernel) {
        (Dtype::F16, _) => Dtype::F16,
        (_, "int8") => Dtype::Int8,
        _ => Dtype::F32,
    }
}

/// Milliseconds at a GPU's peaks: the longer of operations and bytes.
fn least_ms(peaks: &GpuPeaks, dtype: Dtype, flops: f64, bytes: f64) -> f64 {
    let tera = match dtype {
        // Of the f32 units, or of tensor cores: three products of TF32 values, each at half the rate of f16.
        Dtype::F32 => peaks.f32_tflops.max(peaks.f16_tflops / 6.0),
        Dtype::F16 => peaks.f16_tflops,
        Dtype::Int8 => peaks.int8_tops,
    };
    over(flops, tera * 1e9).max(over(bytes, peaks.bandwidth_gb_s * 1e6))
}

/// Every step with its median milliseconds.
fn times(engine: &mut Engine, photo: &Photo, options: &Options) -> Result<Vec<(StepTime, f64)>, BenchError> {
    for _ in 0..options.warmup {
        photo.run(engine)?;
    }
    let mut seen: Vec<Vec<f64>> = Vec::new();
    let mut last = photo.profile(engine)?;
    seen.resize(last.len(), Vec::new());
    for _ in 0..options.runs {
        last = photo.profile(engine)?;
        seen.iter_mut().zip(&last).for_each(|(all, step)| all.push(step.nanos as f64 / 1e6));
    }
    Ok(last.into_iter().zip(seen).map(|(step, all)| (step, median(&all))).collect())
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{:<28} {:<10} {:<32} {:>8} {:>9} {:>6}", "layer", "kernel", "shape", "ms", "GFLOP/s", "peak")?;
        for s in &self.steps {
            let rate = match (s.gflops > 0.0, s.roofline > 0.0) {
                (true, _) => format!("{:9.1} {:5.0}%", s.gflops, 100.0 * s.roofline),
                (false, true) => format!("{:9} {:5.0}%", "", 100.0 * s.roofline),
                (false, false) => String::new(),
            };
            writeln!(f, "{:<28} {:<10} {:<32} {:8.3} {rate}", s.layer, s.kernel, s.shape, s.ms)?;
        }
        let mut kernels: Vec<(&str, f64, usize)> = Vec::new();
        for s in &self.steps {
            match kernels.iter_mut().find(|(name, ..)| *name == s.kernel) {
                Some((_, ms, count)) => (*ms, *count) = (*ms + s.ms, *count + 1),
                None => kernels.push((s.kernel, s.ms, 1)),
            }
        }
        kernels.sort_by(|a, b| b.1.total_cmp(&a.1));
        writeln!(f)?;
        for (name, ms, count) in kernels {
            writeln!(f, "{name:<10} {count:4} steps {ms:8.3} ms {:5.1} %", 100.0 * over(ms, self.total_ms))?;
        }
        let ratio = over(self.total_ms, self.lower_bound_ms);
        if let Some(GpuPeaks { f32_tflops, f16_tflops, int8_tops, bandwidth_gb_s }) = self.gpu {
            let uploaded = self.steps.iter().find(|step| step.kernel == "upload").map_or(0, |step| step.bytes);
            let reads_bytes = |step: &Step| matches!(step.kernel, "bytes" | "bytes-conv");
            let (pixels, as_bytes) = (self.imgsz.area() as u64, self.steps.iter().any(reads_bytes));
            let values = if as_bytes { "bytes" } else { "values in f32" };
            writeln!(f, "uploaded: {uploaded} bytes, the image's {pixels} pixels as {values}")?;
            return writeln!(
                f,
                "{} px on the GPU, launch after launch: {:.3} ms; the lower bound is {:.3} ms ({ratio:.2}x) at the measured \
                 peaks of {f32_tflops:.1} TFLOP/s in f32, {f16_tflops:.0} in f16, {int8_tops:.0} Tops/s in int8 and \
                 {bandwidth_gb_s:.0} GB/s",
                self.imgsz, self.total_ms, self.lower_bound_ms
            );
        }
        writeln!(
            f,
            "{} px, {} thread(s): {:.2} ms; the lower bound at {:.0} GFLOP/s per core is {:.2} ms ({:.2}x)",
            self.imgsz, self.threads, self.total_ms, self.peak_gflops, self.lower_bound_ms, ratio
        )
    }
}
