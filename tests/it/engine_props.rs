//! The compiled engine against the plain reference on random graphs of all operators, and its promises.

use crate::forward::yolo;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use secateurs::engine::{Engine, EngineError, Options, plan_memory, plan_memory_for, reference};
use secateurs::graph::{Activation, Attention, Builder, Conv, ConvTranspose, Graph, Head, NodeId, Norm, Op};
use secateurs::kernels::Isa;
use secateurs::model::{Info, Model, Tensor, Weights};

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
        match self.rng.random_range(0..17) {
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
            7 | 8 => {
                // Halves that meet again, with a block in between: the shape of C3k2.
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
            9 | 10 => {
                let fits: Vec<NodeId> =
                    (0..self.shapes.len() as u32).map(NodeId).filter(|id| self.shape(*id)[1..] == [h, w]).collect();
                let count = self.rng.random_range(1..4);
                let members: Vec<NodeId> = (0..count).map(|_| fits[self.rng.random_range(0..fits.len())]).collect();
                let total = members.iter().map(|id| self.shape(*id)[0]).sum();
                if total < 120 {
                    self.push(Op::Concat, &members, [total, h, w]);
                }
            }
            11 => {
                let fits: Vec<NodeId> =
                    (0..self.shapes.len() as u32).map(NodeId).filter(|id| self.shape(*id) == [c, h, w]).collect();
                let other = fits[self.rng.random_range(0..fits.len())];
                self.push(Op::Add, &[input, other], [c, h, w]);
            }
            12 if h * w <= 100 => {
                let a = Attention {
                    heads: self.rng.random_range(1..3),
                    key_dim: self.rng.random_range(1..9),
                    head_dim: self.rng.random_range(1..19),
                    scale: 0.5,
                };
                let packed = self.conv(input, a.heads * a.packed(), 1, 1, false);
                let [_, h, w] = self.shape(packed);
                let mixed = self.push(Op::Attention(a), &[packed], [a.heads * a.head_dim, h, w]);
                let values = self.push(Op::Values(a), &[packed], [a.heads * a.head_dim, h, w]);
                self.push(Op::Add, &[mixed, values], [a.heads * a.head_dim, h, w]);
            }
            14 if h * w <= 64 => {
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
            15 => {
                let act = [Activation::Identity, Activation::Silu, Activation::Relu][self.rng.random_range(0..3)];
                self.push(Op::Activate { act }, &[input], [c, h, w]);
            }
            16 => {
                let side = |n: usize| (n - 1) / 2 + 1;
                self.push(Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[input], [c, side(h), side(w)]);
            }
            13 => {
                self.push(Op::GlobalAvgPool, &[input], [c, 1, 1]);
            }
            _ => {}
        }
    }
}

/// A random network of up to 20 or so nodes, and the side lengths of its image.
fn network(seed: u64) -> (Model, usize, usize) {
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

fn image(model: &Model, h: usize, w: usize, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..model.graph.input_channels() * h * w).map(|_| rng.random_range(0.0..1.0)).collect()
}

fn assert_close(case: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{case}");
    let size = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= 2e-4 * size, "{case}: value {i} is {a}, expected {b} (up to {size})");
    }
}

#[test]
fn random_networks_give_what_the_reference_gives() {
    for seed in 0..700 {
        let (model, h, w) = network(seed);
        let input = image(&model, h, w, seed);
        let wanted = reference::run(&model, &input, h, w).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let keep: Vec<NodeId> = match seed % 3 {
            0 => vec![],
            1 => model.graph.ids().collect(),
            _ => model.graph.ids().filter(|_| rng.random_bool(0.3)).collect(),
        };
        let options = Options { threads: 1 + seed as usize % 3, keep, ..Options::default() };
        let isas: Vec<Isa> = Isa::all().collect();
        let isa = isas[seed as usize % isas.len()];
        let mut engine = Engine::with_isa(&model, h, w, &options, isa).unwrap();
        assert_eq!(engine.memory(), plan_memory_for(&model.graph, h, w, &options, isa).unwrap(), "seed {seed}");
        // Twice: nothing of the first run may show in the second.
        engine.run(&image(&model, h, w, seed + 1)).unwrap();
        engine.run(&input).unwrap();
        let last = model.graph.outputs[0];
        assert_close(&format!("seed {seed} output"), engine.output(0), &wanted[last.index()]);
        for id in &options.keep {
            let case = format!("seed {seed} {:?}", model.graph.node(*id));
            assert_close(&case, engine.kept(*id), &wanted[id.index()]);
        }
    }
}

#[test]
fn results_do_not_depend_on_threads_nor_on_the_way_in() {
    for seed in 1000..1060 {
        let (model, h, w) = network(seed);
        let input = image(&model, h, w, seed);
        let run = |threads: usize| {
            let mut engine = Engine::new(&model, h, w, &Options { threads, ..Options::default() }).unwrap();
            engine.run(&input).unwrap();
            let first = engine.output(0).to_vec();
            engine.input_mut().copy_from_slice(&input);
            engine.run_in_place().unwrap();
            assert_eq!(engine.output(0), first, "seed {seed}");
            let steps = engine.profile(&input).unwrap();
            assert!(steps.iter().any(|s| s.node == model.graph.outputs[0]), "seed {seed}");
            assert_eq!(engine.output(0), first, "seed {seed}");
            first
        };
        let one = run(1);
        assert_eq!(one, run(2), "seed {seed}");
        assert_eq!(one, run(5), "seed {seed}");
    }
}

#[test]
fn an_engine_is_send() {
    fn check<T: Send>() {}
    check::<Engine>();
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (model, h, w) = network(7);
    let mut engine = Engine::new(&model, h, w, &Options::default()).unwrap();
    let expected = model.graph.input_channels() * h * w;
    match engine.run(&vec![0.0; expected + 1]) {
        Err(EngineError::Input { found, expected: e }) => assert_eq!((found, e), (expected + 1, expected)),
        other => panic!("{other:?}"),
    }
    let keep = vec![NodeId(model.graph.nodes.len() as u32)];
    let options = Options { keep, ..Options::default() };
    assert!(matches!(Engine::new(&model, h, w, &options), Err(EngineError::NoSuchNode { .. })));
    assert!(matches!(plan_memory(&model.graph, h, w, &options), Err(EngineError::NoSuchNode { .. })));
    let window = Graph {
        nodes: vec![
            secateurs::graph::Node { name: "in".into(), op: Op::Input { channels: 3 }, inputs: vec![] },
            secateurs::graph::Node {
                name: "pool".into(),
                op: Op::MaxPool { kernel: 5, stride: 1, padding: 0 },
                inputs: vec![NodeId(0)],
            },
        ],
        outputs: vec![NodeId(1)],
        head: Head::Classify { nc: 3 },
    };
    let model = Model::new(window, Weights::default(), Info::default()).unwrap();
    assert!(matches!(Engine::new(&model, 4, 4, &Options::default()), Err(EngineError::Graph(_))));
}

#[test]
fn joins_and_splits_of_yolo11n_move_almost_nothing() {
    let Some(model) = yolo("models/yolo11n-coco.safetensors") else { return };
    let input = vec![0.5; 3 * 64 * 64];
    let mut engine = Engine::new(&model, 64, 64, &Options::default()).unwrap();
    let steps = engine.profile(&input).unwrap();
    let count = |wanted: fn(&Op) -> bool| steps.iter().filter(|s| wanted(&model.graph.node(s.node).op)).count();
    // Only the first half of C2PSA is copied: its tensor also holds the second half, which the join replaces.
    assert_eq!(count(|op| matches!(op, Op::Concat)), 1);
    assert_eq!(count(|op| matches!(op, Op::Slice { .. })), 0);
    assert_eq!(count(|op| matches!(op, Op::Add)), 0);
    // The arena is far smaller than all tensors together, and not smaller than the two first ones.
    let shapes = model.graph.shapes(64, 64).unwrap();
    let all: usize = shapes.iter().map(|s| 4 * s.len()).sum();
    assert!(engine.memory().arena < all / 3, "{} of {all}", engine.memory().arena);
    assert!(engine.memory().arena >= 4 * (shapes[1].len() + shapes[2].len()));
}
