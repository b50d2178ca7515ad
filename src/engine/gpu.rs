//! A compiled network on a CUDA device: one allocation of its memory, weights uploaded once, every launch decided
//! before the first frame.

use super::arithmetic::Arithmetic;
use super::compile::{Action, Program, Slot, compile};
use super::{EngineError, Options, StepTime, fold};
use crate::graph::{Attention, Conv, Dtype, NodeId, Shape};
use crate::kernels::cuda::{self, CudaError, Device, Launch, Operands, TensorView};
use crate::kernels::{Algorithm, ConvSpec, View};
use crate::model::Model;
use std::time::Instant;

impl From<CudaError> for EngineError {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error.to_string())
    }
}

/// The arithmetic of `kernels::cuda`: everything in f32.
struct Cuda;

impl Arithmetic for Cuda {
    fn algorithm(&self, _: &Conv, _: Shape, _: Dtype) -> Algorithm {
        Algorithm::Direct
    }

    fn packed_len(&self, spec: &ConvSpec, depthwise: bool) -> usize {
        if depthwise { cuda::packed_depthwise_len(spec) } else { cuda::packed_conv_len(spec) }
    }

    fn pack(&self, spec: &ConvSpec, depthwise: bool, kernel: &[f32], bias: &[f32], _: [f32; 2], packed: &mut [f32]) {
        match depthwise {
            true => cuda::pack_depthwise(spec, kernel, bias, packed),
            false => cuda::pack_conv(spec, kernel, bias, packed),
        }
    }

    fn working_space(&self, _: &ConvSpec) -> (usize, usize) {
        (0, 0)
    }

    fn quantized_len(&self, _: &ConvSpec, _: Shape) -> usize {
        0
    }

    fn attention_space(&self, _: &Attention, _: usize) -> (usize, usize) {
        (0, 0)
    }
}

/// Compiles a graph for the kernels of a CUDA device.
pub(super) fn program(model: &Model, height: usize, width: usize, options: &Options) -> Result<Program, EngineError> {
    compile(&model.graph, height, width, &options.keep, &Cuda)
}

/// A network in the memory of a device: weights, tensors between the layers, input, outputs, one after the other.
pub(super) struct Network {
    device: Device,
    launches: Vec<(NodeId, &'static str, Launch)>,
    input: usize,
    outputs: usize,
}

impl Network {
    /// Takes the memory that a program of [`program`] needs, uploads the weights and decides the launches.
    ///
    /// # Errors
    /// If the device has not enough memory, or the network is too large for its kernels.
    pub fn new(mut device: Device, model: &Model, program: &Program) -> Result<Self, EngineError> {
        let align = |values: usize| values.next_multiple_of(64);
        let arena = align(program.weights);
        let input = arena + align(program.arena);
        let outputs = input + align(program.input);
        let values = outputs + align(program.outputs);
        let launches = Layout { arena, input, outputs, slots: &program.slots }.launches(program)?;
        if !launches.iter().all(|(.., launch)| launch.in_bounds(values)) {
            return Err(CudaError::TooLarge.into());
        }
        device.reserve(values)?;
        let mut weights = vec![0.0; program.weights];
        fold::pack(&Cuda, model, program, &mut weights);
        device.upload(0, &weights)?;
        Ok(Self { device, launches, input, outputs })
    }

    /// Runs on an image `[C, height, width]` and fetches what the caller reads.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run(&mut self, image: &[f32], results: &mut [f32]) -> Result<(), EngineError> {
        self.device.enter()?;
        self.device.upload(self.input, image)?;
        for (.., launch) in &self.launches {
            self.device.launch(launch)?;
        }
        Ok(self.device.download(self.outputs, results)?)
    }

    /// As [`Network::run`]; waits for every step, and returns how long it took from its start to its end.
    ///
    /// # Errors
    /// As [`Network::run`].
    pub fn profile(&mut self, image: &[f32], results: &mut [f32]) -> Result<Vec<StepTime>, EngineError> {
        let mut times = Vec::with_capacity(self.launches.len() + 2);
        let nanos = |since: Instant| since.elapsed().as_nanos() as u64;
        self.device.enter()?;
        let start = Instant::now();
        self.device.upload(self.input, image)?;
        times.push(StepTime { node: NodeId(0), kernel: "upload", nanos: nanos(start) });
        for (node, kernel, launch) in &self.launches {
            let start = Instant::now();
            self.device.launch(launch)?;
            self.device.wait()?;
            times.push(StepTime { node: *node, kernel, nanos: nanos(start) });
        }
        let start = Instant::now();
        self.device.download(self.outputs, results)?;
        let last = self.launches.last().map_or(NodeId(0), |(node, ..)| *node);
        times.push(StepTime { node: last, kernel: "download", nanos: nanos(start) });
        Ok(times)
    }
}

/// Where the parts of the memory begin.
struct Layout<'a> {
    arena: usize,
    input: usize,
    outputs: usize,
    slots: &'a [Slot],
}

impl Layout<'_> {
    fn launches(&self, program: &Program) -> Result<Vec<(NodeId, &'static str, Launch)>, EngineError> {
        let large = |n: usize| n >= 1 << 24;
        let mut launches = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            if step.action.tensors().iter().any(|view| [view.pitch, view.h, view.w].into_iter().any(large)) {
                return Err(CudaError::TooLarge.into());
            }
            launches.push((step.node, step.action.name(), self.launch(&step.action)));
        }
        Ok(launches)
    }

    fn launch(&self, action: &Action<View>) -> Launch {
        let at = |view: &View| TensorView::pixels(self.arena, *view);
        // As the caller sees it: plane after plane.
        let image = |c: usize, h: usize, w: usize| TensorView::planes(self.input, c, h, w);
        let slot = |slot: &usize| {
            let Slot { shape, offset, .. } = &self.slots[*slot];
            TensorView::planes(self.outputs + offset, shape.c, shape.h, shape.w)
        };
        match action {
            Action::Import { dst } => Launch::upsample(1, image(dst.c, dst.h, dst.w), at(dst)),
            Action::ConvImage { spec, packed, size: (h, w), dst, residual } => {
                let operands = Operands { packed: packed.start, residual: residual.as_ref().map(at) };
                Launch::conv(spec, operands, image(spec.c_in, *h, *w), at(dst))
            }
            Action::ConvOut { spec, packed, src, slot: index } => {
                Launch::conv(spec, Operands { packed: packed.start, residual: None }, at(src), slot(index))
            }
            Action::Conv { spec, depthwise, packed, src, dst, residual } => {
                let operands = Operands { packed: packed.start, residual: residual.as_ref().map(at) };
                let make = if *depthwise { Launch::depthwise } else { Launch::conv };
                make(spec, operands, at(src), at(dst))
            }
            // `Cuda::algorithm` never asks for it; its weights are packed like those of any other.
            Action::ConvLowPrecision { spec, packed, src, dst, residual, .. } => {
                let operands = Operands { packed: packed.start, residual: residual.as_ref().map(at) };
                Launch::conv(spec, operands, at(src), at(dst))
            }
            Action::MaxPool { window, src, dst } => Launch::max_pool(*window, at(src), at(dst)),
            Action::Upsample { factor, src, dst } => Launch::upsample(*factor, at(src), at(dst)),
            Action::PixelShuffle { factor, src, dst } => Launch::pixel_shuffle(*factor, at(src), at(dst)),
            Action::Activate { act, src, dst } => Launch::activate(*act, at(src), at(dst)),
            Action::Copy { src, dst } => Launch::upsample(1, at(src), at(dst)),
            Action::Add { a, b, dst } => Launch::add(at(a), at(b), at(dst)),
            Action::Attention { op, src, dst, .. } => Launch::attention(op, at(src), at(dst)),
            Action::AttentionValues { op, src, dst } => Launch::attention_values(op, at(src), at(dst)),
            Action::Average { src, dst } => Launch::average(at(src), at(dst)),
            Action::Export { slot: index, src } => Launch::upsample(1, at(src), slot(index)),
        }
    }
}

#[cfg(test)]
mod tests;
