//! How models of a job run on the device: their dtype there, the CPU or GPU that memory is planned for, and the input
//! ranges of the layers where these are int8.

use super::baseline::Baseline;
use super::calibration::CalibrationSet;
use crate::engine::{Cpu, Device, Options, plan_memory_for};
use crate::graph::{Dtype, Graph};
use crate::memory::Deployed;
use crate::model::Model;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::pipeline::job::Job;
use crate::quantise::{self, Ranges};
use crate::runtimes::Runtime;
use crate::size::ImageSize;
use std::borrow::Cow;

/// Calibration images that show how large the layers' inputs get.
pub const RANGE_IMAGES: usize = 64;

/// Models as the device runs them.
pub struct Deployment {
    dtype: Dtype,
    threads: usize,
    batch: usize,
    cpu: Cpu,
    device: Device,
    imgsz: ImageSize,
    /// The input ranges of the baseline model's layers for int8; else empty.
    ranges: Ranges,
}

impl Deployment {
    /// The deployment of a job.
    ///
    /// # Errors
    /// If the baseline model cannot be run.
    pub fn new(job: &Job, baseline: &Baseline, calibration: &CalibrationSet) -> Result<Self, PipelineError> {
        let (source, imgsz) = (job.timing.source(), baseline.imgsz);
        let (cpu, device) = (source.cpu(), source.device());
        let zero_centred = || Ok::<_, PipelineError>(source.runtime().is_some_and(Runtime::is_zero_centred));
        let zero_centred = job.ranks.by_first(zero_centred)?;
        let ranges = match job.dtype {
            Dtype::Int8 if zero_centred => quantise::symmetric(&ranges(&baseline.model, imgsz, calibration)?),
            Dtype::Int8 => ranges(&baseline.model, imgsz, calibration)?,
            _ => Ranges::default(),
        };
        Ok(Self { dtype: job.dtype, threads: job.threads, batch: job.batch, cpu, device, imgsz, ranges })
    }

    /// Whether the device only stores f16, and computes in f32.
    pub fn stores_only(&self) -> bool {
        self.dtype == Dtype::F16 && self.device == Device::Cpu && !self.cpu.f16
    }

    /// A model of the job as the device runs it, for its time and its size: the inputs of its layers are quantized by the
    /// ranges of the baseline model.
    pub fn on_device<'a>(&self, model: &'a Model) -> Cow<'a, Model> {
        match self.dtype {
            Dtype::F32 => Cow::Borrowed(model),
            Dtype::F16 => Cow::Owned(quantise::to_f16(model)),
            Dtype::Int8 => Cow::Owned(quantise::quantise(model, &self.ranges)),
        }
    }

    /// The graph of the baseline model as the device runs it.
    pub fn graph(&self, baseline: &Baseline) -> Graph {
        let dtype = if self.stores_only() { Dtype::F32 } else { self.dtype };
        Graph { dtype, ..baseline.model.graph.clone() }
    }

    /// A graph of the job on its device.
    pub fn deployed<'a>(&self, graph: &'a Graph) -> Deployed<'a> {
        Deployed { graph, size: (self.imgsz.height, self.imgsz.width), device: self.device }
    }

    /// What the engine will hold for a model in the dtype that it ships in, bytes.
    ///
    /// # Errors
    /// If the engine refuses the model.
    pub fn memory(&self, model: &Model) -> Result<usize, PipelineError> {
        let options = Options { threads: self.threads, batch: self.batch, device: self.device, ..Options::default() };
        let memory = plan_memory_for(&model.graph, self.imgsz.height, self.imgsz.width, &options, self.cpu);
        Ok(memory.during(Task::Memory)?.total())
    }

    /// The dtype that the job's model ships in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
}

fn ranges(model: &Model, size: ImageSize, calibration: &CalibrationSet) -> Result<Ranges, PipelineError> {
    let step = (calibration.images.len() / RANGE_IMAGES).max(1);
    let images: Vec<_> = calibration.images.iter().step_by(step).take(RANGE_IMAGES).cloned().collect();
    quantise::ranges(model, &images, (size.height, size.width), &mut |_, _| ()).during(Task::Ranges)
}
