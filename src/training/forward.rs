//! The forward pass of a network: launches of every operator, and what the backward pass needs of it.

use super::homes::{Home, homes};
use super::layout::Layout;
use super::recorder::{Buffer, Gather, Recorder};
use crate::graph::{Activation, Conv, ConvTranspose, Graph, GraphError, NodeId, Norm, Op, Shape};
use crate::kernels::cuda::training::{
    AttentionArrays, Batch, ConvShape, NormArrays, Parts, Statistics, Tensors, stats_len,
};

/// A network, and everything about its tensors that does not depend on addresses.
pub(super) struct Net<'a> {
    pub graph: &'a Graph,
    pub shapes: Vec<Shape>,
    pub homes: Vec<Home>,
    /// By node whether it passes no gradient to nodes that are not so marked.
    pub apart: Vec<bool>,
    pub layout: &'a Layout,
    /// First byte of the parameters.
    pub parameters: usize,
    pub images: usize,
    pub tensors: Tensors,
    pub normalised: Normalised,
    /// By node the first byte of the steps of its input, where it rounds as in int8.
    pub rounded: Vec<Option<usize>>,
}

/// The statistics that normalisations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Normalised {
    /// The running ones.
    Running,
    /// Those of the batch, of which so many ranks have a part; the byte `momentum` is the first of their weight in the
    /// running ones.
    Batch { ranks: usize, momentum: usize },
}

/// What a node leaves for the backward pass.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left {
    /// What a convolution found, before its normalisation and activation.
    pub linear: Option<Buffer>,
    /// Mean and inverse deviation.
    pub stats: Option<Buffer>,
    /// Which taps had the maxima.
    pub taps: Option<Buffer>,
    /// Logarithms of attention.
    pub logs: Option<Buffer>,
    /// Input and kernel, rounded.
    pub rounded: Option<[Buffer; 2]>,
}

/// The tensors of a forward pass.
pub(super) struct Flow {
    /// By root its buffer.
    pub roots: Vec<Option<Buffer>>,
    pub left: Vec<Left>,
}

impl<'a> Net<'a> {
    /// A network for images of `size`.
    ///
    /// # Errors
    /// If the graph does not fit the size.
    pub fn new(
        graph: &'a Graph,
        size: (usize, usize),
        images: usize,
        (layout, parameters): (&'a Layout, usize),
        (tensors, normalised): (Tensors, Normalised),
    ) -> Result<Self, GraphError> {
        let shapes = graph.shapes(size.0, size.1)?;
        let channels: Vec<usize> = shapes.iter().map(|shape| shape.c).collect();
        let apart = graph.one2one_only();
        let homes = homes(graph, &channels, &apart);
        let rounded = vec![None; graph.nodes.len()];
        Ok(Self { graph, shapes, homes, apart, layout, parameters, images, tensors, normalised, rounded })
    }

    /// Where a parameter lies.
    pub fn parameter(&self, key: &str) -> usize {
        self.parameters + 4 * self.layout.at(key)
    }

    /// Bytes of a tensor of a node's form.
    pub fn bytes(&self, node: usize) -> usize {
        self.images * self.shapes[node].len() * self.tensors.size()
    }

    pub fn pixels(&self, node: usize) -> usize {
        self.images * self.shapes[node].area()
    }

    /// A run of channels of the tensor of a node, whose root lies from byte `at` on.
    pub fn run(&self, at: usize, node: usize, start: usize, len: usize) -> Batch {
        let (home, shape) = (self.homes[node], self.shapes[node]);
        let first = at + (home.start + start) * self.tensors.size();
        Batch::new(first, self.shapes[home.root].c, [self.images, len, shape.h, shape.w])
    }

    /// A tensor of a node's form for itself.
    pub fn dense(&self, at: usize, node: usize) -> Batch {
        let shape = self.shapes[node];
        Batch::new(at, shape.c, [self.images, shape.c, shape.h, shape.w])
    }

    /// Whether an input of a concat lies in its place, `position` channels from the first.
    pub fn in_place(&self, concat: usize, input: usize, position: usize) -> bool {
        let home = self.homes[concat];
        self.homes[input] == Home { root: home.root, start: home.start + position }
    }

    /// The tensor of a node.
    pub fn tensor(&self, flow: &mut Flow, rec: &mut Recorder, node: usize) -> Batch {
        let root = self.homes[node].root;
        let buffer = *flow.roots[root].get_or_insert_with(|| rec.buffer(self.bytes(root)));
        self.run(rec.at(buffer), node, 0, self.shapes[node].c)
    }

    /// Before the first node. The images may be the tensor that a network before has made of them.
    pub fn start(&self, images: Option<Buffer>) -> Flow {
        let nodes = self.graph.nodes.len();
        let mut flow = Flow { roots: vec![None; nodes], left: vec![Left::default(); nodes] };
        if let Some(root) = flow.roots.first_mut() {
            *root = images;
        }
        flow
    }

    /// Emits the forward pass. The images are planes at `images`, or the tensor that a network before has made of them.
    pub fn forward(&self, rec: &mut Recorder, images: Result<Buffer, Buffer>) -> Flow {
        let mut flow = self.start(images.err());
        for id in self.graph.ids() {
            let node = id.index();
            let y = self.tensor(&mut flow, rec, node);
            if let Op::Input { .. } = self.graph.node(id).op {
                if let Ok(planes) = images {
                    let launch = self.tensors.import(rec.at(planes), y, false, None);
                    rec.push([launch]);
                }
                continue;
            }
            flow.left[node] = self.node(&mut flow, rec, id, y);
        }
        flow
    }

    /// Emits a node, of which `y` is the tensor. Gives what it leaves for the backward pass.
    pub fn node(&self, flow: &mut Flow, rec: &mut Recorder, id: NodeId, y: Batch) -> Left {
        let (node, t) = (self.graph.node(id), self.tensors);
        let inputs: Vec<usize> = node.inputs.iter().map(|input| input.index()).collect();
        let [first, ..] = inputs[..] else { return Left::default() };
        let x = self.tensor(flow, rec, first);
        let mut left = Left::default();
        match &node.op {
            Op::Input { .. } => {}
            Op::Conv(conv) => return self.conv(rec, (id.index(), conv), (first, x), y),
            Op::ConvTranspose(conv) => {
                let (shape, bias) = (squares(conv), conv.bias.as_ref().map(|key| self.parameter(key)));
                rec.push([t.conv_data(&shape, x, (self.parameter(&conv.weight), bias), y, false)]);
            }
            Op::Activate { act } => rec.push([t.activate(*act, x, y)]),
            Op::MaxPool { kernel, stride, padding } => {
                let taps = rec.buffer(2 * self.images * self.shapes[id.index()].len());
                rec.push([t.max_pool((*kernel, *stride, *padding), x, rec.at(taps), y)]);
                left.taps = Some(taps);
            }
            Op::AvgPool { kernel, stride } => rec.push([t.average_pool((*kernel, *stride), x, y)]),
            Op::Upsample { factor } => rec.push([t.upsample(*factor, x, y)]),
            Op::Concat => {
                let mut position = 0;
                for input in inputs {
                    let len = self.shapes[input].c;
                    if !self.in_place(id.index(), input, position) {
                        let (from, to) = (self.tensor(flow, rec, input), self.concat_run(flow, rec, id, position, len));
                        rec.push([t.copy(from, to, false)]);
                    }
                    position += len;
                }
            }
            Op::Slice { start, len } => {
                if self.homes[id.index()].root == id.index() {
                    let root = self.tensor_root(flow, rec, first);
                    rec.push([t.copy(self.run(root, first, *start, *len), y, false)]);
                }
            }
            Op::Add => {
                let other = inputs.get(1).copied().unwrap_or(first);
                let other = self.tensor(flow, rec, other);
                rec.push([t.add(x, other, y)]);
            }
            Op::Attention(attention) => {
                let logs = rec.buffer(4 * attention.heads * self.pixels(id.index()));
                let arrays = AttentionArrays { logs: rec.at(logs), dots: 0 };
                rec.push([t.attention(attention, x, arrays, y)]);
                left.logs = Some(logs);
            }
            Op::AttentionValues(attention) => rec.push([t.attention_values(attention, x, y)]),
            Op::GlobalAvgPool => rec.push([t.global_average(x, y)]),
        }
        left
    }

    /// First byte of the root of a node's tensor.
    fn tensor_root(&self, flow: &mut Flow, rec: &mut Recorder, node: usize) -> usize {
        let root = self.homes[node].root;
        let buffer = *flow.roots[root].get_or_insert_with(|| rec.buffer(self.bytes(root)));
        rec.at(buffer)
    }

    fn concat_run(&self, flow: &mut Flow, rec: &mut Recorder, id: NodeId, position: usize, len: usize) -> Batch {
        let root = self.tensor_root(flow, rec, id.index());
        self.run(root, id.index(), position, len)
    }

    fn conv(&self, rec: &mut Recorder, (node, conv): (usize, &Conv), (input, x): (usize, Batch), y: Batch) -> Left {
        let (t, shape) = (self.tensors, window(conv));
        let mut left = Left { rounded: self.round(rec, (node, conv), (input, x)), ..Left::default() };
        let (x, kernel) = self.operands(rec, &left, (input, x), conv);
        let kernel = (kernel, conv.bias.as_ref().map(|key| self.parameter(key)));
        if conv.norm.is_none() && conv.act == Activation::Identity {
            rec.push([t.conv(&shape, x, kernel, y, false)]);
            return left;
        }
        let linear = rec.buffer(self.bytes(node));
        let z = self.dense(rec.at(linear), node);
        rec.push([t.conv(&shape, x, kernel, z, false)]);
        left.linear = Some(linear);
        let Some(norm) = &conv.norm else {
            rec.push([t.activate(conv.act, z, y)]);
            return left;
        };
        let stats = rec.buffer(4 * stats_len(conv.c_out));
        self.statistics(rec, (node, norm), z, stats);
        rec.push([t.norm(conv.act, z, &self.norm_arrays(norm, rec.at(stats)), y)]);
        left.stats = Some(stats);
        left
    }

    /// Input and kernel of a convolution as int8 computes with them, where it does.
    fn round(
        &self,
        rec: &mut Recorder,
        (node, conv): (usize, &Conv),
        (input, x): (usize, Batch),
    ) -> Option<[Buffer; 2]> {
        let steps = self.rounded[node]?;
        let len = conv.kernel * conv.kernel * conv.c_in / conv.groups.max(1);
        let [rounded, kernel] = [self.bytes(input), 4 * conv.c_out * len].map(|bytes| rec.buffer(bytes));
        let arrays = [self.parameter(&conv.weight), rec.at(kernel), steps];
        rec.push([
            self.tensors.round(x, steps, self.dense(rec.at(rounded), input)),
            self.tensors.round_kernel(arrays, [conv.c_out, len]),
        ]);
        Some([rounded, kernel])
    }

    /// What a convolution multiplies: its input, and the first byte of its kernel.
    pub fn operands(&self, rec: &Recorder, left: &Left, (input, x): (usize, Batch), conv: &Conv) -> (Batch, usize) {
        match left.rounded {
            Some([rounded, kernel]) => (self.dense(rec.at(rounded), input), rec.at(kernel)),
            None => (x, self.parameter(&conv.weight)),
        }
    }

    /// What normalises `z`, the values of a node before its normalisation.
    fn statistics(&self, rec: &mut Recorder, (node, norm): (usize, &Norm), z: Batch, stats: Buffer) {
        let (t, channels) = (self.tensors, self.shapes[node].c);
        let [_, _, mean, variance] = norm.keys();
        let running = [self.parameter(&mean), self.parameter(&variance)];
        let Normalised::Batch { ranks, momentum } = self.normalised else {
            rec.push([t.moments_given(z, rec.at(stats), running, norm.eps)]);
            return;
        };
        let to = Statistics { stats: rec.at(stats), running, eps: norm.eps, momentum };
        let parts = Parts::of(self.pixels(node));
        let room = rec.buffer(8 * parts.count * channels);
        let parts = (rec.at(room), parts);
        if ranks == 1 {
            rec.push(t.moments(z, parts, &to));
            return;
        }
        let len = stats_len(channels);
        let (own, all) = (rec.buffer(4 * len), rec.buffer(4 * len * ranks));
        rec.push(t.moments_own(z, parts, rec.at(own)));
        rec.gather(Gather { from: own, to: all, len });
        rec.push([t.moments_of_all(z, (rec.at(all), ranks), &to)]);
    }

    pub fn norm_arrays(&self, norm: &Norm, stats: usize) -> NormArrays {
        let [gamma, beta, _, _] = norm.keys();
        NormArrays { stats, gamma: self.parameter(&gamma), beta: self.parameter(&beta) }
    }
}

/// The window of a convolution.
pub(super) fn window(conv: &Conv) -> ConvShape {
    ConvShape { kernel: conv.kernel, stride: conv.stride, padding: conv.padding, depthwise: conv.is_depthwise() }
}

/// The window of the convolution whose data gradient a transposed convolution is.
pub(super) fn squares(conv: &ConvTranspose) -> ConvShape {
    ConvShape { kernel: conv.factor, stride: conv.factor, padding: 0, depthwise: false }
}
