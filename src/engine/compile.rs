//! From a graph to steps: what is fused, where every tensor lies, and what runs in which order.
//!
//! 1. A sum runs in the epilogue of a convolution that only it reads ([`fuse`]).
//! 2. Tensors move into the tensors that are made of them ([`locate`]): a slice is a view of its input, the members of
//!    a concat are written where the concat wants them, as far as each can only be in one location.
//! 3. Steps are emitted in node order, on locations: runs of channels of a root tensor.
//!
//! [`place`](super::place) then gives root tensors offsets in the arena by their first and last step.

use super::arithmetic::Arithmetic;
use super::given::Given;
use super::spec::{mean_spec, spec, square_spec};
use super::{EngineError, Options};
use crate::graph::{Activation, Attention, Dtype, Graph, NodeId, Op, Shape};
use crate::kernels::{Algorithm, ConvSpec};
use std::collections::HashSet;
use std::ops::Range;

/// What one step does, on tensors of type `T`.
#[derive(Clone, Debug)]
pub(super) enum Action<T> {
    Import { dst: T },
    ConvImage { spec: ConvSpec, packed: Range<usize>, size: (usize, usize), dst: T, residual: Option<T> },
    ConvOut { spec: ConvSpec, packed: Range<usize>, src: T, slot: usize },
    Conv { spec: ConvSpec, depthwise: bool, packed: Range<usize>, src: T, dst: T, residual: Option<T> },
    ConvLowPrecision { spec: ConvSpec, packed: Range<usize>, src: T, dst: T, residual: Option<T>, shared: Option<T> },
    MaxPool { window: (usize, usize, usize), src: T, dst: T },
    Upsample { factor: usize, src: T, dst: T },
    PixelShuffle { factor: usize, src: T, dst: T },
    Activate { act: Activation, src: T, dst: T },
    Copy { src: T, dst: T },
    Add { a: T, b: T, dst: T },
    Attention { op: Attention, src: T, dst: T, shared: T },
    AttentionValues { op: Attention, src: T, dst: T },
    Average { src: T, dst: T },
    Export { slot: usize, src: T },
}

impl<T: Copy> Action<T> {
    /// The same on other tensors.
    pub fn map<U>(&self, f: impl Fn(T) -> U) -> Action<U> {
        match self.clone() {
            Self::Import { dst } => Action::Import { dst: f(dst) },
            Self::ConvImage { spec, packed, size, dst, residual } => {
                Action::ConvImage { spec, packed, size, dst: f(dst), residual: residual.map(&f) }
            }
            Self::ConvOut { spec, packed, src, slot } => Action::ConvOut { spec, packed, src: f(src), slot },
            Self::Conv { spec, depthwise, packed, src, dst, residual } => {
                Action::Conv { spec, depthwise, packed, src: f(src), dst: f(dst), residual: residual.map(&f) }
            }
            Self::ConvLowPrecision { spec, packed, src, dst, residual, shared } => {
                let (src, dst, residual) = (f(src), f(dst), residual.map(&f));
                Action::ConvLowPrecision { spec, packed, src, dst, residual, shared: shared.map(&f) }
            }
            Self::MaxPool { window, src, dst } => Action::MaxPool { window, src: f(src), dst: f(dst) },
            Self::Upsample { factor, src, dst } => Action::Upsample { factor, src: f(src), dst: f(dst) },
            Self::PixelShuffle { factor, src, dst } => Action::PixelShuffle { factor, src: f(src), dst: f(dst) },
            Self::Activate { act, src, dst } => Action::Activate { act, src: f(src), dst: f(dst) },
            Self::Copy { src, dst } => Action::Copy { src: f(src), dst: f(dst) },
            Self::Add { a, b, dst } => Action::Add { a: f(a), b: f(b), dst: f(dst) },
            Self::Attention { op, src, dst, shared } => {
                Action::Attention { op, src: f(src), dst: f(dst), shared: f(shared) }
            }
            Self::AttentionValues { op, src, dst } => Action::AttentionValues { op, src: f(src), dst: f(dst) },
            Self::Average { src, dst } => Action::Average { src: f(src), dst: f(dst) },
            Self::Export { slot, src } => Action::Export { slot, src: f(src) },
        }
    }

    /// The kernel's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Import { .. } => "import",
            Self::ConvImage { .. } => "image",
            Self::ConvOut { .. } => "output",
            Self::Conv { depthwise: true, .. } => "depthwise",
            Self::Conv { spec, .. } if spec.algorithm == Algorithm::Winograd => "winograd",
            Self::Conv { .. } => "direct",
            Self::ConvLowPrecision { spec, .. } if spec.algorithm == Algorithm::F16 => "f16",
            Self::ConvLowPrecision { .. } => "int8",
            Self::MaxPool { .. } => "max-pool",
            Self::Upsample { .. } => "upsample",
            Self::PixelShuffle { .. } => "pixel-shuffle",
            Self::Activate { .. } => "activate",
            Self::Copy { .. } => "copy",
            Self::Add { .. } => "add",
            Self::Attention { .. } => "attention",
            Self::AttentionValues { .. } => "attention-values",
            Self::Average { .. } => "average",
            Self::Export { .. } => "export",
        }
    }

    /// Everything that it reads or writes.
    pub fn tensors(&self) -> Vec<T> {
        let all = std::cell::RefCell::new(Vec::new());
        self.map(|t| all.borrow_mut().push(t));
        all.into_inner()
    }
}

/// One step and the node it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Step<T> {
    pub node: NodeId,
    pub action: Action<T>,
}

/// Where the caller reads a tensor after a run, or gives one before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub node: NodeId,
    pub shape: Shape,
    pub offset: usize,
}

impl Slot {
    /// Its values among all of its kind.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.shape.len()
    }

    /// Where the next of the caller's tensors begins.
    pub fn end(&self) -> usize {
        self.offset + self.shape.len().next_multiple_of(16)
    }
}

/// The steps of a graph before its tensors have addresses.
#[derive(Debug)]
pub(super) struct Emitted {
    pub steps: Vec<Step<Location>>,
    /// By root: the nodes come first, then working space.
    pub roots: Vec<Shape>,
    pub slots: Vec<Slot>,
    /// Where the tensors that the caller gives lie in the input, which has all of them one after the other.
    pub given: Vec<Slot>,
    /// Sizes in values.
    pub input: usize,
    pub outputs: usize,
    pub weights: usize,
    /// Working space per thread.
    pub space: usize,
    pub zeros: usize,
}

/// A run of channels of a root tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub root: usize,
    pub start: usize,
    /// First pixel.
    pub pixel: usize,
    pub shape: Shape,
}

impl Location {
    /// One of some equal runs of consecutive pixels.
    fn run(self, index: usize, of: usize) -> Self {
        let w = self.shape.area() / of;
        Self { pixel: self.pixel + index * w, shape: Shape { h: 1, w, ..self.shape }, ..self }
    }
}

/// The steps of a graph that [`Graph::check`] accepts for the kernels of the CPU or of a CUDA device: from the image on,
/// or from given tensors, where what only leads to them is left out.
pub(super) fn emit(
    graph: &Graph,
    (height, width): (usize, usize),
    Options { given, keep, .. }: &Options,
    arithmetic: &dyn Arithmetic,
) -> Result<Emitted, EngineError> {
    let shapes = graph.shapes(height, width)?;
    if let Some(id) = given.iter().chain(keep).chain(&graph.outputs).find(|id| id.index() >= graph.nodes.len()) {
        return Err(EngineError::NoSuchNode { node: id.0, nodes: graph.nodes.len() });
    }
    let visible: HashSet<NodeId> = keep.iter().chain(&graph.outputs).copied().collect();
    let given = Given::new(graph, given, visible.iter().copied())?;
    let fused = fuse(graph, &visible, &given);
    let parents = locate(graph, &shapes, &fused);
    let mut emitter = Emitter::new(graph, &shapes, parents, arithmetic);
    emitter.planar = given.is_image() && read_as_image(graph, &shapes, &visible, arithmetic);
    emitter.give(given.nodes());
    let consumers = graph.consumers();
    for id in graph.ids().filter(|id| given.needs(*id)) {
        match given.gives(id) {
            true if emitter.planar => {}
            true => emitter.push(id, Action::Import { dst: emitter.location(id) }),
            false => emitter.node(id, &fused),
        }
        if visible.contains(&id) {
            let slot = emitter.slots.len();
            let own = Slot { node: id, shape: shapes[id.index()], offset: emitter.outputs };
            emitter.outputs = own.end();
            emitter.slots.push(own);
            if !(consumers[id.index()].is_empty() && emitter.write_out(id, slot)) {
                emitter.push(id, Action::Export { slot, src: emitter.location(id) });
            }
        }
    }
    Ok(emitter.finish())
}

/// For every convolution the sum that its epilogue computes.
fn fuse(graph: &Graph, visible: &HashSet<NodeId>, given: &Given) -> Vec<Option<NodeId>> {
    let consumers = graph.consumers();
    let mut fused = vec![None; graph.nodes.len()];
    for id in graph.ids() {
        let node = graph.node(id);
        if !matches!(node.op, Op::Add) {
            continue;
        }
        // The other operand must be there when the convolution runs.
        let (early, late) = (node.inputs[0].min(node.inputs[1]), node.inputs[0].max(node.inputs[1]));
        let alone = early != late && consumers[late.index()].len() == 1 && !visible.contains(&late);
        let alone = alone && !given.gives(late);
        if alone && matches!(graph.node(late).op, Op::Conv(_)) {
            fused[late.index()] = Some(id);
        }
    }
    fused
}

/// Whether only dense convolutions that run tap by tap read the input image: then they read its planes themselves.
fn read_as_image(graph: &Graph, shapes: &[Shape], visible: &HashSet<NodeId>, arithmetic: &dyn Arithmetic) -> bool {
    let input = NodeId(0);
    let direct = |reader: &NodeId| match &graph.node(*reader).op {
        Op::Conv(conv) => {
            let algorithm = arithmetic.algorithm(conv, shapes[reader.index()], Dtype::F32, graph.dtype);
            !conv.is_depthwise() && algorithm == Algorithm::Direct
        }
        _ => false,
    };
    !visible.contains(&input) && graph.consumers()[input.index()].iter().all(direct)
}

/// For every node the node in whose tensor it lies, and from which channel on.
fn locate(graph: &Graph, shapes: &[Shape], fused: &[Option<NodeId>]) -> Vec<Option<(NodeId, usize)>> {
    let mut parents: Vec<Option<(NodeId, usize)>> = fused.iter().map(|f| f.map(|add| (add, 0))).collect();
    for id in graph.ids() {
        let node = graph.node(id);
        match &node.op {
            Op::Slice { start, .. } => parents[id.index()] = Some((node.inputs[0], *start)),
            Op::AttentionValues(a) if a.heads == 1 => parents[id.index()] = Some((node.inputs[0], 2 * a.key_dim)),
            _ => {}
        }
    }
    for id in graph.ids() {
        let node = graph.node(id);
        if !matches!(node.op, Op::Concat) {
            continue;
        }
        let mut at = 0;
        let mut rest = &node.inputs[..];
        while let Some(member) = rest.first() {
            // Slices that together are a whole tensor, in order, bring that tensor along.
            let (whole, count) = whole_tensor(graph, shapes, rest).unwrap_or((*member, 1));
            if parents[whole.index()].is_none() {
                parents[whole.index()] = Some((id, at));
            }
            at += rest[..count].iter().map(|m| shapes[m.index()].c).sum::<usize>();
            rest = &rest[count..];
        }
    }
    parents
}

/// The tensor that the first few members are the consecutive slices of, and how many these are.
fn whole_tensor(graph: &Graph, shapes: &[Shape], members: &[NodeId]) -> Option<(NodeId, usize)> {
    let slice = |id: &NodeId| match &graph.node(*id).op {
        Op::Slice { start, len } => Some((graph.node(*id).inputs[0], *start, *len)),
        _ => None,
    };
    let (tensor, _, _) = slice(members.first()?)?;
    let mut reached = 0;
    for (count, member) in members.iter().enumerate() {
        if reached == shapes[tensor.index()].c {
            return Some((tensor, count));
        }
        match slice(member) {
            Some((input, start, len)) if input == tensor && start == reached => reached += len,
            _ => return None,
        }
    }
    (reached == shapes[tensor.index()].c).then_some((tensor, members.len()))
}

struct Emitter<'a> {
    arithmetic: &'a dyn Arithmetic,
    /// Convolutions read the input image itself.
    planar: bool,
    /// By node.
    dtypes: Vec<Dtype>,
    graph: &'a Graph,
    shapes: &'a [Shape],
    parents: Vec<Option<(NodeId, usize)>>,
    steps: Vec<Step<Location>>,
    /// The shape of every root tensor; the nodes come first, then working space.
    roots: Vec<Shape>,
    slots: Vec<Slot>,
    given: Vec<Slot>,
    outputs: usize,
    weights: usize,
    space: usize,
    zeros: usize,
}

impl<'a> Emitter<'a> {
    fn new(
        graph: &'a Graph,
        shapes: &'a [Shape],
        parents: Vec<Option<(NodeId, usize)>>,
        arithmetic: &'a dyn Arithmetic,
    ) -> Self {
        Self {
            arithmetic,
            planar: false,
            dtypes: graph.layer_dtypes(),
            graph,
            shapes,
            parents,
            steps: Vec::new(),
            roots: shapes.to_vec(),
            slots: Vec::new(),
            given: Vec::new(),
            outputs: 0,
            weights: 0,
            space: 0,
            zeros: 0,
        }
    }

    /// Lays out what the caller gives.
    fn give(&mut self, nodes: &[NodeId]) {
        let mut offset = 0;
        for node in nodes {
            let shape = self.shapes[node.index()];
            self.given.push(Slot { node: *node, shape, offset });
            offset += shape.len();
        }
    }

    fn push(&mut self, node: NodeId, action: Action<Location>) {
        self.steps.push(Step { node, action });
    }

    /// Lets the convolution that was just emitted write what the caller reads; false if it cannot.
    fn write_out(&mut self, id: NodeId, slot: usize) -> bool {
        let location = self.location(id);
        let Some(Step { node, action }) = self.steps.last_mut() else { return false };
        match action {
            Action::Conv { spec, depthwise: false, packed, src, dst, residual: None }
                if *node == id && *dst == location && spec.algorithm == Algorithm::Direct =>
            {
                *action = Action::ConvOut { spec: *spec, packed: packed.clone(), src: *src, slot };
                true
            }
            _ => false,
        }
    }

    /// Room for the packed kernel of a convolution, and for what it needs while it runs.
    fn packed(&mut self, spec: &ConvSpec, depthwise: bool) -> Range<usize> {
        let packed = self.weights..self.weights + self.arithmetic.packed_len(spec, depthwise);
        self.weights = packed.end.next_multiple_of(16);
        if !depthwise {
            let (space, zeros) = self.arithmetic.working_space(spec);
            self.space = self.space.max(space);
            self.zeros = self.zeros.max(zeros);
        }
        packed
    }

    /// A tensor that belongs to no node.
    fn workspace(&mut self, shape: Shape) -> Location {
        self.roots.push(shape);
        Location { root: self.roots.len() - 1, start: 0, pixel: 0, shape }
    }

    fn location(&self, id: NodeId) -> Location {
        let (mut root, mut start) = (id, 0);
        while let Some((parent, at)) = self.parents[root.index()] {
            root = parent;
            start += at;
        }
        Location { root: root.index(), start, pixel: 0, shape: self.shapes[id.index()] }
    }

    fn node(&mut self, id: NodeId, fused: &[Option<NodeId>]) {
        let node = self.graph.node(id);
        let dst = self.location(id);
        let from = |this: &Self, i: usize| this.location(node.inputs[i]);
        let action = match &node.op {
            Op::Input { .. } => Action::Import { dst },
            Op::Conv(conv) => {
                let image = self.planar && matches!(self.graph.node(node.inputs[0]).op, Op::Input { .. });
                let dtype = self.dtypes[id.index()];
                let algorithm = self.arithmetic.algorithm(conv, dst.shape, dtype, self.graph.dtype);
                let spec = ConvSpec { planar: image, ..spec(conv, algorithm) };
                let depthwise = conv.is_depthwise();
                let packed = self.packed(&spec, depthwise);
                let residual = fused[id.index()].map(|add| {
                    let inputs = &self.graph.node(add).inputs;
                    self.location(if inputs[0] == id { inputs[1] } else { inputs[0] })
                });
                let src = from(self, 0);
                match (image, spec.algorithm) {
                    (true, _) => Action::ConvImage { spec, packed, size: (src.shape.h, src.shape.w), dst, residual },
                    (_, algorithm) if algorithm.is_low_precision() => {
                        let c = self.arithmetic.quantized_len(&spec, src.shape);
                        let shared = (c > 0).then(|| self.workspace(Shape { c, h: 1, w: 1 }));
                        Action::ConvLowPrecision { spec, packed, src, dst, residual, shared }
                    }
                    _ => Action::Conv { spec, depthwise, packed, src, dst, residual },
                }
            }
            Op::MaxPool { kernel, stride, padding } => {
                Action::MaxPool { window: (*kernel, *stride, *padding), src: from(self, 0), dst }
            }
            Op::AvgPool { kernel, stride } => {
                let spec = mean_spec(*kernel, *stride, dst.shape.c);
                let packed = self.packed(&spec, true);
                Action::Conv { spec, depthwise: true, packed, src: from(self, 0), dst, residual: None }
            }
            Op::Upsample { factor } => Action::Upsample { factor: *factor, src: from(self, 0), dst },
            Op::ConvTranspose(conv) => {
                let (spec, src) = (square_spec(conv), from(self, 0));
                let packed = self.packed(&spec, false);
                let squares = self.workspace(Shape { c: spec.c_out, ..src.shape });
                self.push(id, Action::Conv { spec, depthwise: false, packed, src, dst: squares, residual: None });
                Action::PixelShuffle { factor: conv.factor, src: squares, dst }
            }
            Op::Activate { act } => Action::Activate { act: *act, src: from(self, 0), dst },
            Op::Concat => {
                let mut at = dst.start;
                for member in &node.inputs {
                    let src = self.location(*member);
                    let wanted = Location { root: dst.root, start: at, pixel: 0, shape: src.shape };
                    if src != wanted {
                        self.push(id, Action::Copy { src, dst: wanted });
                    }
                    at += src.shape.c;
                }
                return;
            }
            Op::Slice { .. } => return,
            Op::Add if node.inputs.iter().any(|i| fused[i.index()] == Some(id)) => return,
            Op::Add => Action::Add { a: from(self, 0), b: from(self, 1), dst },
            Op::Attention(op) => {
                let (needed, per_thread) = self.arithmetic.attention_space(op, dst.shape.area() / op.areas);
                self.space = self.space.max(per_thread);
                let shared = self.workspace(Shape { c: needed, h: 1, w: 1 });
                let src = from(self, 0);
                for area in 0..op.areas {
                    let (src, dst) = (src.run(area, op.areas), dst.run(area, op.areas));
                    self.push(id, Action::Attention { op: *op, src, dst, shared });
                }
                return;
            }
            Op::AttentionValues(a) if a.heads == 1 => return,
            Op::AttentionValues(op) => Action::AttentionValues { op: *op, src: from(self, 0), dst },
            Op::GlobalAvgPool => Action::Average { src: from(self, 0), dst },
        };
        self.push(id, action);
    }

    fn finish(self) -> Emitted {
        Emitted {
            steps: self.steps,
            input: self.given.last().map_or(0, |slot| slot.range().end),
            roots: self.roots,
            slots: self.slots,
            given: self.given,
            outputs: self.outputs,
            weights: self.weights,
            space: self.space,
            zeros: self.zeros,
        }
    }
}
