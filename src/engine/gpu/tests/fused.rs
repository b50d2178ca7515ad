//! What is done in one launch: the results of single ones, and how many launches a network takes.

use super::super::float::Floats;
use super::super::{Plan, Target};
use super::*;
use crate::engine::compile::emit;

fn conv(key: &str, c_in: usize, c_out: usize, kernel: usize, depthwise: bool) -> Op {
    Op::Conv(Conv {
        weight: format!("{key}.w"),
        bias: Some(format!("{key}.b")),
        norm: None,
        c_in,
        c_out,
        kernel,
        stride: 1,
        padding: kernel / 2,
        groups: if depthwise { c_in } else { 1 },
        act: Activation::Silu,
    })
}

/// Spatial pyramid pooling, then a 1x1 convolution of a concat of which one member is upsampled, then attention with its
/// positional encoding.
fn model(rng: &mut StdRng) -> Model {
    let mut graph = Builder::default();
    let (a, b, c, factor) = (rng.random_range(1..20), rng.random_range(1..20), 24, [2, 2, 4][rng.random_range(0..3)]);
    let input = graph.push("input", Op::Input { channels: 3 }, &[]);
    let large = graph.push("large", conv("large", 3, b, 3, false), &[input]);
    let Op::Conv(down) = conv("down", b, a, factor, false) else { unreachable!() };
    let small = graph.push("down", Op::Conv(Conv { stride: factor, padding: 0, ..down }), &[large]);
    let mut pools = vec![small];
    for turn in 0..3 {
        let pool = Op::MaxPool { kernel: 5, stride: 1, padding: 2 };
        pools.push(graph.push(format!("pool{turn}"), pool, &[pools[turn]]));
    }
    let joined = graph.push("joined", Op::Concat, &pools);
    let pooled = graph.push("pooled", conv("pooled", 4 * a, c, 1, false), &[joined]);
    let up = graph.push("up", Op::Upsample { factor }, &[pooled]);
    let order = if rng.random_bool(0.5) { [up, large] } else { [large, up] };
    let both = graph.push("both", Op::Concat, &order);
    let op = Attention {
        heads: 2,
        key_dim: rng.random_range(1..9),
        head_dim: rng.random_range(1..13),
        scale: 0.3,
        areas: 1,
    };
    let wide = op.heads * op.head_dim;
    let packed = graph.push("packed", conv("packed", b + c, op.heads * op.packed(), 1, false), &[both]);
    let mixed = graph.push("mixed", Op::Attention(op), &[packed]);
    let values = graph.push("values", Op::AttentionValues(op), &[packed]);
    let kernel = [3, 5][rng.random_range(0..2)];
    let encoding = graph.push("encoding", conv("encoding", wide, wide, kernel, true), &[values]);
    let sum = graph.push("sum", Op::Add, &[mixed, encoding]);
    let last = graph.push("last", conv("last", wide, 5, 1, false), &[sum]);
    let graph = graph.finish(vec![last], Head::Classify { nc: 5 }).unwrap();
    let mut weights = Weights::default();
    for param in graph.params() {
        let spread = (1.0 / param.shape[1..].iter().product::<usize>().max(1) as f32).sqrt();
        let value = |_| rng.random_range(-1.0..1.0f32) * spread;
        let values = (0..param.shape.iter().product()).map(value).collect();
        weights.insert(param.key.clone(), Tensor::new(param.shape.clone(), values));
    }
    Model::new(graph, weights, Info::default()).unwrap()
}

/// Launches of a graph, after how many steps there are for them.
fn count(graph: &Graph, side: usize, keep: &[NodeId]) -> (usize, usize) {
    let target = Target { multiprocessors: 8, range: &|_| [0.0, 1.0] };
    let options = Options { keep: keep.to_vec(), device: engine::Device::Cuda(0), ..Options::default() };
    let steps = emit(graph, (side, side), &options, &Floats).unwrap().steps.len();
    (steps, Plan::new(graph, (side, side), &options, &target).unwrap().launches.len())
}

#[test]
fn launches_that_do_several_steps_give_what_the_reference_gives() {
    for seed in 0..40 {
        let Some(device) = emulated::device() else { return };
        let mut rng = StdRng::seed_from_u64(seed);
        let (dtype, tolerance) = [(Dtype::F32, 2e-5), (Dtype::F16, 1e-2)][seed as usize % 2];
        let model = in_dtype(&model(&mut rng), dtype);
        let [h, w] = [0, 1].map(|_| 4 * rng.random_range(1..8));
        let input = image(&model, h, w, seed);
        let mut cuda = Network::new(device, &model, (h, w), &Options::default()).unwrap();
        cuda.input_mut().copy_from_slice(&input);
        let wanted = reference::run(&model, &input, h, w).unwrap();
        for _ in 0..3 {
            cuda.run(1).unwrap();
            let slot = cuda.slots()[0];
            let case = format!("seed {seed} in {dtype:?}, {h} x {w}");
            assert_close(&case, of(cuda.device.results(), &slot), wanted.last().unwrap(), tolerance);
        }
    }
}

#[test]
fn fewer_launches_than_steps() {
    let model = model(&mut StdRng::seed_from_u64(1));
    let (steps, launches) = count(&model.graph, 32, &[]);
    // Two pools, the upsampling and the copy of the values.
    assert_eq!(steps - launches, 4, "{steps} steps");
    // Whoever reads a tensor gets it; what lies in several runs of channels takes a launch for each.
    let all: Vec<NodeId> = model.graph.ids().collect();
    let (steps, launches) = count(&model.graph, 32, &all);
    assert!(launches >= steps, "{steps} steps, {launches} launches");
}
