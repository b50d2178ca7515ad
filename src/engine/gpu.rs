//! A compiled network on a CUDA device: one allocation of its memory, weights uploaded once, every launch decided
//! before the first frame, and a frame recorded as one CUDA graph.
//!
//! A network in f16 or f32 is computed on tensor cores ([`float`]); one of int8 in integers ([`int8`]), and what it has
//! in f32 with the bits of the CPU.

mod chosen;
mod float;
mod fuse;
mod int8;
mod layout;

use super::compile::Slot;
use super::cuda::open;
use super::{Cells, EngineError, Memory, Options, StepTime};
use crate::graph::{Dtype, Graph, NodeId};
use crate::kernels::Buffer;
use crate::kernels::cuda::{CudaError, Device, Float, Frame, GpuPeaks, Launch, Tensor, Transfers};
use crate::model::Model;
use chosen::Chosen;

impl From<CudaError> for EngineError {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error.to_string())
    }
}

/// Measures the peaks of the CUDA device of a number.
///
/// # Errors
/// If there is none, or it fails.
pub fn gpu_peaks(ordinal: u32) -> Result<GpuPeaks, EngineError> {
    Ok(GpuPeaks::measure(&mut open(ordinal)?)?)
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
    /// Behind the outputs: what takes those of some cells from them.
    chosen: usize,
}

/// The ways that an image can go: as values, or as bytes, of which the device makes values, and then all outputs come back.
const VALUES: usize = 0;
const BYTES: usize = 1;
/// Added to a way: the outputs of chosen cells come back.
const CHOSEN: usize = 2;

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

    /// Where the bytes of an image lie, before they are values.
    fn bytes_at(&self) -> usize {
        self.outputs_at() + (self.outputs + self.chosen).next_multiple_of(Self::ALIGN)
    }

    /// What the bytes of an image take.
    fn bytes(&self) -> usize {
        self.input.div_ceil(4)
    }

    fn len(&self) -> usize {
        self.bytes_at() + self.bytes().next_multiple_of(Self::ALIGN)
    }

    /// Makes the bytes of an image its values.
    fn conversion(&self) -> Launch {
        Launch::from_bytes(4 * self.bytes_at(), Tensor::planes(4 * self.input_at(), self.input, 1, 1))
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
    /// Where a frame can give the outputs of some cells only.
    chosen: Option<Chosen>,
}

/// The first value of the input that belongs to a node: that of its tensor, where the caller gives it, else of the image.
fn given_at(given: &[Slot], node: NodeId) -> usize {
    given.iter().find(|slot| slot.node == node).map_or(0, |slot| slot.offset)
}

/// How the weights of a plan are packed.
enum Kernels {
    Float(Vec<float::Packed>),
    Int8(super::place::Program),
}

impl Plan {
    fn new(graph: &Graph, size: (usize, usize), options: &Options, target: &Target) -> Result<Self, EngineError> {
        let plan = match graph.dtype {
            Dtype::F16 => float::plan(graph, size, options, target, Float::F16)?,
            Dtype::F32 => float::plan(graph, size, options, target, Float::F32)?,
            Dtype::Int8 => int8::plan(graph, size, options, target)?,
        };
        let bytes = plan.parts.len().saturating_mul(4);
        let fits = |planned: &Planned| planned.launch.in_bounds(bytes);
        match plan.ways().all(|way| plan.launches(way).iter().all(fits)) {
            true => Ok(plan),
            false => Err(CudaError::TooLarge.into()),
        }
    }

    /// All ways that an image can go.
    fn ways(&self) -> impl Iterator<Item = usize> + use<> {
        0..if self.chosen.is_some() { 2 * CHOSEN } else { CHOSEN }
    }

    /// The launches of a frame of an image that goes a way.
    fn launches(&self, way: usize) -> Vec<Planned> {
        let mut launches = if way % CHOSEN == BYTES { self.launches_on_bytes() } else { self.launches.clone() };
        let chosen = self.chosen.as_ref().filter(|_| way >= CHOSEN);
        launches.extend(chosen.into_iter().flat_map(|chosen| chosen.launches(self.parts.outputs_at())));
        launches
    }

    /// The launches of the network on the bytes of an image. They become values first, unless whoever reads them takes bytes.
    fn launches_on_bytes(&self) -> Vec<Planned> {
        let (first, bytes) = (4 * self.parts.input_at(), 4 * self.parts.bytes_at());
        let of_bytes = |planned: &Planned| match planned.launch.reads_from(first..first + 4 * self.parts.input) {
            true => planned.launch.of_bytes(bytes).map(|launch| Planned { name: "bytes-conv", launch, ..*planned }),
            false => Some(planned.clone()),
        };
        self.launches.iter().map(of_bytes).collect::<Option<Vec<Planned>>>().unwrap_or_else(|| {
            let conversion = Planned { node: NodeId(0), name: "bytes", launch: self.parts.conversion() };
            [&[conversion], &self.launches[..]].concat()
        })
    }

    /// What is copied of an image that goes a way.
    fn transfers(&self, way: usize) -> Transfers {
        let parts = &self.parts;
        let input = match way % CHOSEN {
            BYTES => (parts.bytes_at(), parts.bytes()),
            _ => (parts.input_at(), parts.input),
        };
        let chosen = self.chosen.as_ref().filter(|_| way >= CHOSEN);
        let all = (parts.outputs_at(), parts.outputs);
        Transfers { input, results: chosen.map_or(all, |chosen| chosen.results(parts.outputs_at())) }
    }

    /// What a frame does of an image that goes a way, of the launches of that way.
    fn frame<'a>(&self, way: usize, launches: &'a [Planned]) -> Frame<'a> {
        let launches = launches.iter().map(|planned| &planned.launch).collect();
        Frame { transfers: self.transfers(way), launches }
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
        let Parts { weights, arena, input, outputs, chosen } = self.parts;
        let ends = input + outputs + chosen + self.parts.bytes();
        let [weights, arena, ends] = [weights, arena, ends].map(Buffer::bytes);
        // What goes in and comes out lies here for the whole batch, on the device for one image.
        Memory { weights, arena, scratch: ends + Buffer::bytes(batch * (input + outputs)) }
    }
}

/// A network in the memory of a device: weights, tensors between the layers, input, outputs, one after the other.
pub(super) struct Network {
    device: Device,
    plan: Plan,
    /// By image of a batch: the way that it goes.
    ways: Vec<usize>,
    /// By image: of how many chosen cells its results are; all outputs without.
    found: Vec<Option<usize>>,
    /// The threshold that the device has.
    least: Option<f32>,
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
        let launches: Vec<Vec<Planned>> = plan.ways().map(|way| plan.launches(way)).collect();
        let frames: Vec<Frame> = plan.ways().map(|way| plan.frame(way, &launches[way])).collect();
        device.record(&frames, options.images())?;
        let images = options.images();
        Ok(Self { device, plan, ways: vec![VALUES; images], found: vec![None; images], least: None })
    }

    /// Where the caller reads.
    pub fn slots(&self) -> &[Slot] {
        &self.plan.slots
    }

    /// Bytes held on both sides.
    pub fn memory(&self) -> Memory {
        self.plan.memory(self.ways.len())
    }

    /// The images `[batch, C, height, width]` that the next run reads as values.
    pub fn input_mut(&mut self) -> &mut [f32] {
        (0..self.ways.len()).for_each(|image| self.enter_as(image, VALUES));
        self.device.input_mut()
    }

    /// An image `[C, height, width]` of the batch, which the next run reads as values.
    pub fn image_mut(&mut self, image: usize) -> &mut [f32] {
        self.enter_as(image, VALUES);
        let len = self.plan.parts.input;
        &mut self.device.input_mut()[image * len..(image + 1) * len]
    }

    /// The same as bytes, of which values are the 255th part.
    pub fn bytes_mut(&mut self, image: usize) -> &mut [u8] {
        self.enter_as(image, BYTES);
        let len = self.plan.parts.input;
        let values = &mut self.device.input_mut()[image * len..(image + 1) * len];
        &mut bytemuck::cast_slice_mut(values)[..len]
    }

    /// Values of one image, and of its results.
    pub fn one_image(&self) -> (usize, usize) {
        (self.plan.parts.input, self.plan.parts.outputs)
    }

    fn enter_as(&mut self, image: usize, way: usize) {
        self.ways[image] = self.ways[image] / CHOSEN * CHOSEN + way;
    }

    /// As [`Engine::select_cells`](super::Engine::select_cells).
    ///
    /// # Errors
    /// If the device fails.
    pub fn select_cells(&mut self, least: Option<f32>) -> Result<(), EngineError> {
        let Some(chosen) = &self.plan.chosen else { return Ok(()) };
        if let Some(least) = least
            && self.least.map(f32::to_bits) != Some(least.to_bits())
        {
            self.device.enter()?;
            self.device.upload(chosen.least_at(self.plan.parts.outputs_at()), &[least])?;
            self.least = Some(least);
        }
        let added = if least.is_some() { CHOSEN } else { 0 };
        self.ways.iter_mut().for_each(|way| *way = *way % CHOSEN + added);
        Ok(())
    }

    /// As [`Engine::cells_of`](super::Engine::cells_of).
    pub fn cells_of(&self, image: usize) -> Option<Cells<'_>> {
        Some(self.plan.chosen.as_ref()?.cells(self.results_of(image), self.found[image]?))
    }

    /// What the caller reads of a slot, of the last run.
    pub fn output(&self, image: usize, slot: usize) -> &[f32] {
        let (results, slots) = (self.results_of(image), &self.plan.slots);
        match self.plan.chosen.as_ref().filter(|_| self.found[image].is_some()) {
            Some(chosen) => chosen.output(results, slots, slot),
            None => &results[slots[slot].range()],
        }
    }

    fn results_of(&self, image: usize) -> &[f32] {
        let len = self.plan.parts.outputs;
        &self.device.results()[image * len..(image + 1) * len]
    }

    /// Runs on the first images of the batch, each as it was last written.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&mut self, images: usize) -> Result<(), EngineError> {
        self.device.run_frames(0, &self.ways[..images])?;
        (0..images).rev().try_for_each(|image| self.settle(image, image + 1 == images))
    }

    /// Looks at what came back of an image: where more cells passed than a table has room for, all outputs take its place.
    /// They still lie on the device if the image is the `last` that ran there; else it runs again.
    fn settle(&mut self, image: usize, last: bool) -> Result<(), EngineError> {
        let way = self.ways[image];
        let chosen = self.plan.chosen.as_ref().filter(|_| way >= CHOSEN);
        self.found[image] = chosen.and_then(|chosen| chosen.count(self.results_of(image)));
        if way < CHOSEN || self.found[image].is_some() {
            return Ok(());
        }
        let way = way % CHOSEN;
        let came = match last {
            true => self.device.fetch_results(self.plan.transfers(way).results, image),
            false => self.device.run_frames(image, &[way]),
        };
        Ok(came?)
    }

    /// Runs on one image of the batch, launch after launch; returns how long each took by the device's clock.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn profile(&mut self, image: usize) -> Result<Vec<StepTime>, EngineError> {
        let way = self.ways[image];
        let planned = self.plan.launches(way);
        let Frame { transfers, launches } = self.plan.frame(way, &planned);
        let times = self.device.time_frame(transfers, &launches, image)?;
        self.settle(image, true)?;
        let last = planned.last().map_or(NodeId(0), |planned| planned.node);
        let steps = planned.iter().map(|planned| (planned.node, planned.name, planned.launch.traffic()));
        let [image, results] = [transfers.input.1, transfers.results.1].map(|values| 4 * values as u64);
        let upload = std::iter::once((NodeId(0), "upload", image));
        let all = upload.chain(steps).chain([(last, "download", results)]);
        let time =
            |((node, kernel, bytes), millis): (_, f64)| StepTime { node, kernel, nanos: (millis * 1e6) as u64, bytes };
        Ok(all.zip(times).map(time).collect())
    }
}

#[cfg(test)]
mod tests;
