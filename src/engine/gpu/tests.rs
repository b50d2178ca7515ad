//! Whole networks on the emulated driver against the reference and the engine on the CPU.

mod bytes;
mod chosen;
mod fused;
mod given;
mod operators;

#[path = "../../../tests/it/networks.rs"]
mod networks;

use super::super::{Engine, Options, plan_memory, reference};
use super::{Network, Slot};
use crate::engine;
use crate::graph::{Activation, Attention, Builder, Conv, ConvTranspose, Dtype, Graph, Head, NodeId, Norm, Op};
use crate::kernels::cuda::emulated;
use crate::kernels::{Isa, computes_f16};
use crate::model::{Info, Model, Tensor, Weights};
use networks::{image, network};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Equal within a share of the greatest value, at least of 1.
fn assert_close(case: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "{case}");
    let size = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
    for (i, (a, b)) in found.iter().zip(wanted).enumerate() {
        assert!((a - b).abs() <= tolerance * size, "{case}: value {i} is {a}, expected {b} (up to {size})");
    }
}

fn of<'a>(results: &'a [f32], slot: &Slot) -> &'a [f32] {
    &results[slot.offset..slot.offset + slot.shape.len()]
}

/// The model in a dtype; of a network in int8 every third convolution has one of its own.
fn in_dtype(model: &Model, dtype: Dtype) -> Model {
    let ranges = model.graph.nodes.iter().map(|node| (node.name.clone(), [-3.0, 3.0])).collect();
    // A CPU that computes in f16 gives other numbers than f32.
    let second = if computes_f16(Isa::detect()) { Dtype::F32 } else { Dtype::F16 };
    let left_out = model.graph.convs().enumerate().filter(|(at, _)| dtype == Dtype::Int8 && at % 3 == 2);
    let exceptions = left_out
        .map(|(at, (id, _))| (model.graph.node(id).name.clone(), if at % 2 == 0 { Dtype::F32 } else { second }));
    let graph = Graph { dtype, exceptions: exceptions.collect(), ..model.graph.clone() };
    Model::new(graph, model.weights.clone(), Info { ranges, ..model.info.clone() }).unwrap()
}

/// What a random network gave.
struct Run {
    model: Model,
    input: Vec<f32>,
    size: (usize, usize),
    kept: Vec<(NodeId, Vec<f32>)>,
}

/// Runs a random network in a dtype, in several orders and step by step. None without the emulated driver.
fn run_random(seed: u64, dtype: Dtype) -> Option<Run> {
    let device = emulated::device()?;
    let (model, h, w) = network(seed);
    let model = in_dtype(&model, dtype);
    let input = image(&model, h, w, seed);
    let mut rng = StdRng::seed_from_u64(seed);
    let keep: Vec<NodeId> = match seed % 3 {
        0 => vec![],
        1 => model.graph.ids().collect(),
        _ => model.graph.ids().filter(|_| rng.random_bool(0.3)).collect(),
    };
    let batch = 1 + seed as usize % 2;
    let options = Options { keep, device: engine::Device::Cuda(0), batch, ..Options::default() };
    let mut cuda = Network::new(device, &model, (h, w), &options).unwrap();
    assert_eq!(cuda.memory(), plan_memory(&model.graph, h, w, &options).unwrap(), "seed {seed}");
    // Nothing of the first run may show in the second; the order of a graph's nodes changes from run to run.
    let (one, (len, all)) = (image(&model, h, w, seed + 1), cuda.one_image());
    cuda.input_mut()[..len].copy_from_slice(&one);
    cuda.run(1).unwrap();
    let of_one = cuda.device.results()[..all].to_vec();
    cuda.input_mut()[..len].copy_from_slice(&input);
    if batch > 1 {
        cuda.input_mut()[len..].copy_from_slice(&one);
    }
    let mut once: Option<Vec<f32>> = None;
    let slots = cuda.slots().to_vec();
    for turn in 0..4 {
        match turn {
            3 => {
                let times = cuda.profile(0).unwrap();
                assert!(times.len() >= 2 && times[0].kernel == "upload" && times[times.len() - 1].kernel == "download");
            }
            _ => cuda.run(batch).unwrap(),
        }
        let found = cuda.device.results()[..all].to_vec();
        let second = &cuda.device.results()[(batch - 1) * all..];
        assert!(
            batch == 1 || slots.iter().all(|slot| of(second, slot) == of(&of_one, slot)),
            "seed {seed}, run {turn}"
        );
        let first = once.get_or_insert_with(|| found.clone());
        assert!(slots.iter().all(|slot| of(first, slot) == of(&found, slot)), "seed {seed}, run {turn}");
    }
    let results = once.unwrap();
    let kept = slots.iter().map(|slot| (slot.node, of(&results, slot).to_vec())).collect();
    Some(Run { model, input, size: (h, w), kept })
}

#[test]
fn random_networks_give_what_the_reference_gives() {
    for seed in 0..150 {
        let Some(Run { model, input, size: (h, w), kept }) = run_random(seed, Dtype::F32) else { return };
        let wanted = reference::run(&model, &input, h, w).unwrap();
        for (node, found) in kept {
            assert_close(&format!("seed {seed}, {h} x {w}, layer {}", node.0), &found, &wanted[node.index()], 2e-4);
        }
    }
}

#[test]
fn random_networks_in_f16_give_what_the_reference_gives() {
    for seed in 0..300 {
        let Some(Run { model, input, size: (h, w), kept }) = run_random(seed, Dtype::F16) else { return };
        let wanted = reference::run(&model, &input, h, w).unwrap();
        for (node, found) in kept {
            assert_close(&format!("seed {seed}, {h} x {w}, layer {}", node.0), &found, &wanted[node.index()], 2e-2);
        }
    }
}

#[test]
fn an_image_as_bytes_gives_the_bits_of_its_values() {
    for (seed, dtype) in (0..30).zip([Dtype::F32, Dtype::F16, Dtype::Int8].into_iter().cycle()) {
        let Some(device) = emulated::device() else { return };
        let (model, h, w) = network(seed);
        let model = in_dtype(&model, dtype);
        let options = Options { device: engine::Device::Cuda(0), batch: 2, ..Options::default() };
        let mut cuda = Network::new(device, &model, (h, w), &options).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let (len, all) = cuda.one_image();
        let mut photo = || (0..len).map(|_| rng.random_range(0..=255)).collect::<Vec<u8>>();
        let photos = [photo(), photo()];
        let values =
            photos.each_ref().map(|bytes| bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect::<Vec<_>>());
        cuda.input_mut().copy_from_slice(&values.concat());
        cuda.run(2).unwrap();
        let slots = cuda.slots().to_vec();
        let read = |cuda: &Network, image: usize| {
            let results = &cuda.device.results()[image * all..];
            slots.iter().flat_map(|slot| of(results, slot).to_vec()).collect::<Vec<f32>>()
        };
        let wanted = [read(&cuda, 0), read(&cuda, 1)];
        // Each image by itself, and in the other's place.
        for [first, second] in [[0, 1], [1, 0]] {
            cuda.bytes_mut(0).copy_from_slice(&photos[first]);
            cuda.image_mut(1).copy_from_slice(&values[second]);
            cuda.run(2).unwrap();
            assert!(read(&cuda, 0) == wanted[first] && read(&cuda, 1) == wanted[second], "seed {seed}, {dtype:?}");
        }
        let bytes = cuda.profile(0).unwrap();
        let floats = cuda.profile(1).unwrap();
        // The first layer in f16 reads bytes as they are.
        let stems = bytes.iter().filter(|step| step.kernel == "bytes-conv").count();
        assert!(stems == 0 || dtype == Dtype::F16, "seed {seed}, {dtype:?}");
        let converts = usize::from(stems == 0);
        assert_eq!((bytes[0].kernel, bytes.len()), ("upload", floats.len() + converts));
        assert_eq!(bytes.iter().filter(|step| step.kernel == "bytes").count(), converts);
        assert_eq!((bytes[0].bytes, floats[0].bytes), (len.next_multiple_of(4) as u64, 4 * len as u64));
        assert!(read(&cuda, 0) == wanted[1] && read(&cuda, 1) == wanted[0], "seed {seed}, step by step");
    }
}

#[test]
fn random_networks_in_int8_give_the_bits_of_the_cpu() {
    for seed in 0..150 {
        let Some(Run { model, input, size: (h, w), kept }) = run_random(seed, Dtype::Int8) else { return };
        let keep = kept.iter().map(|(node, _)| *node).collect();
        let mut cpu = Engine::new(&model, h, w, &Options { keep, ..Options::default() }).unwrap();
        cpu.run(&input).unwrap();
        for (node, found) in kept {
            let case = format!("seed {seed}, {h} x {w}, layer {}", node.0);
            match Isa::detect().fuses() {
                true => assert!(found == cpu.kept(node), "{case}: {found:?}, expected {:?}", cpu.kept(node)),
                // A number that lies between two integers may go either way after a layer in f32.
                false => assert_close(&case, &found, cpu.kept(node), 2e-2),
            }
        }
    }
}
