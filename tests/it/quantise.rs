//! Halves and 8-bit whole numbers: what they do to outputs, to accuracy and to the file, and what hostile files get.

use crate::engine_props::networks::{image, network};
use crate::forward::yolo;
use crate::support::data;
use secateurs::data::Dataset;
use secateurs::engine::{Cpu, Engine, Options, plan_memory, plan_memory_for};
use secateurs::eval;
use secateurs::graph::{Dtype, Graph};
use secateurs::kernels::Isa;
use secateurs::model::{self, Model, Tensor};
use secateurs::quantise::{quantise, ranges, to_f16};
use secateurs::vision::Preprocess;
use secateurs::zoo::yolo11;
use std::path::Path;

/// A random network in whole numbers with its image size, if it has a layer that computes in them.
fn rounded(seed: u64) -> Option<(Model, Model, (usize, usize))> {
    let (model, h, w) = network(seed);
    let images: Vec<Vec<f32>> = (0..6).map(|i| image(&model, h, w, seed + i)).collect();
    let found = ranges(&model, &images, (h, w), &mut |_, _| ()).unwrap();
    (!found.is_empty()).then(|| (quantise(&model, &found), model, (h, w)))
}

fn run(model: &Model, (h, w): (usize, usize), input: &[f32], isa: Isa, threads: usize) -> Vec<f32> {
    let options = Options { threads, isa: Some(isa), ..Options::default() };
    let mut engine = Engine::new(model, h, w, &options).unwrap();
    assert_eq!(engine.memory(), plan_memory(&model.graph, h, w, &options).unwrap());
    engine.run(input).unwrap();
    engine.output(0).to_vec()
}

/// The mean difference as a share of the mean magnitude.
fn apart(found: &[f32], wanted: &[f32]) -> f32 {
    let size: f32 = wanted.iter().map(|v| v.abs()).sum();
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).sum::<f32>() / size.max(1e-6)
}

/// How far random networks are from f32 after rounding, in the middle and at nine tenths; and that threads change nothing.
fn distances(round: impl Fn(Model, &Model) -> Model) -> (f32, f32) {
    let (mut cases, mut far) = (0, Vec::new());
    for seed in 5000..5400 {
        let Some((int8, f32, size)) = rounded(seed) else { continue };
        cases += 1;
        let model = round(int8, &f32);
        let input = image(&f32, size.0, size.1, seed);
        let wanted = run(&f32, size, &input, Isa::detect(), 1);
        for isa in Isa::all() {
            let one = run(&model, size, &input, isa, 1);
            assert_eq!(one, run(&model, size, &input, isa, 3), "seed {seed} {isa:?}");
            assert!(one.iter().all(|v| v.is_finite()), "seed {seed} {isa:?}");
            far.push(apart(&one, &wanted));
        }
    }
    assert!(cases > 200, "{cases} networks");
    far.sort_by(f32::total_cmp);
    (far[far.len() / 2], far[far.len() * 9 / 10])
}

#[test]
fn random_networks_stay_near_to_f32_and_do_not_depend_on_threads() {
    // Deep random networks multiply any error; most do not.
    let (median, tenth) = distances(|int8, _| int8);
    assert!(median < 0.02 && tenth < 0.1, "int8: median {median}, nine tenths {tenth}");
    let (median, tenth) = distances(|_, f32| to_f16(f32));
    assert!(median < 0.001 && tenth < 0.005, "f16: median {median}, nine tenths {tenth}");
    assert!(median > 0.0, "nothing was rounded");
}

#[test]
fn the_file_holds_a_byte_per_weight_and_comes_back_to_the_bit() {
    for seed in 6000..6060 {
        let Some((int8, ..)) = rounded(seed) else { continue };
        let bytes = model::to_bytes(&int8).unwrap();
        let back = model::from_bytes(Path::new("a"), &bytes).unwrap();
        assert_eq!((&back.weights, &back.graph, &back.info), (&int8.weights, &int8.graph, &int8.info), "seed {seed}");
        assert_eq!(model::to_bytes(&back).unwrap(), bytes, "seed {seed}");
        // Rounded values are not rounded again.
        assert_eq!(quantise(&back, &back.info.ranges).weights, back.weights, "seed {seed}");
        assert_eq!(back.into_f32().graph.dtype, Dtype::F32);
    }
}

#[test]
fn a_file_of_halves_holds_two_bytes_per_weight_and_comes_back_to_the_bit() {
    for seed in 6000..6060 {
        let Some((_, f32, _)) = rounded(seed) else { continue };
        let halves = to_f16(&f32);
        let bytes = model::to_bytes(&halves).unwrap();
        let weights: usize =
            halves.graph.narrow_convs().map(|(_, conv)| halves.tensor(&conv.weight).data().len()).sum();
        let whole = halves.clone().into_f32();
        let saved = model::to_bytes(&whole).unwrap().len() as isize - bytes.len() as isize;
        assert!((saved - 2 * weights as isize).abs() < 64, "seed {seed}: {saved} bytes less for {weights} weights");
        let back = model::from_bytes(Path::new("a"), &bytes).unwrap();
        assert_eq!((&back.weights, &back.graph, &back.info), (&halves.weights, &halves.graph, &halves.info));
        assert_eq!(to_f16(&back).weights, back.weights, "seed {seed}: rounded twice");
    }
}

#[test]
fn memory_is_planned_for_processors_with_and_without_halves() {
    let scale = yolo11::Scale::of('n').unwrap();
    let f32 = yolo11::detect(scale, 80).unwrap();
    let f16 = Graph { dtype: Dtype::F16, ..f32.clone() };
    let weights = |graph: &Graph, halves: bool| {
        let cpu = Cpu { f16: halves, ..Cpu::here() };
        plan_memory_for(graph, 320, 320, &Options::default(), cpu).unwrap().weights as f64
    };
    assert_eq!(weights(&f16, false), weights(&f32, false));
    assert_eq!(weights(&f32, true), weights(&f32, false));
    let share = weights(&f16, true) / weights(&f32, true);
    // Two bytes of four, and some layers whose fast algorithm holds more than their weights.
    assert!((0.3..0.6).contains(&share), "{share}");
}

#[test]
fn a_kernel_beyond_the_range_of_halves_keeps_its_values() {
    let (_, mut model, _) = (6000..).find_map(rounded).unwrap();
    let graph = to_f16(&model).graph;
    let key = graph.narrow_convs().next().unwrap().1.weight.clone();
    let kernel = model.weights[&key].clone();
    let mut data = kernel.data().to_vec();
    data[0] = 1e9;
    model.weights.insert(key.clone(), Tensor::new(kernel.shape().to_vec(), data));
    let halves = to_f16(&model);
    assert_eq!(halves.tensor(&key), model.tensor(&key));
    let back = model::from_bytes(Path::new("a"), &model::to_bytes(&halves).unwrap()).unwrap();
    assert_eq!(back.weights, halves.weights);
}

#[test]
fn files_whose_parts_do_not_fit_are_refused_by_name() {
    let (int8, ..) = (6000..).find_map(rounded).unwrap();
    let layer = int8.graph.node(int8.graph.narrow_convs().next().unwrap().0).name.clone();
    let refused = |model: &Model, edit: &dyn Fn(&str) -> String, expected: &str| {
        let bytes = model::to_bytes(model).unwrap();
        let (header, values) = bytes[8..].split_at(u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize);
        let header = edit(std::str::from_utf8(header).unwrap());
        let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), values].concat();
        let error = model::from_bytes(Path::new("evil.safetensors"), &file).unwrap_err().to_string();
        assert!(error.starts_with("evil.safetensors: ") && error.contains(expected), "{error}");
    };
    let key = int8.graph.params().into_iter().map(|param| param.key).find(|key| {
        let numbers = format!("\"{key}.int8\"");
        String::from_utf8_lossy(&model::to_bytes(&int8).unwrap()).contains(&numbers)
    });
    let key = key.expect("a kernel of whole numbers");
    // No scale; no numbers; numbers that claim to be something else.
    refused(&int8, &|text| text.replacen(&format!("{key}.scale"), "other", 1), &format!("`{key}.scale`"));
    refused(&int8, &|text| text.replacen(&format!("{key}.int8"), "other", 1), &format!("`{key}`"));
    let typed = |text: &str| {
        let at = text.find(&format!("{key}.int8")).unwrap();
        format!("{}{}", &text[..at], text[at..].replacen("\"U8\"", "\"BOOL\"", 1))
    };
    refused(&int8, &typed, "expected U8");
    // A range that is none, or in the wrong order.
    let mut marked = int8.clone();
    marked.info.ranges.insert(layer.clone(), [7.25, 8.5]);
    refused(&marked, &|text| text.replace("[7.25,8.5]", "[null,8.5]"), "secateurs.info");
    refused(&marked, &|text| text.replace("[7.25,8.5]", "[8.5,7.25]"), &format!("`{layer}`"));
    let mut model = int8.clone();
    model.info.ranges.clear();
    let error = Model::new(model.graph, model.weights, model.info).unwrap_err().to_string();
    assert!(error.contains("has the input range None"), "{error}");
}

#[test]
fn yolo11n_keeps_its_accuracy_at_half_and_at_a_third_of_the_size() {
    let (Some(model), Some(yaml)) = (yolo("models/yolo11n-coco.safetensors"), data("coco-mini/data.yaml")) else {
        return;
    };
    let train = Dataset::open(&yaml, "train").unwrap();
    let preprocess = Preprocess::new(&model).unwrap();
    let images: Vec<Vec<f32>> = (0..train.items.len())
        .step_by(6)
        .map(|item| {
            let mut tensor = vec![0.0; 3 * 320 * 320];
            preprocess.write(&train.items[item].image.load().unwrap(), 320, &mut tensor);
            tensor
        })
        .collect();
    let found = ranges(&model, &images, (320, 320), &mut |_, _| ()).unwrap();
    let int8 = quantise(&model, &found);
    let size = |model: &Model| model::to_bytes(model).unwrap().len();
    assert!(3 * size(&int8) < size(&model), "{} of {}", size(&int8), size(&model));
    let val = Dataset::open(&yaml, "val").unwrap();
    let map = |model: &Model| eval::evaluate_model(model, &val, 320, 2, &|_| {}).unwrap().map50_95;
    let (before, after) = (map(&model), map(&int8));
    assert!(after > before - 0.02, "{before} -> {after}");
    let halves = to_f16(&model);
    assert!(1.9 * (size(&halves) as f64) < size(&model) as f64, "{} of {}", size(&halves), size(&model));
    let after = map(&halves);
    assert!((after - before).abs() < 0.005, "{before} -> {after}");
}
