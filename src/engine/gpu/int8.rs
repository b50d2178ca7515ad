//! Networks with layers in int8, on f32 tensors: the input of such a layer is quantized before a product on tensor cores.
//! Every other layer is computed in f32 in the CPU's order, so that the whole has the bits of the CPU.

use super::super::arithmetic::Arithmetic;
use super::super::compile::{Action, Emitted, Location, Step, emit};
use super::super::place::{Program, place};
use super::super::{EngineError, Options, fold};
use super::chosen::Chosen;
use super::{Kernels, Parts, Plan, Planned, Target, given_at};
use crate::graph::{Attention, Conv, Dtype, Graph, NodeId, Shape};
use crate::kernels::cuda::{self, ConvTensors, CudaError, Launch, Operands, Quantize, Tensor, TensorView};
use crate::kernels::{Algorithm, ConvSpec, View};
use crate::model::Model;

/// The arithmetic of the kernels on f32 tensors. A layer of f16 among those of int8 is computed in f32.
struct Exact;

impl Arithmetic for Exact {
    fn algorithm(&self, _: &Conv, _: Shape, dtype: Dtype, _: Dtype) -> Algorithm {
        match dtype {
            Dtype::Int8 => Algorithm::Int8,
            _ => Algorithm::Direct,
        }
    }

    fn packed_len(&self, spec: &ConvSpec, depthwise: bool) -> usize {
        match (depthwise, spec.algorithm) {
            (true, _) => cuda::packed_depthwise_len(spec),
            (_, Algorithm::Int8) => cuda::packed_int8_bytes(spec).div_ceil(4),
            _ => cuda::packed_conv_len(spec),
        }
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
            (true, _) => cuda::pack_depthwise(spec, kernel, bias, packed),
            (_, Algorithm::Int8) => {
                let bytes = &mut bytemuck::cast_slice_mut(packed)[..cuda::packed_int8_bytes(spec)];
                cuda::pack_int8_product(spec, kernel, bias, range, bytes);
            }
            _ => cuda::pack_conv(spec, kernel, bias, packed),
        }
    }

    fn working_space(&self, _: &ConvSpec) -> (usize, usize) {
        (0, 0)
    }

    fn quantized_len(&self, spec: &ConvSpec, input: Shape) -> usize {
        Tensor::int8_bytes(spec.c_in, input.h, input.w).div_ceil(4)
    }

    fn attention_space(&self, _: &Attention, _: usize) -> (usize, usize) {
        (0, 0)
    }
}

pub(super) fn plan(
    graph: &Graph,
    size: (usize, usize),
    options: &Options,
    target: &Target,
) -> Result<Plan, EngineError> {
    let emitted = emit(graph, size, options, &Exact)?;
    let requantized = requantized(&emitted);
    let mut program = place(emitted);
    let chosen = Chosen::arrange(graph, size, options, &mut program.slots);
    let Program { weights, arena, input, outputs, .. } = program;
    let parts = Parts { weights, arena, input, outputs, chosen: chosen.as_ref().map_or(0, Chosen::len) };
    let large = |n: usize| n >= 1 << 24;
    let mut launches = Vec::with_capacity(program.steps.len());
    let lowering = Lowering { parts, program: &program, requantized: &requantized, target };
    for (index, step) in program.steps.iter().enumerate() {
        if step.action.tensors().iter().any(|view| [view.pitch, view.h, view.w].into_iter().any(large)) {
            return Err(CudaError::TooLarge.into());
        }
        let own = lowering.launches(index, step);
        launches.extend(own.into_iter().map(|(name, launch)| Planned { node: step.node, name, launch }));
    }
    Ok(Plan { parts, slots: program.slots.clone(), launches, kernels: Kernels::Int8(program), chosen })
}

/// Packs the weights of every convolution.
pub(super) fn pack(model: &Model, program: &Program, weights: &mut [f32]) {
    fold::pack(&Exact, model, program, weights);
}

/// The pairs of int8 convolutions of which the second is the only reader of the first: steps by position. The first then
/// quantizes its output for the second, in place of the f32 values, of which four or more channels hold 16 bytes.
fn requantized(Emitted { steps, roots, .. }: &Emitted) -> Vec<(usize, usize)> {
    let mut touching: Vec<Vec<usize>> = vec![Vec::new(); roots.len()];
    for (index, step) in steps.iter().enumerate() {
        step.action.tensors().iter().for_each(|location| touching[location.root].push(index));
    }
    let pair = |(first, step): (usize, &Step<Location>)| {
        let Action::ConvLowPrecision { dst, .. } = &step.action else { return None };
        let whole = Location { root: dst.root, start: 0, pixel: 0, shape: roots[dst.root] };
        let [_, second] = touching[dst.root][..] else { return None };
        let Action::ConvLowPrecision { src, .. } = &steps[second].action else { return None };
        (*dst == whole && *src == whole && second > first && dst.shape.c >= 4).then_some((first, second))
    };
    steps.iter().enumerate().filter_map(pair).collect()
}

/// From steps to launches.
struct Lowering<'a> {
    parts: Parts,
    program: &'a Program,
    requantized: &'a [(usize, usize)],
    target: &'a Target<'a>,
}

impl Lowering<'_> {
    fn launches(&self, index: usize, Step { node, action }: &Step<View>) -> Vec<(&'static str, Launch)> {
        let Action::ConvLowPrecision { spec, packed, src, dst, residual, shared: Some(shared) } = action else {
            return vec![(action.name(), self.launch(*node, action))];
        };
        let base = self.parts.arena_at();
        let at = |view: &View| Tensor::f32(4 * base, *view);
        let int8 = |offset: usize, view: &View| Tensor::int8(4 * (base + offset), view.c, view.h, view.w);
        let is_requantized = self.requantized.iter().any(|(_, second)| *second == index);
        let reader = self.requantized.iter().find(|(first, _)| *first == index).map(|(_, second)| *second);
        let input = int8(if is_requantized { src.offset } else { shared.offset }, src);
        let output = if reader.is_some() { int8(dst.offset, dst) } else { at(dst) };
        let tensors = ConvTensors {
            packed: 4 * packed.start,
            src: input,
            dst: output,
            other: residual.as_ref().map(at),
            member: None,
        };
        let for_reader = reader.map(|second| Quantize::of((self.target.range)(self.program.steps[second].node)));
        let product = (action.name(), Launch::int8_conv(spec, tensors, for_reader, self.target.multiprocessors));
        match is_requantized {
            true => vec![product],
            false => {
                let quantize = Quantize::of((self.target.range)(*node));
                vec![("quantize", Launch::quantize(quantize, at(src), input)), product]
            }
        }
    }

    fn launch(&self, node: NodeId, action: &Action<View>) -> Launch {
        let at = |view: &View| TensorView::pixels(self.parts.arena_at(), *view);
        // As the caller sees it: plane after plane.
        let input = self.parts.input_at() + given_at(&self.program.given, node);
        let image = |c: usize, h: usize, w: usize| TensorView::planes(input, c, h, w);
        let slot = |slot: &usize| {
            let slot = &self.program.slots[*slot];
            TensorView::planes(self.parts.outputs_at() + slot.offset, slot.shape.c, slot.shape.h, slot.shape.w)
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
            // Always with working space, so that it does not come here.
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
