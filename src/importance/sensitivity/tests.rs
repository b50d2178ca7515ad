//! Output sensitivity on the emulated device against that of the CPU.

use super::*;
use crate::graph::NodeId;
use crate::kernels::cuda::emulated;
use crate::ranks::{Ranks, on_threads};
use crate::training::tests::graphs::{KINDS, Numbers, random_model};
use std::path::Path;

fn drawn(images: usize, values: usize) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(5);
    (0..images).map(|_| numbers.values(values)).collect()
}

fn batches(images: &[Vec<f32>], (height, width): (usize, usize), batch: usize, ranks: Ranks) -> Batches<'_> {
    Batches { images, height, width, batch, ranks }
}

/// The length of a difference by that of the second vector.
fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let off = length(&mut found.iter().zip(wanted).map(|(f, w)| f64::from(f - w)));
    off / length(&mut wanted.iter().map(|w| f64::from(*w))).max(1e-30)
}

/// Fails where the squares of a GPU are not those of the CPU, for gradients of all outputs. `batch` may be more than
/// there are images.
fn check(what: &str, model: &Model, [n, c, h, w]: [usize; 4], batch: usize) {
    let images = drawn(n, c * h * w);
    let all = batches(&images, (h, w), n, Ranks::default());
    let gpu = GradientSquares::new(emulated::device().unwrap(), model, (h, w), batch).unwrap();
    assert_eq!(gpu.batch(), batch);
    let mut ways = [Way::new(model, &all, Device::Cpu).unwrap(), Way::Gpu(Box::new(gpu))];
    let [wanted, found] = ways.each_mut().map(|way| way.forward(&all, &images).unwrap());
    for (output, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let off = distance(found, wanted);
        assert!(off < 1e-4, "{what}, output {output}: off by {off}");
    }
    let gradient = |(at, output): (usize, &Vec<f32>)| Numbers::new(at as u64 + 77).values(output.len());
    let gradients: Vec<Vec<f32>> = wanted.iter().enumerate().map(gradient).collect();
    let [wanted, found] = ways.each_mut().map(|way| way.backward(gradients.clone()).unwrap());
    let nodes = |squares: &[Squares]| squares.iter().map(|squares| squares.node).collect::<Vec<NodeId>>();
    assert_eq!(nodes(&found), nodes(&wanted), "{what}");
    for (found, wanted) in found.iter().zip(&wanted) {
        let off = distance(&found.positions, &wanted.positions).max(distance(&found.channels, &wanted.channels));
        assert!(off < 1e-4, "{what}, node {}: off by {off}", found.node.0);
    }
}

#[test]
fn squares_of_a_gpu_are_those_of_the_cpu_behind_every_operator() {
    if emulated::device().is_none() {
        return;
    }
    for seed in 0..2 * KINDS {
        let (model, shape, what) = random_model(seed, 1);
        check(&format!("seed {seed}: {what}"), &model, shape, shape[0]);
    }
}

#[test]
fn squares_of_a_gpu_are_those_of_the_cpu_in_graphs_of_all_operators() {
    if emulated::device().is_none() {
        return;
    }
    for seed in 0..24 {
        let (model, shape, what) = random_model(1_000_000 + seed, 6);
        check(&format!("seed {seed}: {what}"), &model, shape, shape[0] + seed as usize % 3);
    }
}

fn demo() -> Model {
    let bytes = include_bytes!("../../pipeline/demo.safetensors");
    crate::model::from_bytes(Path::new("demo.safetensors"), bytes).unwrap()
}

/// The last batch has one image, which is filled up.
#[test]
fn sensitivity_of_a_gpu_is_that_of_the_cpu_in_a_detector() {
    if emulated::device().is_none() {
        return;
    }
    let (model, images) = (demo(), drawn(3, 3 * 64 * 64));
    let images = batches(&images, (64, 64), 2, Ranks::default());
    let on = |device| {
        let mut done = Vec::new();
        let found = sensitivity(&model, &images, device, 9, &mut |own, all| done.push((own, all))).unwrap();
        assert_eq!(done, [(2, 3), (3, 3)]);
        found
    };
    let [cpu, gpu] = [Device::Cpu, Device::Cuda(0)].map(on);
    assert!(cpu.positions.len() > 20 && cpu.positions.keys().eq(gpu.positions.keys()));
    assert!(cpu.channels.keys().eq(gpu.channels.keys()));
    for (id, wanted) in &cpu.positions {
        assert_eq!((gpu.positions[id].len(), wanted.len()), (3, 3));
        let narrow = |sums: &[f64]| sums.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        let off = distance(&gpu.positions[id].concat(), &wanted.concat());
        let off = off.max(distance(&narrow(&gpu.channels[id]), &narrow(&cpu.channels[id])));
        assert!(off < 1e-4, "{}: off by {off}", model.graph.node(NodeId(*id)).name);
    }
    assert_eq!(on(Device::Cuda(0)), gpu, "not the same twice");
}

#[test]
fn sensitivity_of_gpus_has_the_same_bits_on_one_two_and_four_ranks() {
    if emulated::device().is_none() {
        return;
    }
    let (model, [_, c, h, w], _) = random_model(4, 6);
    let images = drawn(7, c * h * w);
    let on = |size: usize| {
        let of_rank = |ranks: Ranks| {
            let images = batches(&images, (h, w), 2, ranks);
            sensitivity(&model, &images, Device::Cuda(0), 3, &mut |_, _| {}).unwrap()
        };
        let found = on_threads(size, of_rank);
        assert!(found.iter().all(|rank| *rank == found[0]), "{size} ranks: not the same everywhere");
        found.into_iter().next().unwrap()
    };
    let one = on(1);
    assert!(!one.positions.is_empty() && !one.channels.is_empty());
    for size in [2, 4] {
        assert!(on(size) == one, "{size} ranks");
    }
}
