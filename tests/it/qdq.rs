//! int8 models for other runtimes: pairs of QuantizeLinear and DequantizeLinear, what TensorRT takes of them, the
//! calibration cache, and ONNX Runtime's outputs against this engine's.

use crate::forward::yolo;
use crate::onnx::{python, raw, sound};
use crate::support::data;
use prost::Message;
use secateurs::data::{Dataset, Item};
use secateurs::emit::onnx::proto::ModelProto;
use secateurs::emit::onnx::tensorrt::refused;
use secateurs::emit::onnx::{calibration_cache, export, file};
use secateurs::engine::{Device, Engine, Options};
use secateurs::eval::{Detected, Prepared, evaluate_model};
use secateurs::graph::{Branch, Dtype, Graph, Head};
use secateurs::group::{Group, groups};
use secateurs::kernels::input_scale;
use secateurs::model::Model;
use secateurs::quantise::{Exceptions, Ranges, quantise, quantise_except, ranges, symmetric};
use secateurs::ranks::Ranks;
use secateurs::repair::{Calibration, Method, repair};
use secateurs::surgery::{Selection, cut};
use secateurs::vision::{Candidate, Detection, Letterbox, NmsOptions, Preprocess, Xyxy, decode_all, nms};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// The networks of the zoo in int8, with random weights and ranges around zero or as they are.
fn int8(zero_centred: bool) -> Vec<(String, Model, usize)> {
    let small = crate::surgery::zoo().into_iter().filter(|(_, _, side)| *side == 32);
    let quantized = |(name, graph, side): (String, Graph, usize)| {
        let model = crate::surgery::random_model(graph, 11);
        let found = ranges(&model, &pictures(side, 4), (side, side), &mut |_, _| ()).unwrap();
        let found = if zero_centred { symmetric(&found) } else { found };
        (name, quantise(&model, &found), side)
    };
    small.map(quantized).collect()
}

/// Images `[3, side, side]` with values of 0 to 1.
fn pictures(side: usize, count: usize) -> Vec<Vec<f32>> {
    let picture = |at: usize| (0..3 * side * side).map(|i| ((i + at * 31) * 7919 % 1009) as f32 / 1009.0).collect();
    (0..count).map(picture).collect()
}

fn count(file: &ModelProto, op: &str) -> usize {
    file.graph.as_ref().unwrap().node.iter().filter(|node| node.op_type == op).count()
}

#[test]
fn symmetric_ranges_are_those_of_signed_integers_without_a_zero_point() {
    let cases = [[-0.28, 6.5], [0.0, 1.0], [-3.0, 0.5], [0.0, 0.0], [-1e-3, 1e4]];
    for [low, high] in cases {
        let found = symmetric(&Ranges::from([("a".to_owned(), [low, high])]))["a"];
        let (scale, zero) = input_scale(found);
        assert_eq!(zero, 128.0, "{low}..{high}");
        let holds = found[0] <= low * (1.0 - 1e-6) && found[1] >= high * (1.0 - 1e-6);
        assert!(holds, "{found:?} holds {low}..{high}");
        let least: f32 = (low / -128.0).max(high / 127.0).max(f32::MIN_POSITIVE);
        assert!((scale - least).abs() <= 1e-6 * least, "{scale} of {least}");
        let twice = symmetric(&Ranges::from([("a".to_owned(), found)]))["a"];
        assert!(twice.iter().zip(found).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()), "{found:?}, twice {twice:?}");
    }
}

#[test]
fn every_int8_layer_has_its_pairs_and_tensorrt_takes_those_around_zero() {
    for zero_centred in [false, true] {
        for (name, model, side) in int8(zero_centred) {
            let file = sound(&export(&model, side, side).unwrap());
            // Of two branches one is exported.
            let graph = match model.graph.head {
                Head::EndToEnd { one2many: true, .. } => model.graph.with_branch(Branch::One2Many).unwrap(),
                _ => model.graph.clone(),
            };
            let layers = || graph.convs_in(Dtype::Int8).map(|(id, _)| graph.node(id));
            // Layers that read the same tensor share its pair.
            let inputs: BTreeSet<_> =
                layers().map(|layer| (layer.inputs[0], model.range(&layer.name).map(f32::to_bits))).collect();
            let pairs = layers().count() + inputs.len();
            assert!(pairs > 4, "{name}");
            assert_eq!([count(&file, "QuantizeLinear"), count(&file, "DequantizeLinear")], [pairs, pairs], "{name}");
            let refused = refused(&file);
            assert_eq!(refused.is_empty(), zero_centred, "{name}: {refused:?}");
            assert!(refused.iter().all(|why| why.contains("zero point must be 0")), "{name}: {refused:?}");
        }
    }
}

#[test]
fn the_cache_has_a_scale_for_every_tensor_that_is_quantized() {
    let (_, model, _) = int8(true).remove(0);
    let cache = calibration_cache(&model).unwrap();
    let mut lines = cache.lines();
    assert_eq!(lines.next(), Some("TRT-8600-EntropyCalibration2"));
    let mut names = BTreeSet::new();
    for line in lines {
        let (name, scale) = line.rsplit_once(": ").unwrap();
        assert_eq!(scale.len(), 8, "{line}");
        let scale = f32::from_bits(u32::from_str_radix(scale, 16).unwrap());
        assert!(names.insert(name.to_owned()) && scale.is_finite() && scale > 0.0, "{line}");
        let readers = model.graph.convs_in(Dtype::Int8).map(|(id, _)| model.graph.node(id));
        for layer in readers.filter(|layer| model.graph.node(layer.inputs[0]).name == name) {
            assert_eq!(scale, input_scale(model.range(&layer.name)).0, "{line}");
        }
    }
    let read = model.graph.convs_in(Dtype::Int8).map(|(id, _)| model.graph.node(model.graph.node(id).inputs[0]));
    assert!(read.into_iter().all(|node| names.contains(&node.name)) && names.contains("images"));
    assert_eq!(calibration_cache(&model.into_f32()), None);
}

#[test]
fn what_tensorrt_refuses_of_a_pair_is_found() {
    let (_, model, side) = int8(true).remove(0);
    let whole = file(&model, side, side).unwrap();
    let constant = |file: &mut ModelProto, end: &str, bytes: &[u8]| {
        let constants = &mut file.graph.as_mut().unwrap().initializer;
        let found = constants.iter_mut().find(|c| c.name.ends_with(end)).unwrap();
        found.raw_data[..bytes.len()].copy_from_slice(bytes);
    };
    let mut cases: Vec<(&str, ModelProto)> = Vec::new();
    let mut spoilt = whole.clone();
    constant(&mut spoilt, "/input/zero-point", &[1]);
    cases.push(("zero point must be 0: quantise with --symmetric", spoilt));
    let mut spoilt = whole.clone();
    constant(&mut spoilt, "/weight/scale", &0f32.to_le_bytes());
    cases.push(("scales must be more than 0", spoilt));
    let mut spoilt = whole.clone();
    spoilt.graph.as_mut().unwrap().node.iter_mut().find(|n| n.op_type == "QuantizeLinear").unwrap().input.truncate(2);
    cases.push(("must be constants", spoilt));
    for (expected, file) in cases {
        let found = refused(&file);
        assert!(found.iter().any(|why| why.contains(expected)), "`{expected}`: {found:?}");
        assert!(ModelProto::decode(&file.encode_to_vec()[..]).is_ok());
    }
}

#[test]
fn exceptions_are_written_without_pairs_and_come_back_from_the_file() {
    let (_, graph, side) = crate::surgery::zoo().remove(0);
    let model = crate::surgery::random_model(graph, 11);
    let images = pictures(side, 1);
    let found = ranges(&model, &images, (side, side), &mut |_, _| ()).unwrap();
    let layer = found.keys().next().unwrap().clone();
    for dtype in [Dtype::F16, Dtype::F32] {
        let mixed = quantise_except(&model, &found, &Exceptions::from([(layer.clone(), dtype)]));
        let bytes = secateurs::model::to_bytes(&mixed).unwrap();
        assert!(String::from_utf8_lossy(&bytes).contains("\"secateurs.format\":\"4\""));
        let back = secateurs::model::from_bytes(Path::new("a"), &bytes).unwrap();
        assert_eq!((&back.graph, &back.weights, &back.info), (&mixed.graph, &mixed.weights, &mixed.info));
        let id = back.graph.find(&layer).unwrap();
        assert_eq!(back.graph.layer_dtypes()[id.index()], dtype);
        assert_eq!(back.graph.convs_in(Dtype::Int8).count(), found.len() - 1);
        let mut engine = Engine::new(&back, side, side, &Options::default()).unwrap();
        engine.run(&images[0]).unwrap();
        assert!(engine.output(0).iter().all(|v| v.is_finite()));
        let groups = groups(&back.graph);
        let same = cut(&back, &groups, &Selection::all(&groups)).unwrap();
        assert_eq!(same.graph.exceptions, back.graph.exceptions);
        assert!(back.into_f32().graph.exceptions.is_empty());
        // Nothing but a layer of an int8 network has a dtype of its own.
        let wrong = [
            Graph { dtype: Dtype::F16, ..mixed.graph.clone() },
            Graph { exceptions: [("no such".to_owned(), Dtype::F32)].into(), ..mixed.graph.clone() },
            Graph { exceptions: [(layer.clone(), Dtype::Int8)].into(), ..mixed.graph.clone() },
        ];
        assert!(wrong.iter().all(|graph| graph.check().is_err()));
    }
}

/// Runs a file in ONNX Runtime over images and gives its first output for each.
fn by_onnx_runtime(python: &OsString, model: &Model, side: usize, images: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("model.onnx"), export(model, side, side).unwrap()).unwrap();
    std::fs::write(path("input.f32"), raw(&images.concat())).unwrap();
    let run = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/ort.py"))
        .arg(path("model.onnx"))
        .args(["--threads", "2", "--input"])
        .arg(path("input.f32"))
        .arg("--save")
        .arg(path("output.f32"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let bytes = std::fs::read(path("output.f32")).unwrap();
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    values.chunks(values.len() / images.len()).map(<[f32]>::to_vec).collect()
}

/// What this engine gives, decoded as the export decodes.
fn by_engine(model: &Model, side: usize, image: &[f32]) -> Vec<f32> {
    let outputs = crate::forward::by_engine(model, image, side, side);
    let parts: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
    decode_all(&model.graph.head, (side, side), &parts)
}

/// A detector with its images, and the same without a quarter of the channels of every sixth group, repaired.
fn detectors(path: &str, yaml: &str) -> Option<(Dataset, Dataset, [Model; 2])> {
    let (model, yaml) = (yolo(path)?, data(yaml)?);
    let all = groups(&model.graph);
    let width = |(i, group): (usize, &Group)| match i % 6 {
        0 => (group.width() - group.width() / 4).next_multiple_of(group.heads).min(group.width()),
        _ => group.width(),
    };
    let widths: Vec<usize> = all.groups.iter().enumerate().map(width).collect();
    let (train, val) = (Dataset::open(&yaml, "train").unwrap(), Dataset::open(&yaml, "val").unwrap());
    let selection = Selection::first(&all, &widths);
    let pruned = cut(&model, &all, &selection).unwrap();
    let images = tensors(&model, &train, 320, train.items.len() / 24);
    let (ranks, sensitivity) = (Ranks::default(), None);
    let calibration = Calibration {
        images: &images,
        height: 320,
        width: 320,
        ridge: 0.03,
        seed: 0,
        sensitivity,
        ranks,
        device: Device::Cpu,
    };
    let progress = &mut |_, _| ();
    let pruned = repair(&model, &all, &selection, &pruned, Method::LeastSquares, &calibration, progress).unwrap();
    Some((train, val, [model, pruned]))
}

/// Every `step`th image of a dataset as a network reads it.
fn tensors(model: &Model, dataset: &Dataset, side: usize, step: usize) -> Vec<Vec<f32>> {
    let preprocess = Preprocess::new(model).unwrap();
    let tensor = |item: &Item| {
        let mut tensor = vec![0.0; 3 * side * side];
        preprocess.write(&item.image.load().unwrap(), side, &mut tensor);
        tensor
    };
    dataset.items.iter().step_by(step).map(tensor).collect()
}

const MODELS: [(&str, &str); 2] =
    [("models/yolo11n-coco.safetensors", "coco-mini/data.yaml"), ("models/yolo11n-bccd.safetensors", "bccd/data.yaml")];

/// Both round the same values to the same integers but where a sum in another order falls on the other side of a step; such
/// a value changes a few cells of what follows.
#[test]
fn onnx_runtime_gives_14_of_15_int8_scores_within_a_step_and_1e_3_apart_in_the_mean() {
    let Some(python) = python() else { return };
    for (path, yaml) in MODELS {
        let Some((train, val, models)) = detectors(path, yaml) else { return };
        for (model, zero_centred) in models.iter().flat_map(|model| [(model, false), (model, true)]) {
            let found = ranges(model, &tensors(model, &train, 320, 8), (320, 320), &mut |_, _| ()).unwrap();
            let found = if zero_centred { symmetric(&found) } else { found };
            let int8 = quantise(model, &found);
            let images = tensors(&int8, &val, 320, 17);
            let theirs = by_onnx_runtime(&python, &int8, 320, &images);
            let (mut far, mut mean, mut count) = (0, 0f64, 0);
            for (image, theirs) in images.iter().zip(&theirs) {
                let ours = by_engine(&int8, 320, image);
                assert_eq!(ours.len(), theirs.len());
                let scores = 4 * ours.len() / (4 + int8.graph.classes());
                let apart = |a: &f32, b: &f32| f64::from((a - b).abs());
                let all: Vec<f64> = ours[scores..].iter().zip(&theirs[scores..]).map(|(a, b)| apart(a, b)).collect();
                // A step of 8 bits over the scores' range of 0 to 1.
                far += all.iter().filter(|apart| **apart > 1.0 / 255.0).count();
                count += all.len();
                mean += all.iter().sum::<f64>() / all.len() as f64 / images.len() as f64;
            }
            eprintln!(
                "{path}, zero-centred {zero_centred}: {far} of {count} more than a step apart, {mean:.2e} in the mean"
            );
            // Values between two integers go either way by the last bit of an f32 layer, and that spreads. Of few classes more
            // scores are above zero.
            assert!(far * 15 <= count && mean < 1e-3, "{path} {zero_centred}: {far} of {count}, {mean}");
        }
    }
}

/// mAP of ONNX Runtime's detections, with this library's suppression and rules.
fn map_by_onnx_runtime(python: &OsString, model: &Model, images: &Dataset, side: usize) -> f64 {
    let (nc, prepared) = (model.graph.classes(), Prepared::new(images, side).unwrap());
    let outputs = by_onnx_runtime(python, model, side, &tensors(model, images, side, 1));
    let mut found = Vec::new();
    for ((image, item), output) in images.items.iter().enumerate().zip(outputs) {
        let (pixels, cells) = (item.image.load().unwrap(), output.len() / (4 + nc));
        let letterbox = Letterbox::new(pixels.width(), pixels.height(), side, side);
        let at = |row: usize, cell: usize| output[row * cells + cell];
        let mut candidates = Vec::new();
        for (cell, class) in (0..cells).flat_map(|cell| (0..nc).map(move |class| (cell, class))) {
            let score = at(4 + class, cell);
            if score > NmsOptions::EVALUATION.score {
                let [x, y, w, h] = [0, 1, 2, 3].map(|row| at(row, cell));
                let bbox = Xyxy([x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]);
                candidates.push(Candidate { detection: Detection { class, score, bbox }, cell });
            }
        }
        found.extend(nms(candidates, &NmsOptions::EVALUATION).into_iter().map(|kept| Detected {
            image,
            class: kept.detection.class,
            bbox: letterbox.to_source(kept.detection.bbox).into(),
            score: f64::from(kept.detection.score),
        }));
    }
    prepared.score(&found).map50_95
}

/// Over all images of a set: among few, one object of a rare class moves the mAP by more than two engines differ.
#[test]
fn onnx_runtime_finds_what_the_int8_engine_finds() {
    let Some(python) = python() else { return };
    for (path, yaml) in MODELS {
        let Some((train, val, models)) = detectors(path, yaml) else { return };
        // The annotations of one split know nothing of the other.
        let all = Dataset { items: [&val.items[..], &train.items].concat(), annotations: None, ..val };
        for (name, model) in ["whole", "pruned"].into_iter().zip(&models) {
            let found = ranges(model, &tensors(model, &train, 320, 8), (320, 320), &mut |_, _| ()).unwrap();
            for (kind, found) in [("as they are", found.clone()), ("around zero", symmetric(&found))] {
                let int8 = quantise(model, &found);
                let ours = evaluate_model(&int8, &all, 320, 2, &|_| {}).unwrap().map50_95;
                let theirs = map_by_onnx_runtime(&python, &int8, &all, 320);
                eprintln!("{path} {name}, ranges {kind}: mAP {ours:.4} here, {theirs:.4} in ONNX Runtime");
                assert!((ours - theirs).abs() <= 0.003, "{path} {name} {kind}: {ours} {theirs}");
            }
        }
    }
}
