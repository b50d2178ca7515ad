//! What a GPU does in one launch where the steps of a CPU are several: fewer launches, and tensors that are never
//! written.
//!
//! - Three maxima of 5x5 windows, each of the one before (spatial pyramid pooling), read their input once.
//! - A 1x1 convolution of a concat reads a member that is upsampled, or copied, where it comes from.
//! - A depthwise convolution of attention values reads them in their packed place.

use super::super::compile::{Action, Location, Step};
use crate::graph::{Attention, NodeId};
use crate::kernels::ConvSpec;

/// Channels of a 1x1 convolution that reads two tensors, at most: the products count its chunks with few bits.
const MAX_CHANNELS: usize = 2048;

/// What one launch does, or a few.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A step by itself.
    One(Action<Location>),
    /// Maxima of 5x5 windows at stride 1, padding 2: of `src`, then each of the one before.
    Pools { src: Location, dst: [Location; 3] },
    /// A 1x1 convolution whose input has, in the place of `hidden`, the pixels of `member` repeated by `factor`.
    Pair { conv: Action<Location>, hidden: Location, member: Location, factor: usize },
    /// A depthwise convolution of the attention values of `src`.
    Values { op: Attention, conv: Action<Location>, src: Location },
}

/// A part of the channels of a root tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub root: usize,
    pub start: usize,
    pub len: usize,
}

/// Work, and the node that it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub node: NodeId,
    pub work: Work,
}

impl Task {
    /// Everything that it reads or writes.
    pub fn tensors(&self) -> Vec<Location> {
        match &self.work {
            Work::One(action) => action.tensors(),
            Work::Pools { src, dst } => [*src].into_iter().chain(*dst).collect(),
            Work::Pair { conv, member, .. } => conv.tensors().into_iter().chain([*member]).collect(),
            Work::Values { conv, src, .. } => {
                // The values themselves are written nowhere.
                let Action::Conv { dst, residual, .. } = conv else { return conv.tensors() };
                [*src, *dst].into_iter().chain(*residual).collect()
            }
        }
    }

    /// Groups of parts that must be cut alike.
    pub fn alike(&self) -> Vec<Vec<Part>> {
        match &self.work {
            Work::One(action) => alike(action),
            Work::Pools { src, dst } => vec![[*src].iter().chain(dst).copied().map(part).collect()],
            Work::Pair { conv, hidden, member, .. } => {
                let mut all = alike(conv);
                all.push(vec![part(*hidden), part(*member)]);
                all
            }
            Work::Values { op, conv, src } => {
                let Action::Conv { dst, residual, .. } = conv else { return alike(conv) };
                let mut all = alike(&Action::AttentionValues { op: *op, src: *src, dst: *dst });
                all.extend(residual.map(|other| vec![part(*dst), part(other)]));
                all
            }
        }
    }

    /// The step, or the convolution, that the launch is named after.
    pub fn action(&self) -> Option<&Action<Location>> {
        match &self.work {
            Work::One(action) | Work::Pair { conv: action, .. } | Work::Values { conv: action, .. } => Some(action),
            Work::Pools { .. } => None,
        }
    }
}

/// Steps as work of a GPU, in the same order.
pub(super) fn fuse(steps: Vec<Step<Location>>) -> Vec<Task> {
    let values = readers_of_values(&steps);
    let pairs = pairs(&steps);
    let mut tasks = Vec::with_capacity(steps.len());
    let mut rest = steps.as_slice();
    while let [first, others @ ..] = rest {
        let index = steps.len() - rest.len();
        rest = others;
        let node = first.node;
        if let Some(work) = pools(first, others) {
            rest = &others[2..];
            tasks.push(Task { node, work });
            continue;
        }
        let gone = |fused: &[Fused]| fused.iter().any(|fused| fused.first == index);
        if gone(&values) || gone(&pairs) {
            continue;
        }
        let of = |fused: &[Fused]| fused.iter().find(|fused| fused.second == index).map(|fused| fused.first);
        let work = match (of(&values).map(|at| &steps[at].action), of(&pairs).map(|at| &steps[at].action)) {
            (Some(Action::AttentionValues { op, src, .. }), _) => {
                Work::Values { op: *op, conv: first.action.clone(), src: *src }
            }
            (_, Some(Action::Upsample { factor, src, dst })) => {
                Work::Pair { conv: first.action.clone(), hidden: *dst, member: *src, factor: *factor }
            }
            (_, Some(Action::Copy { src, dst })) => {
                Work::Pair { conv: first.action.clone(), hidden: *dst, member: *src, factor: 1 }
            }
            _ => Work::One(first.action.clone()),
        };
        tasks.push(Task { node, work });
    }
    tasks
}

/// Two steps by position, of which the second does what the first would have done.
struct Fused {
    first: usize,
    second: usize,
}

/// The pools that begin with a step.
fn pools(first: &Step<Location>, others: &[Step<Location>]) -> Option<Work> {
    let of = |step: &Step<Location>| match step.action {
        Action::MaxPool { window: (5, 1, 2), src, dst } => Some((src, dst)),
        _ => None,
    };
    let (src, a) = of(first)?;
    let (from_a, b) = of(others.first()?)?;
    let (from_b, c) = of(others.get(1)?)?;
    (from_a == a && from_b == b).then_some(Work::Pools { src, dst: [a, b, c] })
}

/// Whether two locations have a value in common.
fn overlap(a: &Location, b: &Location) -> bool {
    a.root == b.root && a.start < b.start + b.shape.c && b.start < a.start + a.shape.c
}

/// The only step after one that touches what it writes.
fn only_reader(steps: &[Step<Location>], first: usize, dst: &Location) -> Option<usize> {
    let touches = |step: &Step<Location>| step.action.tensors().iter().any(|location| overlap(location, dst));
    let mut all = (0..steps.len()).filter(|at| *at != first && touches(&steps[*at]));
    all.next().filter(|second| *second > first && all.next().is_none())
}

/// Attention values that only a depthwise convolution reads.
fn readers_of_values(steps: &[Step<Location>]) -> Vec<Fused> {
    let pair = |(first, step): (usize, &Step<Location>)| {
        let Action::AttentionValues { dst, .. } = &step.action else { return None };
        let second = only_reader(steps, first, dst)?;
        match &steps[second].action {
            Action::Conv { depthwise: true, src, .. } if src == dst => Some(Fused { first, second }),
            _ => None,
        }
    };
    steps.iter().enumerate().filter_map(pair).collect()
}

/// Members of a concat that only a 1x1 convolution reads, one for each.
fn pairs(steps: &[Step<Location>]) -> Vec<Fused> {
    let pair = |(first, step): (usize, &Step<Location>)| {
        let dst = match &step.action {
            Action::Upsample { factor: 1 | 2 | 4, dst, .. } | Action::Copy { dst, .. } => dst,
            _ => return None,
        };
        let second = only_reader(steps, first, dst)?;
        match &steps[second].action {
            Action::Conv { spec, depthwise: false, src, dst: to, residual, .. } if is_point(spec) => {
                let whole = src.pixel == dst.pixel && (src.shape.h, src.shape.w) == (dst.shape.h, dst.shape.w);
                let within = src.start <= dst.start && dst.start + dst.shape.c <= src.start + src.shape.c;
                let read = !overlap(to, dst) && residual.is_none_or(|other| !overlap(&other, dst));
                (whole && within && read).then_some(Fused { first, second })
            }
            _ => None,
        }
    };
    let mut found: Vec<Fused> = steps.iter().enumerate().filter_map(pair).collect();
    // A launch reads two tensors.
    let mut seen = std::collections::HashSet::new();
    found.retain(|fused| seen.insert(fused.second));
    found
}

fn is_point(spec: &ConvSpec) -> bool {
    (spec.kernel, spec.stride, spec.padding) == (1, 1, 0) && spec.c_in <= MAX_CHANNELS
}

pub(super) fn part(location: Location) -> Part {
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
