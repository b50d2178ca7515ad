//! Where the channels of tensors in f16 or f32 lie: in runs that each begin at a chunk, filled up with zeros.
//!
//! A run begins wherever a step reads or writes a part of a tensor, so that every part begins at 16 bytes whatever the
//! widths. Steps that work channel by channel need the same runs on both sides: what cuts one of their tensors cuts the
//! others. Convolutions do not, since their weights are packed for the positions of both sides.

use super::super::compile::{Action, Location, Step};
use crate::graph::{Attention, Shape};
use crate::kernels::View;
use crate::kernels::cuda::{Channels, RUN_STEP};
use std::collections::BTreeSet;

/// A part of the channels of a root tensor.
#[derive(Clone, Copy, Debug)]
struct Part {
    root: usize,
    start: usize,
    len: usize,
}

/// The positions of the channels of every root tensor.
pub(super) struct Layout {
    /// By root: the position of every channel, and after the last the number of positions.
    positions: Vec<Vec<usize>>,
    /// By root: where runs begin, and the number of channels.
    cuts: Vec<BTreeSet<usize>>,
}

/// A run of channels of a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First channel, counted from the location's first, and how many.
    pub start: usize,
    pub len: usize,
    /// Position of the first, counted from the location's first.
    pub position: usize,
}

impl Layout {
    /// The least padding that all steps can work with.
    pub fn new(steps: &[Step<Location>], roots: &[Shape]) -> Self {
        let mut cuts: Vec<BTreeSet<usize>> = roots.iter().map(|shape| BTreeSet::from([0, shape.c])).collect();
        let alike: Vec<Vec<Part>> = steps.iter().flat_map(|step| alike(&step.action)).collect();
        let locations = steps.iter().flat_map(|step| step.action.tensors());
        let parts = locations.map(part).chain(alike.iter().flatten().copied());
        parts.for_each(|part| cuts[part.root].extend([part.start, part.start + part.len]));
        while alike.iter().filter(|parts| unite(&mut cuts, parts)).count() > 0 {}
        let positions = cuts.iter().map(positions).collect();
        Self { positions, cuts }
    }

    /// Positions of a root tensor's pixel.
    pub fn pitch(&self, root: usize) -> usize {
        self.positions[root].last().copied().unwrap_or(0)
    }

    /// The view of a location whose root begins at `offset`, counted in values.
    pub fn view(&self, location: Location, offset: usize) -> View {
        let (pitch, positions) = (self.pitch(location.root), &self.positions[location.root]);
        let Shape { c, h, w } = location.shape;
        let (first, end) = (positions[location.start], positions[location.start + c]);
        View { offset: offset + first + location.pixel * pitch, pitch, c: end - first, h, w }
    }

    /// Where the channels of a location lie, counted from its first.
    pub fn channels(&self, location: Location) -> Channels {
        let positions = &self.positions[location.root][location.start..=location.start + location.shape.c];
        let (first, padded) = (positions[0], positions[location.shape.c] - positions[0]);
        Channels { positions: positions[..location.shape.c].iter().map(|at| at - first).collect(), padded }
    }

    /// The runs of a location.
    pub fn runs(&self, location: Location) -> Vec<Run> {
        let (start, end) = (location.start, location.start + location.shape.c);
        let positions = &self.positions[location.root];
        let cuts: Vec<usize> = self.cuts[location.root].range(start..=end).copied().collect();
        let run = |pair: &[usize]| Run {
            start: pair[0] - start,
            len: pair[1] - pair[0],
            position: positions[pair[0]] - positions[start],
        };
        cuts.windows(2).map(run).collect()
    }
}

/// The position of every channel: runs begin at multiples of a chunk.
fn positions(cuts: &BTreeSet<usize>) -> Vec<usize> {
    let (mut positions, mut next) = (Vec::new(), 0);
    for (start, end) in cuts.iter().zip(cuts.iter().skip(1)) {
        positions.extend(next..next + (end - start));
        next += (end - start).next_multiple_of(RUN_STEP);
    }
    positions.push(next);
    positions
}

/// Cuts each part where any of them is cut; whether one was not.
fn unite(cuts: &mut [BTreeSet<usize>], parts: &[Part]) -> bool {
    let mut all = BTreeSet::new();
    for part in parts {
        all.extend(cuts[part.root].range(part.start..part.start + part.len).map(|cut| cut - part.start));
    }
    let mut changed = false;
    for part in parts {
        all.iter().for_each(|cut| changed |= cuts[part.root].insert(part.start + cut));
    }
    changed
}

fn part(location: Location) -> Part {
    Part { root: location.root, start: location.start, len: location.shape.c }
}

/// Groups of parts that a step needs to be cut alike.
fn alike(action: &Action<Location>) -> Vec<Vec<Part>> {
    let all = |locations: &[Location]| vec![locations.iter().copied().map(part).collect::<Vec<Part>>()];
    let inside = |whole: &Location, start: usize, len: usize| Part { start: whole.start + start, len, ..part(*whole) };
    match action {
        Action::Import { .. } | Action::ConvOut { .. } | Action::Export { .. } => Vec::new(),
        Action::Conv { depthwise: true, src, dst, residual, .. } => {
            let tensors: Vec<Location> = [*src, *dst].into_iter().chain(*residual).collect();
            all(&tensors)
        }
        Action::ConvImage { dst, residual, .. }
        | Action::Conv { dst, residual, .. }
        | Action::ConvLowPrecision { dst, residual, .. } => residual.map_or_else(Vec::new, |other| all(&[*dst, other])),
        Action::MaxPool { src, dst, .. }
        | Action::Upsample { src, dst, .. }
        | Action::Activate { src, dst, .. }
        | Action::Copy { src, dst }
        | Action::Average { src, dst } => all(&[*src, *dst]),
        Action::Add { a, b, dst } => all(&[*a, *b, *dst]),
        Action::PixelShuffle { factor, src, dst } => {
            let c = dst.shape.c;
            let taps = (0..factor * factor).map(|tap| inside(src, tap * c, c));
            vec![taps.chain([part(*dst)]).collect()]
        }
        Action::Attention { op, src, dst, .. } | Action::AttentionValues { op, src, dst } => heads(op, src, dst),
    }
}

/// Queries and keys of all heads, and the values of all heads on both sides.
fn heads(op: &Attention, src: &Location, dst: &Location) -> Vec<Vec<Part>> {
    let inside = |whole: &Location, start: usize, len: usize| Part { start: whole.start + start, len, ..part(*whole) };
    let first = |head: usize| head * op.packed();
    let keys = (0..2 * op.heads).map(|i| inside(src, first(i / 2) + i % 2 * op.key_dim, op.key_dim));
    let values = (0..op.heads).flat_map(|head| {
        let from = inside(src, first(head) + 2 * op.key_dim, op.head_dim);
        [from, inside(dst, head * op.head_dim, op.head_dim)]
    });
    vec![keys.collect(), values.collect()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Activation, NodeId};

    fn location(root: usize, start: usize, c: usize) -> Location {
        Location { root, start, pixel: 0, shape: Shape { c, h: 2, w: 3 } }
    }

    fn step(action: Action<Location>) -> Step<Location> {
        Step { node: NodeId(0), action }
    }

    #[test]
    fn what_cuts_one_side_cuts_the_other() {
        let act = Activation::Relu;
        let steps = [
            step(Action::Activate { act, src: location(0, 0, 20), dst: location(1, 3, 20) }),
            step(Action::Copy { src: location(1, 10, 13), dst: location(2, 0, 13) }),
        ];
        let roots = [20, 23, 13].map(|c| Shape { c, h: 2, w: 3 });
        let layout = Layout::new(&steps, &roots);
        // Cut at 10 of the second tensor, which is 7 of the first.
        assert_eq!([0, 1, 2].map(|root| layout.pitch(root)), [8 + 16, 8 + 8 + 16, 16]);
        let view = layout.view(location(1, 10, 13), 100);
        assert_eq!((view.offset, view.pitch, view.c), (116, 32, 16));
        let runs = layout.runs(location(0, 0, 20));
        assert_eq!(runs, [Run { start: 0, len: 7, position: 0 }, Run { start: 7, len: 13, position: 8 }]);
        assert_eq!(layout.channels(location(0, 0, 20)).positions[7], 8);
    }

    #[test]
    fn heads_of_attention_are_alike() {
        let op = Attention { heads: 2, key_dim: 3, head_dim: 10, scale: 1.0, areas: 1 };
        let shared = location(2, 0, 1);
        let steps = [
            step(Action::Attention { op, src: location(0, 0, 32), dst: location(1, 0, 20), shared }),
            step(Action::Copy { src: location(1, 14, 6), dst: location(3, 0, 6) }),
        ];
        let roots = [32, 20, 1, 6].map(|c| Shape { c, h: 2, w: 3 });
        let layout = Layout::new(&steps, &roots);
        // Values of both heads are cut at 4.
        assert_eq!(layout.pitch(1), 2 * 16);
        assert_eq!(layout.pitch(0), 2 * (8 + 8 + 16));
    }
}
