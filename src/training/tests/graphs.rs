//! Random models: small graphs of all operators, with weights that keep their values in range.

use crate::graph::{Activation, Attention, Conv, ConvTranspose, Dtype, Graph, Head, Node, NodeId, Norm, Op};
use crate::model::{Info, Model, Tensor, Weights};
use std::collections::BTreeMap;

/// Kinds of operators that a seed chooses from.
pub const KINDS: u64 = 16;

/// Numbers without a pattern that a mistake could hide in.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// One of `from..=to`.
    pub fn within(&mut self, from: usize, to: usize) -> usize {
        from + (self.next() % (to - from + 1) as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// In -1..1.
    pub fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| (self.next() % 20_011) as f32 / 10_005.5 - 1.0).collect()
    }
}

/// A graph under construction: nodes with their channels and sides.
struct Growing {
    numbers: Numbers,
    nodes: Vec<Node>,
    shapes: Vec<[usize; 3]>,
}

impl Growing {
    fn push(&mut self, op: Op, inputs: &[usize], shape: [usize; 3]) -> usize {
        let inputs = inputs.iter().map(|input| NodeId(*input as u32)).collect();
        self.nodes.push(Node { name: format!("n{}", self.nodes.len()), op, inputs });
        self.shapes.push(shape);
        self.nodes.len() - 1
    }

    fn conv(&mut self, input: usize, (kernel, stride): (usize, usize), depthwise: bool) -> usize {
        let [c_in, h, w] = self.shapes[input];
        let n = &mut self.numbers;
        let c_out = if depthwise { c_in } else { n.within(1, 40) };
        let padding = n.within(0, kernel / 2).max(kernel.saturating_sub(h.min(w)).div_ceil(2));
        let norm = n.chance(70);
        let name = format!("n{}", self.nodes.len());
        let act = [Activation::Silu, Activation::Relu, Activation::Identity][n.within(0, 2)];
        let conv = Conv {
            weight: format!("{name}.weight"),
            bias: n.chance(if norm { 10 } else { 70 }).then(|| format!("{name}.bias")),
            norm: norm.then(|| Norm { prefix: format!("{name}.bn"), eps: 1e-3 }),
            c_in,
            c_out,
            kernel,
            stride,
            padding,
            groups: if depthwise { c_in } else { 1 },
            act,
        };
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        self.push(Op::Conv(conv), &[input], [c_out, side(h), side(w)])
    }

    /// A 1x1 convolution without anything behind it, to so many channels.
    fn plain(&mut self, input: usize, c_out: usize) -> usize {
        let [c_in, h, w] = self.shapes[input];
        let weight = format!("n{}.weight", self.nodes.len());
        let act = Activation::Identity;
        let conv =
            Conv { weight, bias: None, norm: None, c_in, c_out, kernel: 1, stride: 1, padding: 0, groups: 1, act };
        self.push(Op::Conv(conv), &[input], [c_out, h, w])
    }

    fn attention(&mut self, input: usize, values: bool) -> usize {
        let [_, h, w] = self.shapes[input];
        let n = &mut self.numbers;
        let (heads, key_dim, head_dim) = (n.within(1, 3), n.within(1, 6), n.within(1, 9));
        let areas = (1..=3).rev().find(|areas| (h * w).is_multiple_of(*areas)).unwrap_or(1);
        let op = Attention { heads, key_dim, head_dim, scale: 0.7, areas };
        let packed = self.plain(input, heads * op.packed());
        let op = if values { Op::AttentionValues(op) } else { Op::Attention(op) };
        self.push(op, &[packed], [heads * head_dim, h, w])
    }

    /// A node of a kind behind `input`.
    fn grow(&mut self, kind: u64, input: usize) -> usize {
        let [c, h, w] = self.shapes[input];
        let most = h.min(w);
        match kind {
            0 => self.conv(input, (1, 1), false),
            1 => self.conv(input, (3, 1), false),
            2 => self.conv(input, (3, 2), false),
            3 => {
                let window = (self.numbers.within(1, 5), self.numbers.within(1, 3));
                self.conv(input, window, false)
            }
            4 => self.conv(input, (3, 1), true),
            5 => {
                let window = (self.numbers.within(1, 5), self.numbers.within(1, 3));
                self.conv(input, window, true)
            }
            6 => {
                let (factor, c_out) = (self.numbers.within(1, 3), self.numbers.within(1, 9));
                let name = format!("n{}", self.nodes.len());
                let bias = self.numbers.chance(50).then(|| format!("{name}.bias"));
                let conv = ConvTranspose { weight: format!("{name}.weight"), bias, c_in: c, c_out, factor };
                self.push(Op::ConvTranspose(conv), &[input], [c_out, h * factor, w * factor])
            }
            7 => {
                let act = [Activation::Silu, Activation::Relu][self.numbers.within(0, 1)];
                self.push(Op::Activate { act }, &[input], [c, h, w])
            }
            8 => {
                let kernel = self.numbers.within(1, most.min(5));
                let (stride, padding) = (self.numbers.within(1, 3), self.numbers.within(0, kernel / 2));
                let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
                self.push(Op::MaxPool { kernel, stride, padding }, &[input], [c, side(h), side(w)])
            }
            9 => {
                let (kernel, stride) = (self.numbers.within(1, most.min(4)), self.numbers.within(1, 3));
                let side = |n: usize| (n - kernel) / stride + 1;
                self.push(Op::AvgPool { kernel, stride }, &[input], [c, side(h), side(w)])
            }
            10 => {
                let factor = self.numbers.within(1, 3);
                self.push(Op::Upsample { factor }, &[input], [c, h * factor, w * factor])
            }
            11 => self.split_and_join(input),
            12 => {
                let other = self.plain(input, c);
                self.push(Op::Add, &[input, other], [c, h, w])
            }
            13 => self.attention(input, false),
            14 => self.attention(input, true),
            _ => self.push(Op::GlobalAvgPool, &[input], [c, 1, 1]),
        }
    }

    /// Slices of a tensor, one of them in use a second time, and a concat of all: in order or not.
    fn split_and_join(&mut self, input: usize) -> usize {
        let [c, h, w] = self.shapes[input];
        let first = self.numbers.within(1, c);
        let a = self.push(Op::Slice { start: 0, len: first }, &[input], [first, h, w]);
        let mut parts = vec![a];
        if first < c {
            parts.push(self.push(Op::Slice { start: first, len: c - first }, &[input], [c - first, h, w]));
        }
        let last = *parts.last().unwrap_or(&a);
        let further = self.plain(last, 3);
        parts.push(further);
        if self.numbers.chance(30) {
            parts.reverse();
        }
        if self.numbers.chance(30) {
            parts.push(a);
        }
        let all = parts.iter().map(|part| self.shapes[*part][0]).sum();
        self.push(Op::Concat, &parts, [all, h, w])
    }
}

/// A model of a few operators, the first of the kind that the seed names; the shape of its images, and what it is.
pub fn random_model(seed: u64, operators: usize) -> (Model, [usize; 4], String) {
    let mut numbers = Numbers::new(seed);
    let shape = [numbers.within(1, 3), numbers.within(1, 4), numbers.within(5, 13), numbers.within(5, 13)];
    let mut growing = Growing { numbers, nodes: Vec::new(), shapes: Vec::new() };
    let image = growing.push(Op::Input { channels: shape[1] }, &[], [shape[1], shape[2], shape[3]]);
    let width = growing.numbers.within(2, 20);
    let mut latest = growing.plain(image, width);
    let mut outputs = Vec::new();
    for index in 0..operators {
        let kind = if index == 0 { seed % KINDS } else { growing.numbers.next() % (KINDS - 1) };
        let [_, h, w] = growing.shapes[latest];
        if h * w > 400 {
            break;
        }
        let before = latest;
        latest = growing.grow(kind, latest);
        // Some tensors are outputs and read by others.
        if index > 0 && growing.numbers.chance(20) {
            outputs.push(before);
        }
    }
    outputs.push(latest);
    let what = format!("{:?}", growing.nodes.iter().map(|node| (&node.op, &node.inputs)).collect::<Vec<_>>());
    let graph = Graph {
        nodes: growing.nodes,
        outputs: outputs.into_iter().map(|output| NodeId(output as u32)).collect(),
        head: Head::Classify { nc: 1 },
        dtype: Dtype::F32,
        exceptions: BTreeMap::new(),
    };
    let weights = weights(&graph, seed);
    (Model { graph, weights, info: Info::default() }, shape, what)
}

fn weights(graph: &Graph, seed: u64) -> Weights {
    let mut weights = Weights::new();
    for (number, param) in graph.params().into_iter().enumerate() {
        let mut data = Numbers::new(seed ^ (number as u64 + 1) << 32).values(param.shape.iter().product());
        let fan_in = param.shape[1..].iter().product::<usize>() as f32;
        let key = param.key.as_str();
        for value in &mut data {
            *value = match key {
                key if key.ends_with("running_var") => 0.6 + 0.5 * *value,
                key if key.ends_with("bn.weight") => 1.0 + 0.5 * *value,
                _ => *value / fan_in.sqrt(),
            };
        }
        weights.insert(param.key, Tensor::new(param.shape, data));
    }
    weights
}
