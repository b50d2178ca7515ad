//! The arithmetic of the CPU, and a compiled network that runs on it.

use super::arithmetic::Arithmetic;
use super::compile::{Action, Slot, Step};
use super::place::Program;
use super::{Options, StepTime, fold};
use crate::graph::{Attention, Conv, Dtype, Shape};
use crate::kernels::{self, Algorithm, Buffer, ConvSpec, Image, Isa, Kernels, PackedConv, View};
use crate::model::Model;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The arithmetic of a CPU. What an engine holds on another machine depends on whether its CPU computes in f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The instruction set.
    pub isa: Isa,
    /// Whether it computes in f16; if not, weights are only stored in f16, and layers computed in f32.
    pub f16: bool,
}

impl Cpu {
    /// The CPU of this machine.
    pub fn here() -> Self {
        Isa::detect().into()
    }
}

impl From<Isa> for Cpu {
    fn from(isa: Isa) -> Self {
        Self { isa, f16: kernels::computes_f16(isa) }
    }
}

impl Arithmetic for Cpu {
    fn algorithm(&self, conv: &Conv, out: Shape, dtype: Dtype, network: Dtype) -> Algorithm {
        match dtype {
            Dtype::Int8 => Algorithm::Int8,
            Dtype::F16 if self.f16 => Algorithm::F16,
            _ => Algorithm::of_f32(conv, out, network),
        }
    }

    fn packed_len(&self, spec: &ConvSpec, depthwise: bool) -> usize {
        if depthwise { kernels::packed_depthwise_len(spec) } else { kernels::packed_conv_len(self.isa, spec) }
    }

    fn pack(
        &self,
        spec: &ConvSpec,
        depthwise: bool,
        kernel: &[f32],
        bias: &[f32],
        range: [f32; 2],
        packed: &mut [f32],
    ) {
        match (depthwise, spec.algorithm) {
            (true, _) => kernels::pack_depthwise(spec, kernel, bias, packed),
            (_, Algorithm::Int8) => kernels::pack_int8(self.isa, spec, kernel, bias, range, packed),
            (_, Algorithm::F16) => kernels::pack_f16(self.isa, spec, kernel, bias, packed),
            _ => kernels::pack_conv(self.isa, spec, kernel, bias, packed),
        }
    }

    fn working_space(&self, spec: &ConvSpec) -> (usize, usize) {
        (kernels::conv_scratch(self.isa, spec), kernels::conv_zeros(spec))
    }

    fn quantized_len(&self, spec: &ConvSpec, input: Shape) -> usize {
        kernels::quantized_len(self.isa, spec, input.h, input.w)
    }

    fn attention_space(&self, op: &Attention, pixels: usize) -> (usize, usize) {
        kernels::attention_scratch(self.isa, op, pixels)
    }
}

/// A network in the memory of the CPU: packed weights, the tensors between the layers, and the threads that compute.
pub(super) struct Network {
    steps: Vec<Step<View>>,
    slots: Vec<Slot>,
    given: Vec<Slot>,
    kernels: Kernels,
    weights: Arc<Buffer>,
    arena: Buffer,
    /// Working space per thread, and zeros.
    space: [usize; 2],
}

impl Network {
    /// Packs the weights and takes the memory that a program compiled for this instruction set needs. `None` if there
    /// is not enough memory.
    pub fn new(isa: Isa, model: &Model, program: &Program, options: &Options) -> Option<Self> {
        let mut weights = Buffer::zeroed(program.weights)?;
        fold::pack(&Cpu::from(isa), model, program, weights.as_mut_slice());
        let mut kernels = Kernels::new(isa, options.threads.max(1), program.space, program.zeros)?;
        if options.pin {
            kernels.pin();
        }
        let arena = Buffer::zeroed(program.arena)?;
        let (steps, slots, given) = (program.steps.clone(), program.slots.clone(), program.given.clone());
        let (weights, space) = (Arc::new(weights), [program.space, program.zeros]);
        Some(Self { steps, slots, given, kernels, weights, arena, space })
    }

    /// The same network with memory and threads of its own for all but the weights, which both share. `None` if there
    /// is not enough memory.
    pub fn twin(&self) -> Option<Self> {
        let [space, zeros] = self.space;
        Some(Self {
            steps: self.steps.clone(),
            slots: self.slots.clone(),
            given: self.given.clone(),
            kernels: Kernels::new(self.kernels.isa(), self.kernels.threads(), space, zeros)?,
            weights: self.weights.clone(),
            arena: Buffer::zeroed(self.arena.as_slice().len())?,
            space: self.space,
        })
    }

    /// The instruction set that the kernels use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// Runs on an image `[C, height, width]` and writes what the caller reads.
    pub fn run(&mut self, image: &[f32], results: &mut [f32]) {
        (0..self.steps.len()).for_each(|index| self.step(index, image, results));
    }

    /// As [`Network::run`]; returns how long every step took.
    pub fn profile(&mut self, image: &[f32], results: &mut [f32]) -> Vec<StepTime> {
        let mut times = Vec::with_capacity(self.steps.len());
        for index in 0..self.steps.len() {
            let start = Instant::now();
            self.step(index, image, results);
            let nanos = start.elapsed().as_nanos() as u64;
            let Step { node, action } = &self.steps[index];
            times.push(StepTime { node: *node, kernel: action.name(), nanos, bytes: 0 });
        }
        times
    }

    fn step(&mut self, index: usize, image: &[f32], results: &mut [f32]) {
        let Self { kernels, arena, weights, slots, given, .. } = self;
        let conv = |spec, packed: &Range<usize>| PackedConv { spec, weights: &weights.as_slice()[packed.clone()] };
        match &self.steps[index].action {
            Action::Import { dst } => {
                let mine = given.iter().find(|slot| slot.node == self.steps[index].node);
                kernels::import(mine.map_or(image, |slot| &image[slot.range()]), arena, *dst);
            }
            Action::ConvImage { spec, packed, size: (height, width), dst, residual } => {
                let image = Image { values: image, height: *height, width: *width };
                kernels::conv_image(kernels, arena, conv(spec, packed), image, *dst, *residual);
            }
            Action::ConvOut { spec, packed, src, slot } => {
                kernels::conv_planes(kernels, arena, conv(spec, packed), *src, &mut results[slots[*slot].range()]);
            }
            Action::Conv { spec, depthwise, packed, src, dst, residual } => {
                let run = if *depthwise { kernels::depthwise } else { kernels::conv };
                run(kernels, arena, conv(spec, packed), *src, *dst, *residual);
            }
            Action::ConvLowPrecision { spec, packed, src, dst, residual, shared } => {
                kernels::conv_low_precision(kernels, arena, conv(spec, packed), *src, *dst, *residual, *shared);
            }
            Action::MaxPool { window, src, dst } => kernels::max_pool(kernels, arena, *window, *src, *dst),
            Action::Upsample { factor, src, dst } => kernels::upsample(kernels, arena, *factor, *src, *dst),
            Action::PixelShuffle { factor, src, dst } => kernels::pixel_shuffle(arena, *factor, *src, *dst),
            Action::Activate { act, src, dst } => kernels::activate(kernels, arena, *act, *src, *dst),
            Action::Copy { src, dst } => kernels::copy(kernels, arena, *src, *dst),
            Action::Add { a, b, dst } => kernels::add(kernels, arena, *a, *b, *dst),
            Action::Attention { op, src, dst, shared } => {
                kernels::attention(kernels, arena, op, *src, *dst, *shared);
            }
            Action::AttentionValues { op, src, dst } => kernels::attention_values(kernels, arena, op, *src, *dst),
            Action::Average { src, dst } => kernels::global_average(arena, *src, *dst),
            Action::Export { slot, src } => kernels::export(kernels, arena, *src, &mut results[slots[*slot].range()]),
        }
    }
}
