//! A compiled network on a CUDA device: one allocation of its memory, weights uploaded once, every launch decided
//! before the first frame, and a frame recorded as one CUDA graph.
//!
//! A network in f16 or f32 is computed on tensor cores ([`float`]); one of int8 in integers ([`int8`]), and what it has
//! in f32 with the bits of the CPU.

mod float;
mod fuse;
mod int8;
mod layout;

use super::compile::Slot;
use super::cuda::open;
use super::{EngineError, Memory, Options, StepTime};
use crate::graph::{Dtype, Graph, NodeId};
use crate::kernels::Buffer;
use crate::kernels::cuda::{CudaError, Device, Float, GpuPeaks, Launch, Transfers};
use crate::model::Model;

impl From<CudaError> for EngineError {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error.to_string())
    }
}

/// Name and compute capability of the CUDA device that networks would run on.
///
/// # Errors
/// If there is none, or it cannot run the code that this program carries: with the reason.
pub fn cuda_device() -> Result<String, EngineError> {
    let device = open(0)?;
    let (major, minor) = device.capability()?;
    Ok(format!("{} (compute capability {major}.{minor})", device.name()))
}

/// Measures the peaks of the CUDA device that networks would run on.
///
/// # Errors
/// If there is none, or it fails.
pub fn gpu_peaks() -> Result<GpuPeaks, EngineError> {
    Ok(GpuPeaks::measure(&mut open(0)?)?)
}

/// Makes a model ready for images of `height` x `width` on the machine's device.
pub(super) fn network(model: &Model, size: (usize, usize), options: &Options) -> Result<Network, EngineError> {
    Network::new(open(0)?, model, size, options)
}

/// What an engine of a graph will hold on both sides.
pub(super) fn memory(graph: &Graph, size: (usize, usize), options: &Options) -> Result<Memory, EngineError> {
    // Neither tiles nor ranges show in the memory.
    Ok(Plan::new(graph, size, options, &Target { multiprocessors: 1, range: &|_| [0.0, 1.0] })?
        .memory(options.images()))
}

/// What launches depend on besides the graph.
struct Target<'a> {
    multiprocessors: u32,
    /// The range of the input of a layer in int8.
    range: &'a dyn Fn(NodeId) -> [f32; 2],
}

/// The sizes of the parts of the device's memory, in values of f32: one after the other, each aligned.
#[derive(Clone, Copy, Debug)]
struct Parts {
    weights: usize,
    arena: usize,
    input: usize,
    outputs: usize,
}

impl Parts {
    const ALIGN: usize = 64;

    fn arena_at(&self) -> usize {
        self.weights.next_multiple_of(Self::ALIGN)
    }

    fn input_at(&self) -> usize {
        self.arena_at() + self.arena.next_multiple_of(Self::ALIGN)
    }

    fn outputs_at(&self) -> usize {
        self.input_at() + self.input.next_multiple_of(Self::ALIGN)
    }

    fn len(&self) -> usize {
        self.outputs_at() + self.outputs.next_multiple_of(Self::ALIGN)
    }
}

/// A launch, the node that it belongs to, and what it does.
#[derive(Clone, Debug)]
struct Planned {
    node: NodeId,
    name: &'static str,
    launch: Launch,
}

/// Everything about a run that follows from graph, size and options, without any weight.
struct Plan {
    parts: Parts,
    slots: Vec<Slot>,
    launches: Vec<Planned>,
    kernels: Kernels,
}

/// How the weights of a plan are packed.
enum Kernels {
    Float(Vec<float::Packed>),
    Int8(super::place::Program),
}

impl Plan {
    fn new(
        graph: &Graph,
        (height, width): (usize, usize),
        options: &Options,
        target: &Target,
    ) -> Result<Self, EngineError> {
        let (size, keep) = ((height, width), &options.keep);
        let plan = match graph.dtype {
            Dtype::F16 => float::plan(graph, size, keep, target, Float::F16)?,
            Dtype::F32 => float::plan(graph, size, keep, target, Float::F32)?,
            Dtype::Int8 => int8::plan(graph, size, keep, target)?,
        };
        let bytes = plan.parts.len().saturating_mul(4);
        match plan.launches.iter().all(|planned| planned.launch.in_bounds(bytes)) {
            true => Ok(plan),
            false => Err(CudaError::TooLarge.into()),
        }
    }

    fn weights(&self, model: &Model) -> Vec<f32> {
        let mut weights = vec![0.0; self.parts.weights];
        match &self.kernels {
            Kernels::Float(packed) => float::pack(model, packed, &mut weights),
            Kernels::Int8(program) => int8::pack(model, program, &mut weights),
        }
        weights
    }

    fn memory(&self, batch: usize) -> Memory {
        let Parts { weights, arena, input, outputs } = self.parts;
        let [weights, arena, ends] = [weights, arena, input + outputs].map(Buffer::bytes);
        // What goes in and comes out lies here for the whole batch, on the device for one image.
        Memory { weights, arena, scratch: ends + Buffer::bytes(batch * (input + outputs)) }
    }
}

/// A network in the memory of a device: weights, tensors between the layers, input, outputs, one after the other.
pub(super) struct Network {
    device: Device,
    plan: Plan,
    transfers: Transfers,
    batch: usize,
}

impl Network {
    /// Decides the launches, takes the memory that they need, uploads the weights and records the frame.
    ///
    /// # Errors
    /// If the graph does not fit the size, the device has not enough memory, or the network is too large for its
    /// kernels.
    pub fn new(
        mut device: Device,
        model: &Model,
        size: (usize, usize),
        options: &Options,
    ) -> Result<Self, EngineError> {
        let range = |node: NodeId| model.range(&model.graph.node(node).name);
        let target = Target { multiprocessors: device.multiprocessors()?, range: &range };
        let plan = Plan::new(&model.graph, size, options, &target)?;
        let parts = plan.parts;
        device.reserve(parts.len())?;
        device.upload(0, &plan.weights(model))?;
        let input = (parts.input_at(), parts.input);
        let transfers = Transfers { input, results: (parts.outputs_at(), parts.outputs) };
        let launches: Vec<&Launch> = plan.launches.iter().map(|planned| &planned.launch).collect();
        device.record(transfers, &launches, options.images())?;
        Ok(Self { device, plan, transfers, batch: options.images() })
    }

    /// Where the caller reads.
    pub fn slots(&self) -> &[Slot] {
        &self.plan.slots
    }

    /// Bytes held on both sides.
    pub fn memory(&self) -> Memory {
        self.plan.memory(self.batch)
    }

    /// The images `[batch, C, height, width]` that the next run reads.
    pub fn input_mut(&mut self) -> &mut [f32] {
        self.device.input_mut()
    }

    /// Values of one image, and of its results.
    pub fn one_image(&self) -> (usize, usize) {
        (self.transfers.input.1, self.transfers.results.1)
    }

    /// What the caller reads of the last run, image after image, slot after slot.
    pub fn results(&self) -> &[f32] {
        self.device.results()
    }

    /// Runs on the first images that [`Network::input_mut`] holds.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&mut self, images: usize) -> Result<(), EngineError> {
        Ok(self.device.run_frames(images)?)
    }

    /// Runs on one image of the batch, launch after launch; returns how long each took by the device's clock.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn profile(&mut self, image: usize) -> Result<Vec<StepTime>, EngineError> {
        let launches: Vec<&Launch> = self.plan.launches.iter().map(|planned| &planned.launch).collect();
        let times = self.device.time_frame(self.transfers, &launches, image)?;
        let last = self.plan.launches.last().map_or(NodeId(0), |planned| planned.node);
        let steps = self.plan.launches.iter().map(|planned| (planned.node, planned.name, planned.launch.traffic()));
        let [image, results] = [self.transfers.input.1, self.transfers.results.1].map(|values| 4 * values as u64);
        let all = std::iter::once((NodeId(0), "upload", image)).chain(steps).chain([(last, "download", results)]);
        let time =
            |((node, kernel, bytes), millis): (_, f64)| StepTime { node, kernel, nanos: (millis * 1e6) as u64, bytes };
        Ok(all.zip(times).map(time).collect())
    }
}

#[cfg(test)]
mod tests;
