//! Gives the tensors of emitted steps their addresses in one arena.

use super::arena::{Span, assign};
use super::arithmetic::Arithmetic;
use super::compile::{Emitted, Location, Slot, Step, emit};
use super::{EngineError, Options};
use crate::graph::Graph;
use crate::kernels::View;

/// Everything about a run that follows from graph, size and options, without any weight.
#[derive(Debug)]
pub(super) struct Program {
    pub steps: Vec<Step<View>>,
    pub slots: Vec<Slot>,
    /// Where the tensors that the caller gives lie in the input.
    pub given: Vec<Slot>,
    /// Sizes in values.
    pub input: usize,
    pub outputs: usize,
    pub weights: usize,
    pub arena: usize,
    /// Working space per thread.
    pub space: usize,
    pub zeros: usize,
}

/// Compiles a graph that [`Graph::check`] accepts for the kernels of the CPU or of a CUDA device.
pub(super) fn compile(
    graph: &Graph,
    height: usize,
    width: usize,
    options: &Options,
    arithmetic: &dyn Arithmetic,
) -> Result<Program, EngineError> {
    Ok(place(emit(graph, (height, width), options, arithmetic)?))
}

/// Gives the tensors of steps their addresses.
pub(super) fn place(emitted: Emitted) -> Program {
    let lengths: Vec<usize> = emitted.roots.iter().map(|shape| shape.len()).collect();
    let (offsets, arena) = addresses(emitted.steps.iter().map(|step| step.action.tensors()), &lengths);
    let Emitted { steps, roots, slots, given, input, outputs, weights, space, zeros } = emitted;
    let view = |location: Location| {
        let (pitch, shape) = (roots[location.root].c, location.shape);
        let offset = offsets[location.root] + location.start + location.pixel * pitch;
        View { offset, pitch, c: shape.c, h: shape.h, w: shape.w }
    };
    let steps = steps.iter().map(|s| Step { node: s.node, action: s.action.map(view) }).collect();
    Program { steps, slots, given, input, outputs, weights, arena, space, zeros }
}

/// An offset for every root tensor that a step reads or writes, given what each touches and the roots' lengths, and the
/// length of the arena.
pub(super) fn addresses(steps: impl Iterator<Item = Vec<Location>>, lengths: &[usize]) -> (Vec<usize>, usize) {
    let mut spans: Vec<Option<Span>> = vec![None; lengths.len()];
    for (index, tensors) in steps.enumerate() {
        for location in tensors {
            let len = lengths[location.root];
            spans[location.root].get_or_insert(Span { first: index, last: index, len }).last = index;
        }
    }
    assign(&spans)
}
