//! Steps on the emulated driver against the candle backend on the CPU: every operator and small random graphs, their
//! gradients, running statistics and the parameters after a step.
//!
//! `SECATEURS_RANDOM_STEPS` is the number of random graphs (1,000 by hand), or `FIRST..END` of their seeds.

pub(crate) mod graphs;
mod ranks;
mod rounding;
mod walk;

use super::{Control, Memory, Output, Phase, Setup, StepRule, TrainingEngine, TrainingError, plan};
use crate::backend::{Mode, Net};
use crate::graph::{Activation, Conv, NodeId, Op};
use crate::kernels::InputSteps;
use crate::kernels::cuda::emulated;
use crate::model::{Model, Weights};
use crate::zoo::yolo11::{Scale, detect};
use candle_core::{Device, Tensor};
use graphs::{Numbers, random_model};
use half::f16;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

static NONE: BTreeSet<String> = BTreeSet::new();

const SGD: StepRule = StepRule::Sgd { momentum: 0.9, nesterov: true };

fn control(rate: f32, loss_scale: f32) -> Control {
    Control {
        rate,
        first_correction: 1.0,
        second_correction: 1.0,
        ema_share: 0.5,
        unscale: 1.0 / loss_scale,
        clip: 1e9,
        loss_scale,
    }
}

fn setup(size: (usize, usize), batches: &[usize], mixed: bool) -> Setup<'_> {
    Setup {
        size,
        batches,
        mixed,
        rule: SGD,
        weight_decay: 0.1,
        sparsity: 0.0,
        keep_zeros: false,
        frozen: &NONE,
        teacher: None,
        rounded: &NONE,
        loss: None,
        gpus: None,
        sync_batch_norm: false,
    }
}

/// Gradients of the outputs, made up.
fn output_gradients(outputs: &[Output]) -> Vec<Vec<f32>> {
    let gradient = |(i, output): (usize, &Output)| Numbers::new(i as u64 + 77).values(output.values.len());
    outputs.iter().enumerate().map(gradient).collect()
}

/// By layer that rounds the range of its input.
type Ranges = BTreeMap<String, [f32; 2]>;

/// What a step of the backend on the CPU gives: outputs, gradients by parameter, weights with running statistics. For the
/// gradients the nodes of `given` have these values, and pass on what they get.
fn by_candle(
    model: &Model,
    (images, shape): (&[f32], [usize; 4]),
    given: &BTreeMap<NodeId, &[f32]>,
    (phase, ranges): (Phase, &Ranges),
) -> (Vec<Output>, Weights, Weights) {
    let [mut net, mut plain] = [0, 1].map(|_| Net::new(model, &Device::Cpu).unwrap());
    net.set_int8(ranges);
    plain.set_int8(ranges);
    let mode = if phase == Phase::Settled { Mode::Eval } else { Mode::Train };
    let images = Tensor::from_slice(images, &shape[..], &Device::Cpu).unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let output = |t: &Tensor| {
        let (n, c, h, w) = t.dims4().unwrap();
        Output { shape: [n, c, h, w], values: flat(t) }
    };
    let outputs: Vec<Output> = plain.forward(&images, mode).unwrap().iter().map(output).collect();
    let mut replace = |id: NodeId, tensor: Tensor| match given.get(&id) {
        Some(values) => (&tensor - tensor.detach())? + Tensor::from_slice(values, tensor.shape(), &Device::Cpu)?,
        None => Ok(tensor),
    };
    let tensors = net.forward_with(&images, mode, &mut replace).unwrap();
    let products = tensors.iter().zip(output_gradients(&outputs)).map(|(tensor, gradient)| {
        let gradient = Tensor::from_vec(gradient, tensor.shape(), &Device::Cpu).unwrap();
        (tensor * gradient).unwrap().sum_all().unwrap()
    });
    let sum = products.reduce(|a, b| (a + b).unwrap()).unwrap();
    let grads = sum.backward().unwrap();
    let params = net.params().iter().filter_map(|(key, var)| Some((key.clone(), grads.get(var.as_tensor())?)));
    let gradients = params.map(|(key, g)| (key, crate::model::Tensor::new(g.dims(), flat(g)))).collect();
    (outputs, gradients, net.to_model().unwrap().weights)
}

/// The distance of two vectors by the length of the second, which counts as at least `least`.
fn distance(found: &[f32], wanted: &[f32], least: f64) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let error: f64 = found.iter().zip(wanted).map(|(f, w)| f64::from(f - w).powi(2)).sum();
    let size: f64 = wanted.iter().map(|w| f64::from(*w).powi(2)).sum();
    error.sqrt() / size.sqrt().max(least)
}

/// Nodes of whose rounding the gradients behind them make more than their share: of values that differ by less than it a
/// pool may pick another one, which gets the whole gradient; a normalisation divides by the deviation, which may be small.
fn delicate(model: &Model) -> BTreeSet<NodeId> {
    let reads = |op: &Op| matches!(op, Op::MaxPool { .. } | Op::Conv(Conv { norm: Some(_), .. }));
    let readers = model.graph.nodes.iter().filter(|node| reads(&node.op));
    readers.map(|node| node.inputs[0]).collect()
}

/// Whether a normalisation takes away what a parameter does, so that its gradient is zero but for rounding: the bias before
/// it, and the kernel of a depthwise convolution of one tap, which only scales.
fn is_taken_away(model: &Model, key: &str) -> bool {
    let mut normalised = model.graph.convs().map(|(_, conv)| conv).filter(|conv| conv.norm.is_some());
    normalised
        .any(|conv| conv.bias.as_deref() == Some(key) || conv.weight == key && conv.kernel == 1 && conv.groups > 1)
}

/// To the nearest value of f16, where precision is mixed.
fn held(mixed: bool, value: f32) -> f32 {
    if mixed { f16::from_f32(value).to_f32() } else { value }
}

/// Fails where a step on the emulated device is not that of the CPU. In mixed precision both begin with the same numbers,
/// and gradients are compared where the device is: what its delicate nodes have among the outputs, the CPU's have too.
fn check(what: &str, model: &Model, shape: [usize; 4], mixed: bool) {
    check_phase(what, model, shape, mixed, (Phase::Plain, &Ranges::new()));
}

/// The same of a phase in which layers round by these ranges. Where the last bits of a value decide how it is rounded, the
/// next layer reads another number.
fn check_phase(what: &str, model: &Model, shape: [usize; 4], mixed: bool, (phase, ranges): (Phase, &Ranges)) {
    let Some(device) = emulated::device() else { return };
    let [n, _, h, w] = shape;
    let mut images = Numbers::new(5).values(shape.iter().product());
    images.iter_mut().for_each(|value| *value = held(mixed, *value));
    let batches = [n];
    let rounded = ranges.keys().cloned().collect();
    let setup = Setup { rounded: &rounded, ..setup((h, w), &batches, mixed) };
    let mut engine = TrainingEngine::new(device, model, &setup).unwrap();
    engine.set_steps(&ranges.iter().map(|(layer, range)| (layer.clone(), InputSteps::of(*range))).collect()).unwrap();
    let (found, taught) = engine.forward(&images, phase).unwrap();
    assert!(taught.is_empty());
    let told = model.graph.outputs.iter().zip(&found).filter(|(id, _)| mixed && delicate(model).contains(id));
    let told = told.map(|(id, output)| (*id, &output.values[..])).collect();
    let (outputs, gradients, moved) = by_candle(model, (&images, shape), &told, (phase, ranges));
    let tolerance = match (mixed, phase) {
        (true, _) => 1e-2,
        (false, Phase::Plain) => 1e-4,
        (false, _) => 3e-3,
    };
    for (i, (found, wanted)) in found.iter().zip(&outputs).enumerate() {
        assert_eq!(found.shape, wanted.shape, "{what}, output {i}");
        let off = distance(&found.values, &wanted.values, 0.1);
        assert!(off < tolerance, "{what}, output {i}: off by {off}");
    }
    let scale = if mixed { 4.0 } else { 1.0 };
    engine.backward(&output_gradients(&outputs), scale).unwrap();
    let norm = engine.update(&control(0.01, scale)).unwrap();
    let own = engine.gradients().unwrap();
    let lengths = gradients.values().flat_map(|g| g.data().iter().map(|v| f64::from(*v).powi(2)));
    let length = lengths.sum::<f64>().sqrt();
    assert!((norm - length).abs() <= tolerance * length.max(0.1), "{what}: norm {norm}, expected {length}");
    for (key, wanted) in &gradients {
        let found: Vec<f32> = own[key].data().iter().map(|v| v / scale).collect();
        let off = distance(&found, wanted.data(), 1e-2 * length.max(0.1));
        let size = wanted.data().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let vanishes = size < 1e-4 * length || is_taken_away(model, key);
        let tolerance = if vanishes { 100.0 * tolerance } else { tolerance };
        assert!(off < tolerance, "{what}, gradient of {key} ({size} of {length}): off by {off}");
    }
    let (weights, averages) = (engine.weights().unwrap(), engine.averages().unwrap());
    for (key, start) in &model.weights {
        let wanted: Vec<f32> = match gradients.get(key) {
            // Running statistics, and what gets no gradient.
            None => moved[key].data().to_vec(),
            Some(gradient) => {
                let decay = if start.shape().len() > 1 { 0.1 } else { 0.0 };
                let step = |(w, g): (&f32, &f32)| w - 0.01 * 1.9 * (g + decay * w);
                start.data().iter().zip(gradient.data()).map(step).collect()
            }
        };
        let off = distance(weights[key].data(), &wanted, 0.1);
        assert!(off < tolerance, "{what}, {key} after the step: off by {off}");
        let mean: Vec<f32> = start.data().iter().zip(weights[key].data()).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(distance(averages[key].data(), &mean, 0.1) < 1e-5, "{what}, average of {key}");
    }
}

/// The seeds of the random graphs to try.
fn seeds(usual: u64) -> Range<u64> {
    let Ok(text) = std::env::var("SECATEURS_RANDOM_STEPS") else { return 0..usual };
    let (first, end) = text.split_once("..").unwrap_or(("0", &text));
    first.parse().unwrap()..end.parse().unwrap()
}

#[test]
fn every_operator_gives_the_gradients_of_the_cpu() {
    for seed in seeds(2 * graphs::KINDS) {
        let (model, shape, what) = random_model(seed, 1);
        check(&format!("f32, seed {seed}: {what}"), &model, shape, false);
    }
}

#[test]
fn every_operator_gives_the_gradients_of_the_cpu_in_mixed_precision() {
    for seed in seeds(8 * graphs::KINDS) {
        let (mut model, shape, what) = random_model(seed, 1);
        // Where a rounded value falls on the other side of a kink, the gradient is another one.
        model.graph.nodes.iter_mut().for_each(|node| match &mut node.op {
            Op::Conv(Conv { act, .. }) | Op::Activate { act } if *act == Activation::Relu => *act = Activation::Silu,
            _ => {}
        });
        let values = model.weights.iter_mut().flat_map(|(_, tensor)| tensor.data_mut());
        values.for_each(|value| *value = held(true, *value));
        let read = delicate(&model).into_iter().filter(|id| !model.graph.outputs.contains(id)).collect::<Vec<_>>();
        model.graph.outputs.extend(read);
        check(&format!("mixed, seed {seed}: {what}"), &model, shape, true);
    }
}

#[test]
fn random_graphs_give_the_gradients_of_the_cpu() {
    for seed in seeds(24) {
        let (model, shape, what) = random_model(1_000_000 + seed, 6);
        check(&format!("f32, seed {seed}: {what}"), &model, shape, false);
    }
}

/// Three steps, with everything that they leave.
fn three_steps(model: &Model, shape: [usize; 4], mixed: bool) -> Option<(Weights, Weights, Memory)> {
    let [n, _, h, w] = shape;
    let batches = [n];
    let adam = StepRule::AdamW { betas: [0.9, 0.999], eps: 1e-8 };
    let setup = Setup { rule: adam, sparsity: 0.1, keep_zeros: true, ..setup((h, w), &batches, mixed) };
    let mut engine = TrainingEngine::new(emulated::device()?, model, &setup).unwrap();
    let images = Numbers::new(5).values(shape.iter().product());
    for _ in 0..3 {
        let (outputs, _) = engine.forward(&images, Phase::Plain).unwrap();
        engine.backward(&output_gradients(&outputs), 1.0).unwrap();
        let norm = engine.update(&control(0.01, 1.0)).unwrap();
        assert!(norm > 0.0);
    }
    assert_eq!(engine.memory(), plan(&model.graph, &setup).unwrap());
    Some((engine.weights().unwrap(), engine.slots(&["mean", "square"]).unwrap(), engine.memory()))
}

#[test]
fn two_runs_give_the_same_bits() {
    for seed in 0..2 {
        let (model, shape, _) = random_model(2_000_000 + seed, 6);
        let runs = [0, 1].map(|_| three_steps(&model, shape, seed == 1));
        assert_eq!(runs[0], runs[1]);
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let Some(device) = emulated::device() else { return };
    let (model, shape, _) = random_model(3, 2);
    let batches = [shape[0]];
    let mut engine = TrainingEngine::new(device, &model, &setup((shape[2], shape[3]), &batches, false)).unwrap();
    let images = Numbers::new(5).values(shape.iter().product());
    let (outputs, _) = engine.forward(&images, Phase::Plain).unwrap();
    let before = (engine.weights().unwrap(), engine.averages().unwrap());
    let mut gradients = output_gradients(&outputs);
    gradients[0][0] = f32::INFINITY;
    engine.backward(&gradients, 1.0).unwrap();
    assert!(engine.update(&control(0.1, 1.0)).unwrap().is_nan());
    assert_eq!((engine.weights().unwrap(), engine.averages().unwrap()), before);
}

#[test]
fn what_does_not_fit_is_told_before_the_first_step() {
    let Some(device) = emulated::device() else { return };
    let model = untrained(detect(Scale::of('n').unwrap(), 80).unwrap());
    let batches = [64];
    // The emulated device has 8 GiB.
    let wanted = setup((640, 640), &batches, false);
    let needed = plan(&model.graph, &wanted).unwrap().total();
    let Err(TrainingError::Memory { bytes, free, fits, .. }) = TrainingEngine::new(device, &model, &wanted) else {
        panic!("{needed} bytes fit")
    };
    assert_eq!(bytes, needed);
    let of = |batch| plan(&model.graph, &setup((640, 640), &[batch], false)).unwrap().total();
    let fits = fits.unwrap();
    assert!(of(fits) <= free && free < of(fits + 1), "{fits}");
    // Half the bytes a value take a little more than half the memory.
    let mixed = plan(&model.graph, &setup((640, 640), &batches, true)).unwrap();
    assert!(mixed.tensors < needed * 6 / 10, "{mixed:?} of {needed}");
}

/// PyTorch's peaks for the same steps (AMP, channels last, on an H200) are 952 and 3,014 MiB.
#[test]
fn a_step_of_yolo11n_in_mixed_precision_takes_less_memory_than_that_of_pytorch() {
    let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
    for (side, peak) in [(320, 952), (640, 3014)] {
        let needed = plan(&graph, &setup((side, side), &[16], true)).unwrap().total() >> 20;
        assert!(needed <= peak, "{side} px: {needed} MiB");
    }
}

fn untrained(graph: crate::graph::Graph) -> Model {
    let zeros = |param: crate::graph::Param| {
        let len = param.shape.iter().product();
        (param.key, crate::model::Tensor::new(param.shape, vec![0.0; len]))
    };
    let weights = graph.params().into_iter().map(zeros).collect();
    Model { graph, weights, info: crate::model::Info::default() }
}
