//! Every operator in f16 and in f32 by itself, on random shapes, against the reference: with inputs and weights that
//! f16 holds exactly, only the kernel's own rounding shows.

use super::*;
use half::f16;

/// The greatest share of the largest value that a kernel may be off.
const TOLERANCES: [(Dtype, f32); 2] = [(Dtype::F16, 2e-3), (Dtype::F32, 1e-5)];

fn conv(rng: &mut StdRng, c_in: usize, c_out: usize, kernel: usize, depthwise: bool) -> Op {
    Op::Conv(Conv {
        weight: "w".into(),
        bias: Some("b".into()),
        norm: None,
        c_in,
        c_out: if depthwise { c_in } else { c_out },
        kernel,
        stride: rng.random_range(1..3),
        padding: kernel / 2,
        groups: if depthwise { c_in } else { 1 },
        act: [Activation::Identity, Activation::Silu, Activation::Relu][rng.random_range(0..3)],
    })
}

/// An operator and the channels and sides of its input.
fn operator(rng: &mut StdRng, which: usize) -> (Op, usize, [usize; 2]) {
    let c = rng.random_range(1..40);
    let sides = [rng.random_range(7..20), rng.random_range(7..20)];
    let attention = |rng: &mut StdRng, keys: usize, values: usize| Attention {
        heads: rng.random_range(1..4),
        key_dim: rng.random_range(1..=keys),
        head_dim: rng.random_range(1..=values),
        scale: 0.3,
        areas: 1,
    };
    let op = match which {
        0 => conv(rng, c, 30, 3, true),
        1 => conv(rng, c, 30, 5, true),
        2 => conv(rng, c, 30, 7, false),
        3 => conv(rng, c, 30, 6, false),
        4 => Op::MaxPool { kernel: 5, stride: 1, padding: 2 },
        5 => Op::MaxPool { kernel: 3, stride: 2, padding: 1 },
        6 => Op::AvgPool { kernel: rng.random_range(1..4), stride: rng.random_range(1..3) },
        7 => Op::Upsample { factor: rng.random_range(1..4) },
        8 => Op::Activate { act: Activation::Silu },
        9 => Op::GlobalAvgPool,
        10 => {
            let factor = rng.random_range(1..4);
            Op::ConvTranspose(ConvTranspose { weight: "w".into(), bias: Some("b".into()), c_in: c, c_out: 13, factor })
        }
        11 | 12 => {
            let a = attention(rng, 32, 64);
            return (Op::Attention(a), a.heads * a.packed(), sides);
        }
        13 => {
            let a = attention(rng, 50, 90);
            return (Op::Attention(a), a.heads * a.packed(), sides);
        }
        14 => {
            let a = attention(rng, 20, 30);
            return (Op::AttentionValues(a), a.heads * a.packed(), sides);
        }
        15 => {
            let start = rng.random_range(0..c);
            let len = rng.random_range(1..=c - start);
            return (Op::Slice { start, len }, c, sides);
        }
        // The first layer.
        16 | 17 => {
            let Op::Conv(first) = conv(rng, 3, 21, 3, false) else { unreachable!() };
            let side = if which == 16 { 4 } else { 1 };
            return (Op::Conv(Conv { stride: 2, ..first }), 3, sides.map(|n| n * side));
        }
        _ => conv(rng, c, 50, [1, 2, 3, 4, 5][which % 5], false),
    };
    (op, c, sides)
}

/// A network of one operator, with weights that f16 holds.
fn single(rng: &mut StdRng, op: Op, channels: usize, alone: bool) -> Model {
    let nc = match &op {
        Op::Conv(conv) => conv.c_out,
        Op::ConvTranspose(conv) => conv.c_out,
        Op::Attention(a) | Op::AttentionValues(a) => a.heads * a.head_dim,
        Op::Slice { len, .. } => *len,
        _ => channels,
    };
    let mut graph = Builder::default();
    let input = graph.push("input", Op::Input { channels }, &[]);
    // A copy keeps the image from being read as it is.
    let first = if alone { input } else { graph.push("copy", Op::Activate { act: Activation::Identity }, &[input]) };
    let last = graph.push("op", op, &[first]);
    let again = graph.push("again", Op::Activate { act: Activation::Identity }, &[last]);
    let graph = graph.finish(vec![again], Head::Classify { nc }).unwrap();
    let mut weights = Weights::default();
    for param in graph.params() {
        let fan_in = param.shape[1..].iter().product::<usize>().max(1) as f32;
        let scale = if param.shape.len() > 1 { (2.0 / fan_in).sqrt() } else { 0.5 };
        let value = |_| f16::from_f32(rng.random_range(-1.0..1.0f32) * scale).to_f32();
        weights.insert(
            param.key.clone(),
            Tensor::new(param.shape.clone(), (0..param.shape.iter().product()).map(value).collect()),
        );
    }
    Model::new(graph, weights, Info::default()).unwrap()
}

#[test]
fn every_operator_in_floats_is_right() {
    for (case, (dtype, tolerance)) in (0..480).map(|i| (i / 2, TOLERANCES[i as usize % 2])) {
        let Some(device) = emulated::device() else { return };
        let mut rng = StdRng::seed_from_u64(case);
        let which = case as usize % 24;
        let (op, channels, [h, w]) = operator(&mut rng, which);
        let name = format!("case {case} in {dtype:?}: {op:?} of {channels} x {h} x {w}");
        let model = in_dtype(&single(&mut rng, op, channels, which == 16 || which == 17), dtype);
        let input: Vec<f32> =
            (0..channels * h * w).map(|_| f16::from_f32(rng.random_range(-1.0..1.0)).to_f32()).collect();
        let mut cuda = Network::new(device, &model, (h, w), &Options::default()).unwrap();
        cuda.input_mut().copy_from_slice(&input);
        cuda.run(1).unwrap();
        let wanted = reference::run(&model, &input, h, w).unwrap();
        let slot = cuda.slots()[0];
        assert_close(&name, of(cuda.device.results(), &slot), wanted.last().unwrap(), tolerance);
    }
}
