//! Random networks of all operators. Whoever includes this brings the graph's and the model's types into scope.

use super::{
    Activation, Attention, Builder, Conv, ConvTranspose, Head, Info, Model, NodeId, Norm, Op, Tensor, Weights,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A graph under construction with the shape of every node.
struct Random {
    rng: StdRng,
    graph: Builder,
    shapes: Vec<[usize; 3]>,
}

impl Random {
    fn push(&mut self, op: Op, inputs: &[NodeId], shape: [usize; 3]) -> NodeId {
        self.shapes.push(shape);
        self.graph.push(format!("n{}", self.shapes.len()), op, inputs)
    }

    fn shape(&self, id: NodeId) -> [usize; 3] {
        self.shapes[id.index()]
    }

    fn any(&mut self) -> NodeId {
        // Mostly recent nodes, so that chains become deep.
        let n = self.shapes.len() as u32;
        let back = if self.rng.random_bool(0.6) { 3.min(n) } else { n };
        NodeId(self.rng.random_range(n - back..n))
    }

    fn conv(&mut self, input: NodeId, c_out: usize, kernel: usize, stride: usize, depthwise: bool) -> NodeId {
        let [c, h, w] = self.shape(input);
        let name = format!("p{}", self.shapes.len());
        let padding = if kernel > h.min(w) { kernel / 2 + 1 } else { self.rng.random_range(0..=kernel / 2) };
        let norm = self.rng.random_bool(0.6).then(|| Norm { prefix: format!("{name}.bn"), eps: 1e-3 });
        let conv = Conv {
            weight: format!("{name}.w"),
            bias: self.rng.random_bool(0.5).then(|| format!("{name}.b")),
            norm,
            c_in: c,
            c_out: if depthwise { c } else { c_out },
            kernel,
            stride,
            padding,
            groups: if depthwise { c } else { 1 },
            act: [Activation::Identity, Activation::Silu, Activation::Relu][self.rng.random_range(0..3)],
        };
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let shape = [conv.c_out, side(h), side(w)];
        self.push(Op::Conv(conv), &[input], shape)
    }

    fn step(&mut self) {
        let input = self.any();
        let [c, h, w] = self.shape(input);
        let width = [1, 3, 8, 16, 37][self.rng.random_range(0..5)];
        match self.rng.random_range(0..18) {
            0..4 => {
                let kernel = [1, 1, 3, 3, 5][self.rng.random_range(0..5)];
                let stride = if h.min(w) > 4 { self.rng.random_range(1..3) } else { 1 };
                self.conv(input, width, kernel, stride, false);
            }
            4 => {
                self.conv(input, c, 3, 1, true);
            }
            5 => {
                self.push(Op::MaxPool { kernel: 3, stride: 1, padding: 1 }, &[input], [c, h, w]);
            }
            6 if h * w < 200 => {
                self.push(Op::Upsample { factor: 2 }, &[input], [c, 2 * h, 2 * w]);
            }
            7 | 8 => self.split_and_join(input),
            9 | 10 => self.join([c, h, w]),
            11 => {
                let fits: Vec<NodeId> =
                    (0..self.shapes.len() as u32).map(NodeId).filter(|id| self.shape(*id) == [c, h, w]).collect();
                let other = fits[self.rng.random_range(0..fits.len())];
                self.push(Op::Add, &[input, other], [c, h, w]);
            }
            12 if h * w <= 100 => self.attend(input),
            14 if h * w <= 64 => self.transpose(input, width),
            15 => {
                let act = [Activation::Identity, Activation::Silu, Activation::Relu][self.rng.random_range(0..3)];
                self.push(Op::Activate { act }, &[input], [c, h, w]);
            }
            16 => {
                let side = |n: usize| (n - 1) / 2 + 1;
                self.push(Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[input], [c, side(h), side(w)]);
            }
            17 if h.min(w) > 2 => {
                let (kernel, stride) = (self.rng.random_range(1..4), self.rng.random_range(1..3));
                let side = |n: usize| (n - kernel) / stride + 1;
                self.push(Op::AvgPool { kernel, stride }, &[input], [c, side(h), side(w)]);
            }
            13 => {
                self.push(Op::GlobalAvgPool, &[input], [c, 1, 1]);
            }
            _ => {}
        }
    }

    /// Two parts of the channels that are joined again, with a block in between: the shape of C3k2.
    fn split_and_join(&mut self, input: NodeId) {
        let [c, h, w] = self.shape(input);
        let cut = self.rng.random_range(0..=c.saturating_sub(1)).max(1).min(c);
        let a = self.push(Op::Slice { start: 0, len: cut }, &[input], [cut, h, w]);
        if cut == c {
            return;
        }
        let b = self.push(Op::Slice { start: cut, len: c - cut }, &[input], [c - cut, h, w]);
        let same = Conv {
            weight: format!("s{}.w", self.shapes.len()),
            bias: None,
            norm: None,
            c_in: c - cut,
            c_out: c - cut,
            kernel: 3,
            stride: 1,
            padding: 1,
            groups: 1,
            act: Activation::Silu,
        };
        let inner = self.push(Op::Conv(same), &[b], [c - cut, h, w]);
        let sum = self.push(Op::Add, &[b, inner], [c - cut, h, w]);
        let all = if self.rng.random_bool(0.7) { vec![a, b, sum] } else { vec![sum, b, a, sum] };
        let total = all.iter().map(|id| self.shape(*id)[0]).sum();
        self.push(Op::Concat, &all, [total, h, w]);
    }

    /// Some tensors of a size, joined.
    fn join(&mut self, [_, h, w]: [usize; 3]) {
        let fits: Vec<NodeId> =
            (0..self.shapes.len() as u32).map(NodeId).filter(|id| self.shape(*id)[1..] == [h, w]).collect();
        let count = self.rng.random_range(1..4);
        let members: Vec<NodeId> = (0..count).map(|_| fits[self.rng.random_range(0..fits.len())]).collect();
        let total = members.iter().map(|id| self.shape(*id)[0]).sum();
        if total < 120 {
            self.push(Op::Concat, &members, [total, h, w]);
        }
    }

    /// Attention, with its values added.
    fn attend(&mut self, input: NodeId) {
        let a = Attention {
            heads: self.rng.random_range(1..3),
            key_dim: self.rng.random_range(1..9),
            head_dim: self.rng.random_range(1..19),
            scale: 0.5,
            areas: 1,
        };
        let packed = self.conv(input, a.heads * a.packed(), 1, 1, false);
        let [_, h, w] = self.shape(packed);
        let divisors: Vec<usize> = (1..=4).filter(|n| (h * w).is_multiple_of(*n)).collect();
        let a = Attention { areas: divisors[self.rng.random_range(0..divisors.len())], ..a };
        let mixed = self.push(Op::Attention(a), &[packed], [a.heads * a.head_dim, h, w]);
        let values = self.push(Op::AttentionValues(a), &[packed], [a.heads * a.head_dim, h, w]);
        self.push(Op::Add, &[mixed, values], [a.heads * a.head_dim, h, w]);
    }

    /// A transposed convolution.
    fn transpose(&mut self, input: NodeId, width: usize) {
        let [c, h, w] = self.shape(input);
        let (factor, name) = (self.rng.random_range(1..4), format!("t{}", self.shapes.len()));
        let conv = ConvTranspose {
            weight: format!("{name}.w"),
            bias: self.rng.random_bool(0.5).then(|| format!("{name}.b")),
            c_in: c,
            c_out: width,
            factor,
        };
        self.push(Op::ConvTranspose(conv), &[input], [width, factor * h, factor * w]);
    }
}

/// A random network of up to 20 or so nodes, and the side lengths of its image.
pub fn network(seed: u64) -> (Model, usize, usize) {
    let mut random = Random { rng: StdRng::seed_from_u64(seed), graph: Builder::default(), shapes: Vec::new() };
    let (c, h, w) = (random.rng.random_range(1..5), random.rng.random_range(1..14), random.rng.random_range(1..14));
    random.push(Op::Input { channels: c }, &[], [c, h, w]);
    for _ in 0..random.rng.random_range(1..14) {
        random.step();
    }
    let last = NodeId(random.shapes.len() as u32 - 1);
    let nc = random.shape(last)[0];
    let graph = random.graph.finish(vec![last], Head::Classify { nc }).unwrap();
    let mut rng = random.rng;
    let mut weights = Weights::default();
    for param in graph.params() {
        let fan_in = param.shape[1..].iter().product::<usize>().max(1) as f32;
        let positive = param.key.ends_with("running_var");
        let range = if positive { 0.5..2.0 } else { -1.0..1.0f32 };
        let scale = if param.shape.len() > 1 { (2.0 / fan_in).sqrt() } else { 1.0 };
        let data = (0..param.shape.iter().product()).map(|_| rng.random_range(range.clone()) * scale).collect();
        weights.insert(param.key.clone(), Tensor::new(param.shape, data));
    }
    (Model::new(graph, weights, Info::default()).unwrap(), h, w)
}

/// Random values in the range of images.
pub fn image(model: &Model, h: usize, w: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..model.graph.input_channels() * h * w).map(|_| rng.random_range(0.0..1.0)).collect()
}

/// A run that starts from the middle of a network: the nodes whose tensors are given, in any order, and those to keep.
pub fn middle(model: &Model, rng: &mut StdRng) -> (Vec<NodeId>, Vec<NodeId>) {
    let graph = &model.graph;
    let first = NodeId(rng.random_range(0..graph.nodes.len() as u32));
    // What nodes from some place on read of those before it, and one that nobody reads.
    let mut given: Vec<NodeId> =
        graph.ids().filter(|id| *id >= first).flat_map(|id| graph.node(id).inputs.clone()).collect();
    given.retain(|id| *id < first);
    given.push(first);
    given.sort_unstable_by_key(|id| (id.0 * 7 % 5, id.0));
    given.dedup();
    let keep = graph.ids().filter(|id| *id >= first && rng.random_bool(0.2)).collect();
    (given, keep)
}
