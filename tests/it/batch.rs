//! Batches: what comes out for every image is what comes out for it alone, and every figure says that it is of a batch.

use crate::harness::Bench;
use crate::onnx::{python, sound};
use prost::Message;
use secateurs::bench::{self, Measured};
use secateurs::data::demo;
use secateurs::detector::{Classifier, Detector, DetectorError, Object, Predictor};
use secateurs::emit::onnx;
use secateurs::engine::{Engine, Options, plan_memory};
use secateurs::graph::{Dtype, Head};
use secateurs::model::{self, Model};
use secateurs::quantise;
use secateurs::size::ImageSize;
use secateurs::vision::{Frame, Image, decode_all};
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: ImageSize = ImageSize { height: 64, width: 96 };

fn options(threads: usize, batch: usize) -> Options {
    Options { threads, batch, ..Options::default() }
}

fn demo_model() -> Model {
    model::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/demo.safetensors")).unwrap()
}

/// Images of noise, each another one.
fn noise(model: &Model, images: usize) -> Vec<Vec<f32>> {
    let len = model.graph.input_channels() * SIZE.area();
    let value = |image: usize, i: usize| ((i * 7919 + image * 104_729) % 1009) as f32 / 1009.0;
    (0..images).map(|image| (0..len).map(|i| value(image, i)).collect()).collect()
}

/// Every output of a model for one image.
fn alone(model: &Model, threads: usize, image: &[f32]) -> Vec<Vec<f32>> {
    let mut engine = Engine::new(model, SIZE.height, SIZE.width, &options(threads, 1)).unwrap();
    engine.run(image).unwrap();
    (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect()
}

fn int8(model: &Model, images: &[Vec<f32>]) -> Model {
    let ranges = quantise::ranges(model, images, (SIZE.height, SIZE.width), &mut |_, _| ()).unwrap();
    quantise::quantise(model, &ranges)
}

#[test]
fn a_batch_gives_what_single_runs_give_to_the_bit() {
    let demo = demo_model();
    let images = noise(&demo, 3);
    let quantized = int8(&demo, &images);
    let halved = quantise::to_f16(&demo);
    assert_eq!((quantized.graph.dtype, halved.graph.dtype), (Dtype::Int8, Dtype::F16));
    for model in [demo, quantized, halved] {
        let name = model.graph.dtype.name();
        for threads in [1, 3] {
            let mut engine = Engine::new(&model, SIZE.height, SIZE.width, &options(threads, 3)).unwrap();
            assert_eq!(engine.batch(), 3);
            engine.run(&images.concat()).unwrap();
            let singles: Vec<_> = images.iter().map(|image| alone(&model, threads, image)).collect();
            assert_ne!(singles[0], singles[1], "{name}: images that give the same say nothing");
            let check = |engine: &Engine, count: usize| {
                for (image, single) in singles.iter().enumerate().take(count) {
                    for (i, single) in single.iter().enumerate() {
                        assert!(engine.output_of(image, i) == single, "{name}, {threads} threads: {image}, output {i}");
                    }
                }
            };
            check(&engine, 3);
            // A part of the batch, from the input in place; the times of the steps are those of all images.
            engine.input_mut().fill(0.5);
            engine.image_mut(0).copy_from_slice(&images[0]);
            engine.image_mut(1).copy_from_slice(&images[1]);
            engine.run_images(2).unwrap();
            check(&engine, 2);
            let steps = engine.profile(&images.concat()).unwrap();
            let mut single = Engine::new(&model, SIZE.height, SIZE.width, &options(threads, 1)).unwrap();
            assert_eq!(steps.len(), single.profile(&images[0]).unwrap().len());
            check(&engine, 3);
        }
        let planned = |batch| plan_memory(&model.graph, SIZE.height, SIZE.width, &options(1, batch)).unwrap();
        let engine = Engine::new(&model, SIZE.height, SIZE.width, &options(1, 3)).unwrap();
        assert_eq!(engine.memory(), planned(3));
        let outputs: usize = alone(&model, 1, &images[0]).iter().map(Vec::len).sum();
        let ends = 2 * 4 * (images[0].len() + outputs);
        let more = planned(3).total() - planned(1).total();
        assert!(more.abs_diff(ends) < 4096, "{name}: {more} bytes more, {ends} of them at the ends");
        let mut engine = engine;
        assert!(engine.run(&images[0]).unwrap_err().to_string().contains("images x channels"));
    }
}

#[test]
fn frames_of_several_cameras_are_found_at_once() {
    let folder = tempfile::tempdir().unwrap();
    demo::write(folder.path(), 2, 3).unwrap();
    let mut photos: Vec<PathBuf> =
        std::fs::read_dir(folder.path().join("images/val")).unwrap().map(|entry| entry.unwrap().path()).collect();
    photos.sort();
    let mut images: Vec<Image> = photos.iter().map(|path| Image::open(path).unwrap()).collect();
    // Cameras need not have one size.
    images.push(Image::new(90, 40, vec![114; 3 * 90 * 40]));
    let frames: Vec<Frame> = images.iter().map(|image| Frame::of(image).unwrap()).collect();
    let model = demo_model();
    let mut single = Detector::new(&model, 160, &options(1, 1)).unwrap();
    let expected: Vec<Vec<Object>> = images.iter().map(|image| single.detect(image).unwrap()).collect();
    assert!(expected.iter().any(|objects| objects.len() > 1), "nothing to find");
    let mut several = Predictor::new(&model, 160, &options(1, 4)).unwrap();
    let mut found = vec![Vec::new(); 7];
    several.detect_batch(&frames, &mut found).unwrap();
    assert_eq!(found, expected);
    several.detect_batch(&frames[1..3], &mut found).unwrap();
    assert_eq!(found, expected[1..3]);
    several.detect_batch(&[], &mut found).unwrap();
    assert!(found.is_empty());
    // A single frame still goes.
    let mut one = Vec::new();
    several.detect(&frames[0], &mut one).unwrap();
    assert_eq!(one, expected[0]);
    let mut three = Predictor::new(&model, 160, &options(1, 3)).unwrap();
    let refused = three.detect_batch(&frames, &mut found).unwrap_err();
    assert!(matches!(refused, DetectorError::Batch { frames: 4, batch: 3 }), "{refused}");
    assert!(matches!(three.classify_batch(&frames[..1], &mut Vec::new()), Err(DetectorError::NoClassifier { .. })));
}

#[test]
fn classifiers_take_batches_too() {
    let model = crate::rect::classifier_model();
    let colours = [[250u8, 20, 10], [10, 250, 20], [20, 10, 250]];
    let images: Vec<Image> = colours.iter().map(|colour| Image::new(8, 8, colour.repeat(64))).collect();
    let frames: Vec<Frame> = images.iter().map(|image| Frame::of(image).unwrap()).collect();
    let mut single = Classifier::new(&model, 8, &options(1, 1)).unwrap();
    let expected: Vec<_> = images.iter().map(|image| single.classify(image).unwrap()).collect();
    assert_eq!(expected.iter().map(|classes| classes[0].0).collect::<Vec<_>>(), [0, 1, 2]);
    let mut several = Predictor::new(&model, 8, &options(1, 3)).unwrap();
    let mut found = Vec::new();
    several.classify_batch(&frames, &mut found).unwrap();
    assert_eq!(found, expected);
    assert!(matches!(several.detect_batch(&frames, &mut Vec::new()), Err(DetectorError::NoDetector)));
}

/// A file for batches of three: shapes, and in ONNX Runtime the engine's outputs, image after image.
#[test]
fn onnx_files_have_the_batch_along_axis_0() {
    for (name, graph, side) in crate::surgery::zoo() {
        let narrow = crate::surgery::narrow(&graph, 0.25);
        let model = crate::surgery::random_model(narrow, 5);
        let size = ImageSize::square(side);
        let file = sound(&onnx::batch_file(&model, size, 3).unwrap().encode_to_vec());
        assert_eq!(onnx::tensorrt::refused(&file), Vec::<String>::new(), "{name}");
        let batch = file.metadata_props.iter().find(|e| e.key == "batch").unwrap();
        assert_eq!(batch.value, "3", "{name}");
        let graph = file.graph.unwrap();
        for value in graph.input.iter().chain(&graph.output) {
            let shape = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap().shape.as_ref().unwrap();
            assert_eq!(shape.dim[0].dim_value, Some(3), "{name}: {}", value.name);
        }
    }
    let Some(python) = python() else { return };
    let model = demo_model();
    let images = noise(&model, 3);
    let expected = images.iter().flat_map(|image| {
        let outputs = alone(&model, 1, image);
        let parts: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
        assert!(matches!(model.graph.head, Head::Detect { .. }));
        decode_all(&model.graph.head, (SIZE.height, SIZE.width), &parts)
    });
    let expected: Vec<f32> = expected.collect();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let bytes = onnx::batch_file(&model, SIZE, 3).unwrap().encode_to_vec();
    let run = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/ort.py"))
        .arg(file("model.onnx", &bytes))
        .arg("--input")
        .arg(file("input.f32", &crate::onnx::raw(&images.concat())))
        .args(["--relative", "1e-4", "--outputs"])
        .arg(file("expected.f32", &crate::onnx::raw(&expected)))
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(run.status.success(), "{said:?}");
}

/// A profile for two cameras: what is planned, measured and reported is the batch.
#[test]
fn a_profile_for_several_cameras_is_about_batches() {
    let bench = Bench::new();
    let board = std::fs::read_to_string(bench.path("in/board.toml")).unwrap();
    let mut reports = Vec::new();
    for batch in [1, 2] {
        std::fs::write(bench.path("in/board.toml"), format!("{board}[model]\nbatch = {batch}\n")).unwrap();
        let out = format!("out-{batch}");
        let output = bench.prune(4.0, &out, "cache").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(bench.path(&out).join("report.json")).unwrap();
        reports.push(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap());
    }
    let [one, two] = &reports[..] else { panic!() };
    assert!(one["batch"].is_null() && two["batch"] == 2, "{two}");
    let device = |report: &serde_json::Value| report["device"].as_str().unwrap().to_owned();
    assert!(device(two).contains(", batches of 2") && !device(one).contains("batches"), "{}", device(two));
    let memory = |report: &serde_json::Value| report["uncut"]["peak_memory_bytes"].as_u64().unwrap();
    assert!(memory(two) > memory(one));
    // The plan's times are those of both images.
    let millis = |report: &serde_json::Value| report["layers"][1]["before_ms"].as_f64().unwrap();
    let ratio = millis(two) / millis(one);
    assert!((ratio - 2.0).abs() < 1e-6, "{ratio}");
    assert_eq!(one["uncut"]["macs"], two["uncut"]["macs"]);

    let worker = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
        let output = command.args(arguments).current_dir(bench.path("out-2")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let timed = ["bench", "--model", "model.safetensors", "--runs", "3", "--warmup", "1", "--batch", "2"];
    assert!(worker(&timed).starts_with("64 px, times per batch of 2 images, 1 thread, 3 frames"));
    let timed: Measured = serde_json::from_str(&worker(&[&timed[..], &["--json"]].concat())).unwrap();
    assert_eq!((timed.batch, timed.imgsz), (2, 64.into()));
    assert!(timed.phases.is_some());
    let single = bench::Options {
        imgsz: 64.into(),
        threads: 1,
        pin: false,
        warmup: 1,
        runs: 3,
        device: Default::default(),
        isa: None,
        batch: 1,
    };
    let shipped = model::load(&bench.path("out-2/model.safetensors")).unwrap();
    let single = serde_json::to_value(bench::measure(&shipped, &single).unwrap()).unwrap();
    assert!(single.get("batch").is_none(), "{single}");
}
