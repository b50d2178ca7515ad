//! The backward pass of a network: from the gradients of its outputs to those of its parameters, or to squares of those of
//! its convolutions' outputs.
//!
//! A root tensor has one gradient; tensors that lie in it have theirs there. Its channels are written by the first node
//! that gives them a gradient, and added to by all others, in the fixed order of the pass.

use super::forward::{Flow, Net, Normalised, squares, window};
use super::loss::Loss;
use super::recorder::{Buffer, Gather, Recorder};
use crate::graph::{Activation, Conv, ConvTranspose, Graph, NodeId, Norm, Op, Param};
use crate::kernels::cuda::Launch;
use crate::kernels::cuda::training::{
    AttentionArrays, Batch, ConvShape, Joined, NormArrays, Parts, Tensors, WeightGradient,
};
use std::collections::{BTreeSet, HashSet};

/// Which nodes a gradient comes to.
pub(super) struct Reach {
    /// By node whether some output depends on it by a way that passes gradients.
    pub reached: Vec<bool>,
    /// By node whether some parameter has an effect on it, by such a way.
    pub needed: Vec<bool>,
}

impl Reach {
    /// `frozen` are parameters that are not trained.
    pub fn of(graph: &Graph, frozen: &BTreeSet<String>) -> Self {
        let (nodes, apart) = (graph.nodes.len(), graph.one2one_only());
        let leaves = |from: usize, to: usize| apart[from] && !apart[to];
        let (mut reached, mut needed) = (vec![false; nodes], vec![false; nodes]);
        graph.outputs.iter().for_each(|id| reached[id.index()] = true);
        for id in graph.ids().rev().filter(|id| id.index() > 0) {
            let at = id.index();
            if reached[at] {
                let inputs = graph.node(id).inputs.iter().map(|input| input.index());
                inputs.filter(|input| !leaves(at, *input)).for_each(|input| reached[input] = true);
            }
        }
        for id in graph.ids() {
            let (at, node) = (id.index(), graph.node(id));
            let from_inputs = node.inputs.iter().any(|input| needed[input.index()] && !leaves(at, input.index()));
            let trained = |param: &Param| param.trainable && !frozen.contains(&param.key);
            needed[at] = from_inputs || node.op.params().iter().any(trained);
        }
        Self { reached, needed }
    }
}

/// The gradient of a root tensor.
struct RootGradient {
    buffer: Buffer,
    /// By channel whether something is written there.
    written: Vec<bool>,
}

/// Where the gradients of the outputs come from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The host: by output of the graph the first byte of its gradient, planes; and the control of a step of training.
    Host(&'a [usize], Option<usize>),
    /// The device.
    Loss(&'a Loss),
}

/// Where sums of squares of the gradient of a node go, in f32: first bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SquaresPlace {
    /// `[n, h, w]`, over channels.
    pub pixels: usize,
    /// `[c]`, over all pixels.
    pub channels: usize,
}

/// The state of a backward pass.
pub(super) struct Backward<'a> {
    pub net: &'a Net<'a>,
    pub reach: &'a Reach,
    pub flow: &'a mut Flow,
    pub rec: &'a mut Recorder,
    /// First byte of the gradients of the parameters.
    pub gradients: usize,
    pub source: Source<'a>,
    /// By node where squares of its gradient go, where it is a convolution.
    squares: &'a [Option<SquaresPlace>],
    roots: Vec<Option<RootGradient>>,
    /// Parameters that have a gradient from a node before.
    known: HashSet<String>,
}

impl<'a> Backward<'a> {
    pub fn new(
        (net, reach): (&'a Net<'a>, &'a Reach),
        (flow, rec): (&'a mut Flow, &'a mut Recorder),
        gradients: usize,
        source: Source<'a>,
    ) -> Self {
        let roots = net.shapes.iter().map(|_| None).collect();
        Self { net, reach, flow, rec, gradients, source, squares: &[], roots, known: HashSet::new() }
    }

    /// The same with squares of the gradients of these nodes, before normalisation and activation are passed.
    pub fn with_squares(self, squares: &'a [Option<SquaresPlace>]) -> Self {
        Self { squares, ..self }
    }

    /// Emits it.
    pub fn run(mut self) {
        for id in self.net.graph.ids().rev().filter(|id| self.reach.reached[id.index()]) {
            let (node, t, source) = (id.index(), self.net.tensors, self.source);
            let outputs = self.net.graph.outputs.iter().enumerate().filter(|(_, output)| **output == id);
            for (output, _) in outputs {
                self.give(node, (0, self.net.shapes[node].c), |dy, add| match source {
                    Source::Host(planes, control) => vec![t.import(planes[output], dy, add, control)],
                    Source::Loss(loss) => vec![loss.gradient(output, dy, add)],
                });
            }
            if self.reach.needed[node] {
                self.node(id);
            }
        }
    }

    /// Gives a run of channels of a node's tensor a gradient: `launches` write it, or add it to what is there.
    fn give(&mut self, node: usize, (start, len): (usize, usize), launches: impl FnOnce(Batch, bool) -> Vec<Launch>) {
        let add = self.prepare(node, (start, len), false);
        let dx = self.net.run(self.root_at(node), node, start, len);
        self.rec.push(launches(dx, add));
    }

    /// Whether a run of channels has a gradient already. Where only some of it has, or all of it must (`whole`), zeros
    /// are written to the rest.
    fn prepare(&mut self, node: usize, (start, len): (usize, usize), whole: bool) -> bool {
        let (net, home) = (self.net, self.net.homes[node]);
        let root = self.roots[home.root].get_or_insert_with(|| RootGradient {
            buffer: self.rec.buffer(net.bytes(home.root)),
            written: vec![false; net.shapes[home.root].c],
        });
        let (at, first) = (self.rec.at(root.buffer), home.start + start);
        let run = &mut root.written[first..first + len];
        let some = run.contains(&true);
        if some || whole {
            let mut channel = 0;
            while channel < len {
                let until = (channel..len).find(|i| run[*i] != run[channel]).unwrap_or(len);
                if !run[channel] {
                    let zeros = net.run(at, node, start + channel, until - channel);
                    self.rec.push([net.tensors.zero(zeros)]);
                }
                channel = until;
            }
        }
        run.fill(true);
        some
    }

    fn root_at(&self, node: usize) -> usize {
        self.roots[self.net.homes[node].root].as_ref().map_or(0, |root| self.rec.at(root.buffer))
    }

    /// The gradient of a node's tensor, all of it.
    fn gradient(&mut self, node: usize) -> Batch {
        let channels = self.net.shapes[node].c;
        self.prepare(node, (0, channels), true);
        self.net.run(self.root_at(node), node, 0, channels)
    }

    fn tensor(&mut self, node: usize) -> Batch {
        self.net.tensor(self.flow, self.rec, node)
    }

    /// Whether a node passes a gradient to an input.
    fn passes(&self, node: usize, input: usize) -> bool {
        self.reach.needed[input] && (self.net.apart[input] || !self.net.apart[node])
    }

    /// Gives all of an input a gradient, if it takes one.
    fn pass(&mut self, node: usize, input: usize, launches: impl FnOnce(Batch, bool) -> Vec<Launch>) {
        if self.passes(node, input) {
            self.give(input, (0, self.net.shapes[input].c), launches);
        }
    }

    fn node(&mut self, id: NodeId) {
        let (net, at) = (self.net, id.index());
        let (node, t) = (net.graph.node(id), net.tensors);
        let inputs: Vec<usize> = node.inputs.iter().map(|input| input.index()).collect();
        let [first, ..] = inputs[..] else { return };
        let dy = self.gradient(at);
        match &node.op {
            Op::Input { .. } => {}
            Op::Conv(conv) => self.conv((at, first), conv, dy),
            Op::ConvTranspose(conv) => self.conv_transpose((at, first), conv, dy),
            Op::Activate { act } => {
                let x = self.tensor(first);
                self.pass(at, first, |dx, add| vec![t.activate_backward(*act, x, dy, dx, add)]);
            }
            Op::MaxPool { kernel, stride, padding } => {
                let taps = self.flow.left[at].taps.map_or(0, |taps| self.rec.at(taps));
                let window = (*kernel, *stride, *padding);
                self.pass(at, first, |dx, add| vec![t.max_pool_backward(window, dy, taps, dx, add)]);
            }
            Op::AvgPool { kernel, stride } => {
                self.pass(at, first, |dx, add| vec![t.average_pool_backward((*kernel, *stride), dy, dx, add)]);
            }
            Op::Upsample { factor } => {
                self.pass(at, first, |dx, add| vec![t.upsample_backward(*factor, dy, dx, add)]);
            }
            Op::Concat => self.concat(at, &inputs),
            Op::Slice { start, len } => {
                if net.homes[at].root == at && self.passes(at, first) {
                    self.give(first, (*start, *len), |dx, add| vec![t.copy(dy, dx, add)]);
                }
            }
            Op::Add => inputs.iter().for_each(|input| self.pass(at, *input, |dx, add| vec![t.copy(dy, dx, add)])),
            Op::Attention(attention) => {
                let dots = self.rec.buffer(4 * attention.heads * net.pixels(at));
                let logs = self.flow.left[at].logs.map_or(0, |logs| self.rec.at(logs));
                let arrays = AttentionArrays { logs, dots: self.rec.at(dots) };
                let tensors = (self.tensor(first), self.tensor(at));
                self.pass(at, first, |dx, add| t.attention_backward(attention, tensors, arrays, (dy, dx), add).into());
            }
            Op::AttentionValues(attention) => {
                self.pass(at, first, |dx, add| vec![t.attention_values_backward(attention, dy, dx, add)]);
            }
            Op::GlobalAvgPool => self.pass(at, first, |dx, add| vec![t.global_average_backward(dy, dx, add)]),
        }
    }

    fn concat(&mut self, at: usize, inputs: &[usize]) {
        let (net, mut position) = (self.net, 0);
        for input in inputs {
            let len = net.shapes[*input].c;
            if !net.in_place(at, *input, position) {
                let dy = net.run(self.root_at(at), at, position, len);
                self.pass(at, *input, |dx, add| vec![net.tensors.copy(dy, dx, add)]);
            }
            position += len;
        }
    }

    /// The first byte of the gradient of a parameter, and whether another node has written it; none of one that is not
    /// trained.
    fn parameter(&mut self, key: &str) -> Option<(usize, bool)> {
        let layout = self.net.layout;
        layout.is_trained(key).then(|| (self.gradients + 4 * layout.at(key), !self.known.insert(key.to_owned())))
    }

    /// The same of a vector, with room for it that nobody reads where it is not trained.
    fn vector(&mut self, key: &str, len: usize) -> (usize, bool) {
        let unread = self.rec.buffer(4 * len);
        self.parameter(key).unwrap_or_else(|| (self.rec.at(unread), false))
    }

    /// Whether a parameter of a node is trained.
    fn trains(&self, node: usize) -> bool {
        self.net.graph.nodes[node].op.params().iter().any(|param| self.net.layout.is_trained(&param.key))
    }

    fn conv(&mut self, (node, input): (usize, usize), conv: &Conv, dy: Batch) {
        let (t, net) = (self.net.tensors, self.net);
        if let Some(to) = self.squares.get(node).copied().flatten() {
            self.square(node, dy, to);
        }
        if !self.passes(node, input) && !self.trains(node) {
            return;
        }
        let left = self.flow.left[node];
        let z = left.linear.map_or(dy, |linear| net.dense(self.rec.at(linear), node));
        if let (Some(norm), Some(stats)) = (&conv.norm, left.stats) {
            let arrays = net.norm_arrays(norm, self.rec.at(stats));
            let sums = self.norm_sums((node, conv.act), norm, (z, dy), &arrays);
            self.rec.push([t.norm_backward(conv.act, z, &arrays, dy, sums)]);
        } else if conv.act != Activation::Identity {
            self.rec.push([t.activate_backward(conv.act, z, dy, dy, false)]);
        }
        self.bias(node, conv.bias.as_deref(), dy);
        let own = self.tensor(input);
        let (x, kernel) = net.operands(self.rec, &left, (input, own), conv);
        self.kernel(&window(conv), &conv.weight, (x, conv.c_in), (dy, [conv.c_out, node]));
        let kernel = (kernel, None);
        match net.rounded[node] {
            Some(steps) if self.passes(node, input) => {
                let room = self.rec.buffer(net.bytes(input));
                let rounded = net.dense(self.rec.at(room), input);
                self.rec.push([t.conv_data(&window(conv), dy, kernel, rounded, false)]);
                self.pass(node, input, |dx, add| vec![t.round_backward(own, steps, rounded, dx, add)]);
            }
            _ => self.pass(node, input, |dx, add| vec![t.conv_data(&window(conv), dy, kernel, dx, add)]),
        }
    }

    /// The sums over the gradient `dy` of a normalisation of `z`, for its parameters. Gives where they lie, if the gradient
    /// of `z` takes them too: given statistics do not depend on it.
    fn norm_sums(
        &mut self,
        (node, act): (usize, Activation),
        norm: &Norm,
        (z, dy): (Batch, Batch),
        arrays: &NormArrays,
    ) -> Option<usize> {
        let (net, channels) = (self.net, self.net.shapes[node].c);
        let given = net.normalised == Normalised::Running;
        let [gamma, beta, _, _] = norm.keys();
        if given && ![&gamma, &beta].iter().any(|key| net.layout.is_trained(key)) {
            return None;
        }
        let parts = Parts::of(net.pixels(node));
        let room = self.rec.buffer(8 * parts.count * channels);
        let targets = [&beta, &gamma].map(|key| self.vector(key, channels));
        let sums = Joined { parts_at: self.rec.at(room), parts, targets: &targets };
        self.rec.push(net.tensors.norm_sums(act, z, arrays, dy, &sums));
        self.sums_of_all(room, z, channels);
        (!given).then(|| self.rec.at(room))
    }

    /// Sums up the squares of the gradient of a node.
    fn square(&mut self, node: usize, dy: Batch, to: SquaresPlace) {
        let parts = Parts::of(self.net.pixels(node));
        let room = self.rec.buffer(4 * parts.count * self.net.shapes[node].c);
        let sums = Joined { parts_at: self.rec.at(room), parts, targets: &[(to.channels, false)] };
        self.rec.push(self.net.tensors.squares(dy, to.pixels, &sums));
    }

    /// Replaces the two sums of every channel of `z` at the start of a buffer by those over all ranks whose batches a
    /// normalisation has the statistics of. The gradients of its scale and shift remain this rank's, as all gradients
    /// do up to their own sum.
    fn sums_of_all(&mut self, sums: Buffer, z: Batch, channels: usize) {
        let ranks = match self.net.normalised {
            Normalised::Batch { ranks, .. } if ranks > 1 => ranks,
            _ => return,
        };
        let all = self.rec.buffer(8 * channels * ranks);
        self.rec.gather(Gather { from: sums, to: all, len: 2 * channels });
        let targets = [0, channels].map(|first| (self.rec.at(sums) + 4 * first, false));
        let joined = Joined { parts_at: self.rec.at(all), parts: Parts::of_ranks(ranks), targets: &targets };
        self.rec.push([self.net.tensors.sums_joined(z, &joined)]);
    }

    fn conv_transpose(&mut self, (node, input): (usize, usize), conv: &ConvTranspose, dy: Batch) {
        let (t, shape) = (self.net.tensors, squares(conv));
        self.bias(node, conv.bias.as_deref(), dy);
        let x = self.tensor(input);
        self.kernel(&shape, &conv.weight, (dy, conv.c_out), (x, [conv.c_in, input]));
        let kernel = (self.net.parameter(&conv.weight), None);
        self.pass(node, input, |dx, add| vec![t.conv(&shape, dy, kernel, dx, add)]);
    }

    fn bias(&mut self, node: usize, key: Option<&str>, dz: Batch) {
        let Some(target) = key.and_then(|key| self.parameter(key)) else { return };
        let parts = Parts::of(self.net.pixels(node));
        let room = self.rec.buffer(4 * parts.count * self.net.shapes[node].c);
        let sums = Joined { parts_at: self.rec.at(room), parts, targets: &[target] };
        self.rec.push(self.net.tensors.channel_sums(dz, &sums));
    }

    /// The gradient of a kernel: `x` of so many channels is the larger tensor, `z` the smaller, of so many channels and
    /// the form of a node.
    fn kernel(
        &mut self,
        shape: &ConvShape,
        key: &str,
        (x, c_in): (Batch, usize),
        (z, [c_out, node]): (Batch, [usize; 2]),
    ) {
        let Some((at, add)) = self.parameter(key) else { return };
        let (h, w) = (self.net.shapes[node].h, self.net.shapes[node].w);
        let parts = Tensors::weight_parts(shape, [self.net.images, c_out, h, w], c_in);
        let depth = if shape.depthwise { 1 } else { c_in };
        let room = self.rec.buffer(4 * parts.count * c_out * shape.kernel * shape.kernel * depth);
        let gradient = WeightGradient { at, parts_at: self.rec.at(room), parts, add };
        self.rec.push(self.net.tensors.conv_weights(shape, x, z, &gradient));
    }
}
