//! Classifiers of every family on pictures in a folder per class: one preprocessing from training to use, and the whole job.

use assert_cmd::Command;
use secateurs::data::Dataset;
use secateurs::detector::Predictor;
use secateurs::engine::Options;
use secateurs::eval::accuracy;
use secateurs::import;
use secateurs::model::{self, Model};
use secateurs::train::Device;
use secateurs::train::{Augment, FitConfig, fit, init};
use secateurs::vision::Image;
use secateurs::zoo::{Task, mobilenet, resnet, vgg, yolo11};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Wide pictures of three classes, told by stripes in the middle square alone: the bars beside it show other ones.
fn folders(folder: &Path, train: usize, val: usize) -> PathBuf {
    let root = folder.join("set");
    for (split, count, seed) in [("train", train, 0), ("val", val, 5)] {
        for (class, name) in ["across", "both", "down"].into_iter().enumerate() {
            let place = root.join(split).join(name);
            std::fs::create_dir_all(&place).unwrap();
            for number in 0..count {
                let (width, height) = (96 + 7 * (number % 3), 64);
                let left = (width - height) / 2;
                let pixel = |i: usize| {
                    let (x, y) = (i % width, i / width);
                    let shown = if (left..left + height).contains(&x) { class } else { (class + 1 + number % 2) % 3 };
                    let phase = (number + seed) % 9;
                    let across = shown != 2 && (y + phase) / 8 % 2 == 0;
                    let down = shown != 0 && (x + phase) / 8 % 2 == 0;
                    let noise = ((x * 31 + y * 17 + number * 13) % 40) as u8;
                    if across || down { [200 + noise, 190, 180 + noise / 2] } else { [noise, 20, 30 + noise] }
                };
                let pixels = (0..width * height).flat_map(pixel).collect();
                Image::new(width, height, pixels).save(&place.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    root
}

/// Tensors of a published classifier with a part of its widths, as a file without metadata.
fn narrow(folder: &Path, name: &str, graph: &secateurs::graph::Graph, share: usize) -> PathBuf {
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = init(graph, 4)
        .into_iter()
        .map(|(key, tensor)| {
            let shape: Vec<usize> = tensor.shape().iter().map(|n| if *n >= 16 { n / share } else { *n }).collect();
            let count: usize = shape.iter().product();
            let fan_in = shape.iter().skip(1).product::<usize>().max(1);
            let kernel = |i: usize| (((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0) * (3.0 / fan_in as f32).sqrt();
            let one = |key: &str| key.ends_with("running_var") || (shape.len() == 1 && key.ends_with(".weight"));
            let values = (0..count).map(|i| match shape.len() {
                1 => f32::from(u8::from(one(&key))),
                _ => kernel(i),
            });
            (key.clone(), shape.clone(), values.collect())
        })
        .collect();
    let views = tensors.iter().map(|(key, shape, values)| {
        let bytes = bytemuck::cast_slice::<f32, u8>(values);
        (key, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let file = folder.join(format!("{name}.safetensors"));
    std::fs::write(&file, safetensors::serialize(views, None).unwrap()).unwrap();
    file
}

/// The families with a side that is small for each.
fn families(folder: &Path) -> Vec<(&'static str, PathBuf, usize)> {
    let scale = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let yolo = yolo11::network(scale, Task::Classify, 3).unwrap();
    let mobile = mobilenet::network(mobilenet::Scale::of('s').unwrap(), 3).unwrap();
    vec![
        ("resnet", narrow(folder, "resnet", &resnet::network(resnet::Depth::of(18).unwrap(), 3).unwrap(), 8), 64),
        ("mobilenet", narrow(folder, "mobilenet", &mobile, 2), 64),
        ("yolo-cls", narrow(folder, "yolo-cls", &yolo, 1), 64),
        ("vgg", narrow(folder, "vgg", &vgg::network(vgg::Depth::of(13).unwrap(), 3).unwrap(), 16), 224),
    ]
}

fn first(model: &Model, side: usize, image: &Image) -> usize {
    let mut predictor = Predictor::new(model, side, &Options::default()).unwrap();
    let Predictor::Classifier(classifier) = &mut predictor else { panic!("a classifier") };
    classifier.classify(image).unwrap()[0].0
}

#[test]
fn what_is_learned_is_what_is_judged_and_what_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let root = folders(folder.path(), 16, 8);
    let [train, val] = ["train", "val"].map(|split| Dataset::open(&root, split).unwrap());
    let (_, file, side) = families(folder.path()).remove(0);
    let fresh = import::load(&file).unwrap();
    assert!(fresh.info.normalise.is_some());
    let augment = Augment { mirror: 0.5, ..Augment::NONE };
    let config =
        FitConfig { epochs: 8, batch: 8, imgsz: side.into(), lr: 4e-3, augment, threads: 2, ..FitConfig::default() };
    let trained = fit(&fresh, None, &train, &config, &Device::Cpu, &mut |_| {}).unwrap();
    let found = accuracy(&trained, &val, side, 2, &|_| {}).unwrap();
    assert!(found.accuracy > 0.8, "{found:?}");
    let used = val.items.iter().filter(|item| Some(first(&trained, side, &item.image.load().unwrap())) == item.class());
    assert_eq!(used.count() as f64 / val.items.len() as f64, found.accuracy);
}

#[test]
fn every_family_of_classifiers_goes_through_the_whole_job() {
    let folder = tempfile::tempdir().unwrap();
    folders(folder.path(), 8, 4);
    for (name, _, side) in families(folder.path()) {
        let (file, side) = (format!("{name}.safetensors"), side.to_string());
        let epochs = if name == "vgg" { "0" } else { "1" };
        let before = import::load(&folder.path().join(&file)).unwrap();
        let all = before.graph.cost(224, 224).unwrap().params;
        let limit = (all * 4 / 5).to_string();
        let words = [
            "prune",
            "--model",
            &file,
            "--data",
            "set",
            "--imgsz",
            &side,
            "--params",
            &limit,
            "--epochs",
            epochs,
            "--calibration-images",
            "12",
            "--out",
            name,
            "--cache",
            "cache",
        ];
        let output = Command::new(env!("CARGO_BIN_EXE_secateurs")).current_dir(folder.path()).args(words).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let read = |file: &str| std::fs::read(folder.path().join(name).join(file)).unwrap();
        let report: Value = serde_json::from_slice(&read("report.json")).unwrap();
        assert!(report["repaired"]["params"].as_u64() <= Some(all as u64 * 4 / 5), "{name}: {report}");
        assert!(report["repaired"]["accuracy"].is_number(), "{name}: {report}");
        let shipped = model::load(&folder.path().join(name).join("model.safetensors")).unwrap();
        assert_eq!(shipped.info.normalise, before.info.normalise, "{name}");
        assert_eq!(shipped.info.names, ["across", "both", "down"], "{name}");
    }
}
