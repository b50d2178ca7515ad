//! Second moments on the emulated device against those of the CPU.

use super::*;
use crate::group::groups;
use crate::kernels::cuda::emulated;
use crate::ranks::{Ranks, on_threads};
use crate::repair::samples::Centred;
use crate::repair::{Method, Sensitivity, repair};
use crate::surgery::{Selection, cut};
use crate::training::tests::graphs::{Numbers, random_model};
use std::path::Path;

fn demo() -> Model {
    let bytes = include_bytes!("../../pipeline/demo.safetensors");
    crate::model::from_bytes(Path::new("demo.safetensors"), bytes).unwrap()
}

/// Made-up images with light and shadow, and maps of where layers matter.
struct Set {
    images: Vec<Vec<f32>>,
    size: (usize, usize),
    sensitivity: Sensitivity,
}

impl Set {
    fn new(graph: &Graph, images: usize, size: (usize, usize), weighted: bool) -> Self {
        let mut numbers = Numbers::new(3);
        let values = graph.input_channels() * size.0 * size.1;
        let mut drawn = |len: usize| numbers.values(len).into_iter().map(|v| v.mul_add(0.5, 0.5)).collect::<Vec<f32>>();
        let shapes = graph.shapes(size.0, size.1).unwrap();
        let wave = |image: usize, at: usize| {
            let (y, x) = ((at / size.1 % size.0) as f32, (at % size.1) as f32);
            let [a, b] = [image + 1, at / (size.0 * size.1) + 2].map(|n| n as f32);
            0.5 + 0.5 * (0.13 * a * x + 0.3 * b).sin() * (0.07 * b * y + 0.9 * a).cos()
        };
        let lit =
            |image: usize| drawn(values).iter().enumerate().map(|(at, v)| 0.2 * v + 0.8 * wave(image, at)).collect();
        let found = (0..images).map(lit).collect();
        let mut sensitivity = Sensitivity::default();
        for (id, _) in graph.convs().filter(|_| weighted) {
            let map = |_| drawn(shapes[id.index()].area()).into_iter().map(|v| 2.0 * v).collect();
            sensitivity.positions.insert(id.0, (0..images).map(map).collect());
        }
        Self { images: found, size, sensitivity }
    }

    fn calibration(&self, device: Device, ranks: Ranks) -> Calibration<'_> {
        let (height, width) = self.size;
        let sensitivity = Some(&self.sensitivity);
        Calibration { images: &self.images, height, width, ridge: 0.03, seed: 5, sensitivity, ranks, device }
    }
}

/// The moments of a regression.
struct Regressed {
    layer: String,
    moments: Centred,
    /// By output the sum of its weights without their signs, and its bias.
    terms: Vec<f64>,
    biases: Vec<f32>,
}

/// The moments of all regressions of a repair: by layer, set and lane.
fn moments(original: &Model, pruned: &Model, kept: &Selection, calibration: &Calibration) -> Vec<Regressed> {
    let groups = groups(&original.graph);
    let mut pass = Pass::new(&[&original.graph, &pruned.graph], calibration).unwrap();
    let mut found = Vec::new();
    for id in original.graph.ids() {
        pass.step(0, original, id).unwrap();
        let node = original.graph.node(id);
        let Some(mine) = pruned.graph.find(&node.name) else { continue };
        if let (Op::Conv(conv), Op::Conv(smaller)) = (&node.op, &pruned.graph.node(mine).op) {
            let rows = crate::repair::kept_rows(&groups, kept, id);
            let kernel = original.tensor(&conv.weight).select(0, &rows);
            let bias = conv.bias.as_ref().map(|key| original.tensor(key));
            let of = Original { id, conv, input: node.inputs[0], kernel: &kernel, bias, rows: &rows };
            let positions = pass.positions(id, smaller);
            let reader = ((1, mine), pruned.graph.node(mine).inputs[0], smaller);
            let sums = pass.sums(reader, Some(of), &positions, 2).unwrap();
            let biases: Vec<f32> = rows.iter().map(|row| bias.map_or(0.0, |bias| bias.data()[*row])).collect();
            let row = kernel.data().len() / rows.len();
            let terms: Vec<f64> =
                kernel.data().chunks(row).map(|row| row.iter().map(|w| f64::from(w.abs())).sum()).collect();
            for lanes in sums {
                let each = rows.len() / lanes.len();
                for (lane, sums) in lanes.into_iter().enumerate() {
                    let own = lane * each..(lane + 1) * each;
                    let (terms, biases) = (terms[own.clone()].to_vec(), biases[own].to_vec());
                    found.push(Regressed { layer: node.name.clone(), moments: sums.centre(), terms, biases });
                }
            }
        }
        pass.step(1, pruned, mine).unwrap();
    }
    found
}

/// How far moments are apart: the length of the difference of second moments as a share of their own, where outputs
/// have the size of the terms that they are sums of; and the same of covariances, which may be small beside the means.
fn difference(found: &Regressed, wanted: &Regressed) -> [f64; 2] {
    let (Regressed { moments: f, .. }, Regressed { moments: w, terms, biases, .. }) = (found, wanted);
    let (d, m) = (w.x.len(), w.y.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let product = |of: &Centred, i: usize, j: usize| of.xx[(i, j)] + of.x[i] * of.x[j];
    let pairs = || (0..d).flat_map(move |i| (0..d).map(move |j| (i, j)));
    let inputs = length(&mut (0..d).map(|i| product(w, i, i).max(0.0).sqrt())).max(1e-9);
    let mut largest = length(&mut (0..d).map(|i| f.x[i] - w.x[i])) / inputs;
    let moments = length(&mut pairs().map(|(i, j)| product(w, i, j))).max(1e-9);
    largest = largest.max(length(&mut pairs().map(|(i, j)| product(f, i, j) - product(w, i, j))) / moments);
    for j in 0..m {
        let size = (terms[j] * inputs / (d as f64).sqrt() + f64::from(biases[j].abs())).max(1e-9);
        largest = largest.max((f.y[j] - w.y[j]).abs() / size);
        largest = largest.max(length(&mut (0..d).map(|i| f.xy[(i, j)] - w.xy[(i, j)])) / (inputs * size));
    }
    let covariance = length(&mut pairs().map(|(i, j)| w.xx[(i, j)])).max(1e-9);
    [largest, length(&mut pairs().map(|(i, j)| f.xx[(i, j)] - w.xx[(i, j)])) / covariance]
}

/// Fails where a GPU's moments are not those of the CPU within a share of their length. Gives the largest differences.
fn check(what: &str, [original, pruned]: [&Model; 2], kept: &Selection, set: &Set, tolerance: f64) -> [f64; 2] {
    let on = |device| moments(original, pruned, kept, &set.calibration(device, Ranks::default()));
    let (gpu, cpu) = (on(Device::Cuda(0)), on(Device::Cpu));
    assert_eq!(gpu.len(), cpu.len());
    let mut largest = [0.0f64; 2];
    for (found, wanted) in gpu.iter().zip(&cpu) {
        let [off, length] = difference(found, wanted);
        assert!(off <= tolerance, "{what}, {}: off by {off}", found.layer);
        largest = [largest[0].max(off), largest[1].max(length)];
    }
    largest
}

#[test]
fn moments_of_a_gpu_are_those_of_the_cpu_in_graphs_of_all_operators() {
    if emulated::device().is_none() {
        return;
    }
    for seed in 0..24 {
        let (original, [images, _, h, w], what) = random_model(seed, 4);
        let mut other = original.clone();
        let weights = other.weights.iter_mut().filter(|(_, tensor)| tensor.shape().len() > 1);
        weights.for_each(|(_, tensor)| tensor.data_mut().iter_mut().for_each(|w| *w *= 0.9));
        let set = Set::new(&original.graph, images, (h, w), seed % 2 == 1);
        let all = Selection::all(&groups(&original.graph));
        check(&format!("seed {seed}: {what}"), [&original, &other], &all, &set, 1e-5);
    }
}

/// A detector with every third channel of its groups removed.
fn pruned_demo() -> (Model, Selection, Model) {
    let model = demo();
    let groups = groups(&model.graph);
    let keep = |group: &crate::group::Group| -> Vec<usize> {
        (0..group.width()).filter(|at| group.heads > 1 || at % 3 != 1).collect()
    };
    let kept = Selection(groups.groups.iter().map(keep).collect());
    let pruned = cut(&model, &groups, &kept).unwrap();
    (model, kept, pruned)
}

#[test]
fn moments_and_repair_of_a_gpu_are_those_of_the_cpu_in_a_detector() {
    if emulated::device().is_none() {
        return;
    }
    let (model, kept, pruned) = pruned_demo();
    let set = Set::new(&model.graph, 4, (64, 64), true);
    // Of 576 regressions one is off by more than 1e-5: a channel behind the attention with little in it,
    // so that what the blocks before it are rounded by is much of it.
    let [largest, length] = check("demo", [&model, &pruned], &kept, &set, 3e-5);
    assert!(length <= 2e-4, "moments are off by {largest:.1e}, covariances by {length:.1e}");
    let [gpu, cpu] = [Device::Cuda(0), Device::Cpu].map(|device| {
        let (calibration, groups) = (set.calibration(device, Ranks::default()), groups(&model.graph));
        repair(&model, &groups, &kept, &pruned, Method::LeastSquares, &calibration, &mut |_, _| {}).unwrap()
    });
    let outputs = |model: &Model| {
        let on = crate::quantise::Images { images: &set.images[..1], size: set.size, device: Device::Cpu };
        crate::quantise::outputs(model, &on).unwrap().concat()
    };
    let [gpu, cpu, raw, whole] = [&gpu, &cpu, &pruned, &model].map(outputs);
    let apart = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let (repaired, cut) = (apart(&cpu, &whole), apart(&raw, &whole));
    assert!(repaired < 0.8 * cut, "repair left {repaired} of {cut}");
    let off = apart(&gpu, &cpu);
    assert!(off < 1e-2 * repaired, "off by {off}, where {repaired} are left");
}

/// The variances of what every dense convolution reads.
fn variances(model: &Model, calibration: &Calibration) -> Vec<Vec<f64>> {
    let mut pass = Pass::new(&[&model.graph], calibration).unwrap();
    let mut all = Vec::new();
    for id in model.graph.ids() {
        let covariance = pass.covariance(&model.graph, id).unwrap();
        all.extend(covariance.map(|covariance| covariance.variances()));
        pass.step(0, model, id).unwrap();
    }
    all
}

#[test]
fn moments_of_gpus_have_the_same_bits_on_one_two_and_four_ranks() {
    if emulated::device().is_none() {
        return;
    }
    let (model, [_, _, h, w], _) = random_model(4, 6);
    let (kept, pruned) = (Selection::all(&groups(&model.graph)), model.clone());
    let set = Set::new(&model.graph, 5, (h, w), true);
    let on = |size: usize| {
        let of_rank = |ranks: Ranks| {
            let calibration = set.calibration(Device::Cuda(0), ranks);
            let variances = variances(&model, &calibration);
            let moments = moments(&model, &pruned, &kept, &calibration);
            let values = moments.into_iter().map(|Regressed { moments: m, .. }| {
                let products = [&m.xx, &m.xy].map(|of| (0..of.ncols()).flat_map(|j| of.col_as_slice(j).to_vec()));
                let products: Vec<f64> = products.into_iter().flatten().collect();
                [m.x, m.y, products].concat()
            });
            (variances, values.collect::<Vec<Vec<f64>>>())
        };
        let found = on_threads(size, of_rank);
        assert!(found.iter().all(|rank| *rank == found[0]), "{size} ranks: not the same everywhere");
        found.into_iter().next().unwrap()
    };
    let one = on(1);
    assert!(!one.0.is_empty() && !one.1.is_empty());
    for size in [2, 4] {
        assert!(on(size) == one, "{size} ranks");
    }
}
