//! Where the channels of tensors in f16 or f32 lie: in runs that each begin at a chunk, filled up with zeros.
//!
//! A run begins wherever a step reads or writes a part of a tensor, so that every part begins at 16 bytes whatever the
//! widths. Steps that work channel by channel need the same runs on both sides: what cuts one of their tensors cuts the
//! others. Convolutions do not, since their weights are packed for the positions of both sides.

use super::super::compile::Location;
use super::fuse::{Part, Task, part};
use crate::graph::Shape;
use crate::kernels::View;
use crate::kernels::cuda::{Channels, RUN_STEP};
use std::collections::BTreeSet;

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
    /// The least padding that all tasks can work with.
    pub fn new(tasks: &[Task], roots: &[Shape]) -> Self {
        let mut cuts: Vec<BTreeSet<usize>> = roots.iter().map(|shape| BTreeSet::from([0, shape.c])).collect();
        let alike: Vec<Vec<Part>> = tasks.iter().flat_map(Task::alike).collect();
        let locations = tasks.iter().flat_map(Task::tensors);
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

#[cfg(test)]
mod tests {
    use super::super::super::compile::Action;
    use super::super::fuse::Work;
    use super::*;
    use crate::graph::{Activation, Attention, NodeId};

    fn location(root: usize, start: usize, c: usize) -> Location {
        Location { root, start, pixel: 0, shape: Shape { c, h: 2, w: 3 } }
    }

    fn task(action: Action<Location>) -> Task {
        Task { node: NodeId(0), work: Work::One(action) }
    }

    #[test]
    fn what_cuts_one_side_cuts_the_other() {
        let act = Activation::Relu;
        let tasks = [
            task(Action::Activate { act, src: location(0, 0, 20), dst: location(1, 3, 20) }),
            task(Action::Copy { src: location(1, 10, 13), dst: location(2, 0, 13) }),
        ];
        let roots = [20, 23, 13].map(|c| Shape { c, h: 2, w: 3 });
        let layout = Layout::new(&tasks, &roots);
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
        let tasks = [
            task(Action::Attention { op, src: location(0, 0, 32), dst: location(1, 0, 20), shared }),
            task(Action::Copy { src: location(1, 14, 6), dst: location(3, 0, 6) }),
        ];
        let roots = [32, 20, 1, 6].map(|c| Shape { c, h: 2, w: 3 });
        let layout = Layout::new(&tasks, &roots);
        // Values of both heads are cut at 4.
        assert_eq!(layout.pitch(1), 2 * 16);
        assert_eq!(layout.pitch(0), 2 * (8 + 8 + 16));
    }
}
