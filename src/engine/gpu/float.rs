//! Networks on tensors in f16 or f32: dense convolutions on tensor cores, everything else on runs of channels filled up
//! to multiples of 8. The image and the results stay f32, plane after plane.

use super::super::arithmetic::Arithmetic;
use super::super::compile::{Action, Emitted, Location, Slot, emit};
use super::super::place::addresses;
use super::super::{EngineError, Options, fold};
use super::chosen::Chosen;
use super::fuse::{Task, Work, fuse};
use super::layout::{Layout, Run};
use super::{Kernels, Parts, Plan, Planned, Target, given_at};
use crate::graph::{Activation, Attention, Conv, Dtype, Graph, NodeId, Shape};
use crate::kernels::cuda::{ConvTensors, ConvWeights, Float, Launch, Member, RUN_STEP, Tensor};
use crate::kernels::{Algorithm, ConvSpec, View};
use crate::model::Model;

/// Bytes that packed kernels begin at a multiple of.
const ALIGN: usize = 256;

/// The arithmetic of the kernels on tensor cores, of which steps only need to know what is fused: the sizes of packed
/// kernels follow from the layout of the tensors.
pub(super) struct Floats;

impl Arithmetic for Floats {
    fn algorithm(&self, _: &Conv, _: Shape, _: Dtype, _: Dtype) -> Algorithm {
        Algorithm::Direct
    }

    fn packed_len(&self, _: &ConvSpec, _: bool) -> usize {
        0
    }

    fn pack(&self, _: &ConvSpec, _: bool, _: &[f32], _: &[f32], _: [f32; 2], _: &mut [f32]) {}

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

/// A packed kernel: the node and the convolution that it belongs to, and its first byte.
pub(super) struct Packed {
    node: NodeId,
    spec: ConvSpec,
    weights: ConvWeights,
    at: usize,
}

/// Packs the weights of every convolution.
pub(super) fn pack(model: &Model, packed: &[Packed], weights: &mut [f32]) {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(weights);
    for Packed { node, spec, weights, at } in packed {
        if let Some((kernel, bias)) = fold::kernel_of(model, *node, spec) {
            weights.pack(&kernel, &bias, &mut bytes[*at..*at + weights.bytes()]);
        }
    }
}

pub(super) fn plan(
    graph: &Graph,
    size: (usize, usize),
    options: &Options,
    target: &Target,
    float: Float,
) -> Result<Plan, EngineError> {
    let Emitted { steps, mut roots, mut slots, given, input, outputs, .. } = emit(graph, size, options, &Floats)?;
    let chosen = Chosen::arrange(graph, size, options, &mut slots);
    let tasks: Vec<Task> = match float {
        Float::F16 => fuse(steps).into_iter().flat_map(|task| simpler(task, &mut roots)).collect(),
        Float::F32 => fuse(steps),
    };
    let layout = Layout::new(&tasks, &roots);
    // Addresses count values of f32.
    let lengths: Vec<usize> =
        roots.iter().enumerate().map(|(root, shape)| layout.pitch(root) * shape.area() * float.bytes() / 4).collect();
    let (offsets, arena) = addresses(tasks.iter().map(Task::tensors), &lengths);
    let kernels: Vec<Option<ConvWeights>> = tasks.iter().map(|task| weights(task.action()?, &layout, float)).collect();
    let mut packed = Vec::new();
    let mut end = 0;
    for (task, weights) in tasks.iter().zip(kernels) {
        let (Some(weights), Some(spec)) = (weights, task.action().and_then(spec_of)) else { continue };
        packed.push(Packed { node: task.node, spec, at: end, weights });
        end = (end + packed.last().map_or(0, |packed: &Packed| packed.weights.bytes())).next_multiple_of(ALIGN);
    }
    let parts = Parts { weights: end / 4, arena, input, outputs, chosen: chosen.as_ref().map_or(0, Chosen::len) };
    let lowering = Lowering { parts, layout, offsets: &offsets, slots: &slots, given: &given, target, float };
    let mut launches = Vec::new();
    let mut next = packed.iter();
    for task in &tasks {
        let kernel = task.action().and_then(spec_of).and_then(|_| next.next());
        let name = task.action().map_or("max-pools", Action::name);
        let own = lowering.task(task, kernel);
        launches.extend(own.into_iter().map(|launch| Planned { node: task.node, name, launch }));
    }
    Ok(Plan { parts, slots, launches, kernels: Kernels::Float(packed), chosen })
}

/// A task as those that there are kernels for in f16. Further working space becomes a root.
fn simpler(task: Task, roots: &mut Vec<Shape>) -> Vec<Task> {
    let node = task.node;
    let one = |action| Task { node, work: Work::One(action) };
    let Work::One(action) = task.work else { return vec![task] };
    match action {
        Action::ConvImage { spec, packed, size: (h, w), dst, residual } if !is_stem(&spec, (h, w)) => {
            let shape = Shape { c: spec.c_in, h, w };
            let src = Location { root: roots.len(), start: 0, pixel: 0, shape };
            roots.push(shape);
            let spec = ConvSpec { planar: false, ..spec };
            let conv = Action::Conv { spec, depthwise: false, packed, src, dst, residual };
            vec![one(Action::Import { dst: src }), one(conv)]
        }
        Action::AttentionValues { op, src, dst } => {
            let head = |head: usize| {
                let shape = Shape { c: op.head_dim, ..src.shape };
                let from = Location { start: src.start + head * op.packed() + 2 * op.key_dim, shape, ..src };
                let to = Location { start: dst.start + head * op.head_dim, shape, ..dst };
                one(Action::Copy { src: from, dst: to })
            };
            (0..op.heads).map(head).collect()
        }
        action => vec![one(action)],
    }
}

fn is_stem(spec: &ConvSpec, size: (usize, usize)) -> bool {
    ConvWeights::image(Float::F16, *spec, size, Default::default()).is_some()
}

/// The convolution of a step that has weights.
fn spec_of(action: &Action<Location>) -> Option<ConvSpec> {
    match action {
        Action::ConvImage { spec, .. }
        | Action::ConvOut { spec, .. }
        | Action::Conv { spec, .. }
        | Action::ConvLowPrecision { spec, .. } => Some(*spec),
        _ => None,
    }
}

fn weights(action: &Action<Location>, layout: &Layout, float: Float) -> Option<ConvWeights> {
    match action {
        Action::ConvImage { spec, size, dst, .. } => ConvWeights::image(float, *spec, *size, layout.channels(*dst)),
        Action::ConvOut { spec, src, .. } => Some(ConvWeights::planes(float, *spec, layout.channels(*src))),
        Action::Conv { spec, depthwise: true, dst, .. } => {
            Some(ConvWeights::depthwise(float, *spec, layout.channels(*dst)))
        }
        Action::Conv { spec, src, dst, .. } | Action::ConvLowPrecision { spec, src, dst, .. } => {
            Some(ConvWeights::dense(float, *spec, layout.channels(*src), layout.channels(*dst)))
        }
        _ => None,
    }
}

/// From steps to launches.
struct Lowering<'a> {
    parts: Parts,
    layout: Layout,
    /// By root: its first value of f32 in the arena.
    offsets: &'a [usize],
    slots: &'a [Slot],
    /// Where the tensors that the caller gives lie in the input.
    given: &'a [Slot],
    target: &'a Target<'a>,
    float: Float,
}

impl Lowering<'_> {
    fn at(&self, location: &Location) -> Tensor {
        Tensor::floats(4 * self.parts.arena_at(), self.view(location), self.float)
    }

    fn view(&self, location: &Location) -> View {
        self.layout.view(*location, self.offsets[location.root] * 4 / self.float.bytes())
    }

    /// A run of a location.
    fn run(&self, location: &Location, run: &Run) -> Tensor {
        let whole = self.view(location);
        let view = View { offset: whole.offset + run.position, c: run.len.next_multiple_of(RUN_STEP), ..whole };
        Tensor::floats(4 * self.parts.arena_at(), view, self.float)
    }

    /// Some channels of planes that begin at a value of f32.
    fn planes(&self, at: usize, shape: Shape, start: usize, len: usize) -> Tensor {
        Tensor::planes(4 * (at + start * shape.area()), len, shape.h, shape.w)
    }

    fn task(&self, Task { node, work }: &Task, kernel: Option<&Packed>) -> Vec<Launch> {
        let at = |location: &Location| self.at(location);
        match work {
            Work::One(action) => self.launches(*node, action, kernel),
            Work::Pools { src, dst } => {
                let joined = Launch::pools(self.float, at(src), dst.each_ref().map(at));
                joined.map_or_else(|| self.single_pools(*node, src, dst), |launch| vec![launch])
            }
            Work::Pair { conv, hidden, member, factor } => {
                let Action::Conv { src, .. } = conv else { return Vec::new() };
                let first = self.view(hidden).offset - self.view(src).offset;
                let member = Member { tensor: at(member), first, factor: *factor };
                self.conv(conv, kernel, |packed, tensors| {
                    let tensors = ConvTensors { member: Some(member), ..tensors };
                    Launch::float_conv(&packed.weights, tensors, self.target.multiprocessors)
                })
            }
            Work::Values { op, conv, src } => self.conv(conv, kernel, |packed, tensors| {
                Launch::depthwise_of_values(&packed.weights, op, ConvTensors { src: at(src), ..tensors })
            }),
        }
    }

    /// A convolution by its tensors.
    fn conv(
        &self,
        conv: &Action<Location>,
        kernel: Option<&Packed>,
        launch: impl Fn(&Packed, ConvTensors) -> Launch,
    ) -> Vec<Launch> {
        let (Action::Conv { src, dst, residual, .. }, Some(packed)) = (conv, kernel) else { return Vec::new() };
        let other = residual.as_ref().map(|location| self.at(location));
        let tensors = ConvTensors { packed: packed.at, src: self.at(src), dst: self.at(dst), other, member: None };
        vec![launch(packed, tensors)]
    }

    /// Pools one after the other.
    fn single_pools(&self, node: NodeId, src: &Location, [a, b, c]: &[Location; 3]) -> Vec<Launch> {
        let pool = |(src, dst): (&Location, &Location)| {
            let action = Action::MaxPool { window: (5, 1, 2), src: *src, dst: *dst };
            self.launches(node, &action, None)
        };
        [(src, a), (a, b), (b, c)].into_iter().flat_map(pool).collect()
    }

    fn launches(&self, node: NodeId, action: &Action<Location>, kernel: Option<&Packed>) -> Vec<Launch> {
        let at = |location: &Location| self.at(location);
        let conv = |src: Tensor, dst: Tensor, other: Option<Tensor>| {
            let launch = |packed: &Packed| {
                let tensors = ConvTensors { packed: packed.at, src, dst, other, member: None };
                Launch::float_conv(&packed.weights, tensors, self.target.multiprocessors)
            };
            kernel.map(launch).into_iter().collect::<Vec<Launch>>()
        };
        match action {
            Action::Import { dst } => {
                let (at, shape) = (self.parts.input_at() + given_at(self.given, node), dst.shape);
                let launch = |run: &Run| self.import(self.planes(at, shape, run.start, run.len), self.run(dst, run));
                self.layout.runs(*dst).iter().map(launch).collect()
            }
            Action::Export { slot, src } => {
                let (at, shape) = (self.parts.outputs_at() + self.slots[*slot].offset, src.shape);
                let launch = |run: &Run| {
                    self.export(self.run(src, run).channels(run.len), self.planes(at, shape, run.start, run.len))
                };
                self.layout.runs(*src).iter().map(launch).collect()
            }
            Action::ConvImage { spec, size: (h, w), dst, residual, .. } => {
                let shape = Shape { c: spec.c_in, h: *h, w: *w };
                let image = self.planes(self.parts.input_at(), shape, 0, shape.c);
                conv(image, at(dst), residual.as_ref().map(at))
            }
            Action::ConvOut { src, slot, .. } => {
                let slot = &self.slots[*slot];
                let results = self.planes(self.parts.outputs_at() + slot.offset, slot.shape, 0, slot.shape.c);
                conv(at(src), results, None)
            }
            Action::Conv { src, dst, residual, .. } | Action::ConvLowPrecision { src, dst, residual, .. } => {
                conv(at(src), at(dst), residual.as_ref().map(at))
            }
            _ => match self.float {
                Float::F16 => self.other_f16(action),
                Float::F32 => self.other_f32(action),
            }
            .into_iter()
            .collect(),
        }
    }

    fn import(&self, image: Tensor, dst: Tensor) -> Launch {
        match self.float {
            Float::F16 => Launch::f16_import(image, dst),
            Float::F32 => Launch::import(image.values(), dst.values()),
        }
    }

    fn export(&self, src: Tensor, results: Tensor) -> Launch {
        match self.float {
            Float::F16 => Launch::f16_export(src, results),
            Float::F32 => Launch::upsample(1, src.values(), results.values()),
        }
    }

    /// What is neither a convolution nor the caller's, in f16.
    fn other_f16(&self, action: &Action<Location>) -> Option<Launch> {
        let at = |location: &Location| self.at(location);
        Some(match action {
            Action::MaxPool { window, src, dst } => Launch::f16_max_pool(*window, at(src), at(dst)),
            Action::Upsample { factor, src, dst } => Launch::f16_upsample(*factor, at(src), at(dst)),
            Action::PixelShuffle { factor, src, dst } => Launch::f16_pixel_shuffle(*factor, at(src), at(dst)),
            Action::Activate { act, src, dst } => Launch::f16_elementwise(*act, at(src), None, at(dst)),
            Action::Copy { src, dst } => Launch::f16_upsample(1, at(src), at(dst)),
            Action::Add { a, b, dst } => Launch::f16_elementwise(Activation::Identity, at(a), Some(at(b)), at(dst)),
            Action::Attention { op, src, dst, .. } => Launch::f16_attention(op, at(src), at(dst)),
            Action::Average { src, dst } => Launch::f16_average(at(src), at(dst)),
            // `simpler` made copies of attention values.
            _ => return None,
        })
    }

    /// The same in f32: channels that fill up runs are zero, and stay it.
    fn other_f32(&self, action: &Action<Location>) -> Option<Launch> {
        let at = |location: &Location| self.at(location).values();
        Some(match action {
            Action::MaxPool { window, src, dst } => Launch::max_pool(*window, at(src), at(dst)),
            Action::Upsample { factor, src, dst } => Launch::upsample(*factor, at(src), at(dst)),
            Action::PixelShuffle { factor, src, dst } => Launch::pixel_shuffle(*factor, at(src), at(dst)),
            Action::Activate { act, src, dst } => Launch::activate(*act, at(src), at(dst)),
            Action::Copy { src, dst } => Launch::upsample(1, at(src), at(dst)),
            Action::Add { a, b, dst } => Launch::add(at(a), at(b), at(dst)),
            Action::Attention { op, src, dst, .. } => {
                Launch::attention(&self.filled_up(op, src, dst), at(src), at(dst))
            }
            Action::AttentionValues { op, src, dst } => {
                Launch::attention_values(&self.filled_up(op, src, dst), at(src), at(dst))
            }
            Action::Average { src, dst } => Launch::average(at(src), at(dst)),
            _ => return None,
        })
    }

    /// The attention over the positions of both sides.
    fn filled_up(&self, op: &Attention, src: &Location, dst: &Location) -> Attention {
        let [all, values] = [src, dst].map(|location| self.view(location).c / op.heads.max(1));
        Attention { key_dim: (all - values) / 2, head_dim: values, ..*op }
    }
}
