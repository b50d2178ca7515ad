//! Classifiers: MNIST's files, training, accuracy, slimming and the whole job on a small one.

use crate::support;
use assert_cmd::Command;
use flate2::Compression;
use flate2::write::GzEncoder;
use secateurs::data::{Dataset, Label, Picture};
use secateurs::eval::accuracy;
use secateurs::model::{Info, Model};
use secateurs::train::Device;
use secateurs::train::{Augment, FitConfig, FitEvent, fit, init};
use secateurs::zoo::simple_cnn::{SIDE, simple_cnn};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;

/// An IDX file.
fn idx(sides: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sides.len() as u8];
    sides.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Pictures of three classes: a bar across, a bar down, or both, somewhere, on a noisy ground.
fn bars(count: usize, seed: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for i in 0..count {
        let class = (i * 7 + seed) % 3;
        let (row, column) = (4 + (i * 5 + seed) % 20, 4 + (i * 11 + 3 * seed) % 20);
        for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
            let across = class != 1 && y.abs_diff(row) < 2;
            let down = class != 0 && x.abs_diff(column) < 2;
            let noise = ((y * 31 + x * 17 + i * 13) % 40) as u8;
            pixels.push(if across || down { 200 + noise } else { noise });
        }
        labels.push(class as u8);
    }
    (pixels, labels)
}

/// A folder with a set of bars, the training part compressed.
fn set(train: usize, val: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    let side = SIDE as u32;
    let (pixels, labels) = bars(train, 0);
    put("train-images-idx3-ubyte.gz", &gz(&idx(&[train as u32, side, side], &pixels)));
    put("train-labels-idx1-ubyte.gz", &gz(&idx(&[train as u32], &labels)));
    let (pixels, labels) = bars(val, 1);
    put("t10k-images.idx3-ubyte", &idx(&[val as u32, side, side], &pixels));
    put("t10k-labels.idx1-ubyte", &idx(&[val as u32], &labels));
    put("set.yaml", b"path: .\nnames: [across, down, both]\n");
    put("two.yaml", b"path: .\nnames: [across, down]\n");
    folder
}

fn fresh(classes: usize) -> Model {
    let graph = simple_cnn(classes).unwrap();
    let weights = init(&graph, 1);
    Model::new(graph, weights, Info { imgsz: Some(SIDE.into()), ..Info::default() }).unwrap()
}

fn config() -> FitConfig {
    FitConfig { epochs: 8, batch: 8, imgsz: SIDE.into(), lr: 2e-3, augment: Augment::SIGNS, ..FitConfig::default() }
}

#[test]
fn mnist_files_are_read_plain_and_compressed() {
    let folder = set(7, 5);
    for (split, count, seed) in [("train", 7, 0), ("val", 5, 1), ("test", 5, 1)] {
        let found = Dataset::open(folder.path(), split).unwrap();
        let (pixels, labels) = bars(count, seed);
        assert_eq!((found.names.as_slice(), found.items.len()), (["0", "1", "2"].map(String::from).as_slice(), count));
        for (i, item) in found.items.iter().enumerate() {
            assert_eq!(item.labels, [Label::whole(labels[i].into())]);
            assert_eq!(item.class(), Some(labels[i].into()));
            let image = item.image.load().unwrap();
            let wanted: Vec<u8> = pixels[i * SIDE * SIDE..(i + 1) * SIDE * SIDE].iter().flat_map(|v| [*v; 3]).collect();
            assert_eq!((image.width(), image.height(), image.data()), (SIDE, SIDE, wanted.as_slice()));
        }
    }
    assert_eq!(Dataset::open(&folder.path().join("set.yaml"), "val").unwrap().names[2], "both");
    let wrong = Dataset::open(&folder.path().join("two.yaml"), "val").unwrap_err().to_string();
    assert!(wrong.contains("names 2 classes") && wrong.contains("have 3"), "{wrong}");
}

#[test]
fn broken_mnist_files_are_refused_by_name_and_reason() {
    let side = SIDE as u32;
    let (pixels, labels) = bars(2, 0);
    let whole = idx(&[2, side, side], &pixels);
    let bomb = gz(&[idx(&[2, side, side], &pixels), vec![0; 1 << 22]].concat());
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("train-images-idx3-ubyte.gz", gz(&whole)[..40].to_vec(), "damaged"),
        ("train-images-idx3-ubyte.gz", whole.clone(), "damaged"),
        ("train-images-idx3-ubyte.gz", bomb, "more bytes behind a header for 1568"),
        ("train-images-idx3-ubyte.gz", gz(&whole[..whole.len() - 1]), "holds 1567 bytes behind a header for 1568"),
        ("train-images-idx3-ubyte.gz", gz(&idx(&[u32::MAX, u32::MAX, u32::MAX], &[])), "at most"),
        ("train-images-idx3-ubyte.gz", gz(&idx(&[0, side, side], &[])), "0 pictures"),
        ("train-images-idx3-ubyte.gz", gz(&idx(&[2, 0, side], &[])), "28 x 0"),
        ("train-images-idx3-ubyte.gz", gz(&idx(&[2], &labels)), "begins with [00, 00, 08, 01]"),
        ("train-images-idx3-ubyte.gz", gz(b"\0\0"), "too early"),
        ("train-labels-idx1-ubyte.gz", gz(&idx(&[3], &[0, 1, 2])), "3 labels for the 2 pictures"),
    ];
    for (name, bytes, reason) in cases {
        let folder = set(2, 1);
        fs::write(folder.path().join(name), bytes).unwrap();
        let error = Dataset::open(folder.path(), "train").unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(reason), "{reason}: {error}");
    }
    let folder = set(2, 1);
    fs::write(folder.path().join("t10k-labels.idx1-ubyte"), idx(&[1], &[9])).unwrap();
    let error = Dataset::open(folder.path(), "val").unwrap_err().to_string();
    assert!(error.contains("picture 0 has class 9"), "{error}");
    let error = Dataset::open(folder.path(), "all").unwrap_err().to_string();
    assert!(error.contains("no split `all`"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = Dataset::open(empty.path(), "train").unwrap_err().to_string();
    assert!(error.contains("no train-images-idx3-ubyte"), "{error}");
}

#[test]
fn a_classifier_learns_and_its_accuracy_is_measured() {
    let folder = set(192, 90);
    let [train, val] = ["train", "val"].map(|split| Dataset::open(folder.path(), split).unwrap());
    let before = accuracy(&fresh(3), &val, SIDE, 2, &|_| {}).unwrap();
    let trained = fit(&fresh(3), None, &train, &config(), &Device::Cpu, &mut |_| {}).unwrap();
    let after = accuracy(&trained, &val, SIDE, 1, &|_| {}).unwrap();
    assert_eq!((before.images, after.images, after.per_class.len()), (90, 90, 3));
    assert!(before.accuracy < 0.7 && after.accuracy > 0.9, "{before:?} {after:?}");
    assert!(after.loss < before.loss && after.top5 == 1.0);
    assert_eq!(accuracy(&trained, &val, SIDE, 3, &|_| {}).unwrap(), after);

    // A student with the trained network as its teacher comes closer to it.
    let mut apart = Vec::new();
    let config_student = FitConfig { epochs: 4, augment: Augment::NONE, ..config() };
    fit(&fresh(3), Some(&trained), &train, &config_student, &Device::Cpu, &mut |event| {
        if let FitEvent::Epoch { terms, .. } = event {
            apart.push(terms.distill);
        }
    })
    .unwrap();
    assert!(apart[3] < 0.5 * apart[0], "{apart:?}");

    let refuse = |model: &Model, set: &Dataset, side: usize| {
        let config = FitConfig { imgsz: side.into(), ..config() };
        fit(model, None, set, &config, &Device::Cpu, &mut |_| {}).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refuse(&fresh(3), &train, 32).contains("at 32 px its output is 2 x 2"));
    assert!(refuse(&fresh(2), &train, SIDE).contains("has class 2"));
    let mut boxes = train.clone();
    boxes.items[4].labels[0].w = 0.5;
    boxes.items[4].image = Picture::File("photo.png".into());
    assert!(refuse(&fresh(3), &boxes, SIDE).contains("photo.png has no class as a whole"));
    assert!(accuracy(&fresh(3), &boxes, SIDE, 1, &|_| {}).unwrap_err().to_string().contains("photo.png"));
    assert!(accuracy(&fresh(2), &val, SIDE, 1, &|_| {}).is_err());
}

#[test]
fn slimming_shrinks_scales_and_nothing_else() {
    let folder = set(192, 30);
    let [train, val] = ["train", "val"].map(|split| Dataset::open(folder.path(), split).unwrap());
    let run = |sparsity| {
        let config = FitConfig { sparsity, epochs: 16, lr: 5e-3, ..config() };
        let model = fit(&fresh(3), None, &train, &config, &Device::Cpu, &mut |_| {}).unwrap();
        let mean = |key: &str| {
            let values = model.tensor(key).data();
            values.iter().map(|v| v.abs()).sum::<f32>() / values.len() as f32
        };
        let scales = ["conv1", "conv2", "fc1"].map(|name| mean(&format!("{name}.bn.weight")));
        (scales, mean("fc2.weight"), accuracy(&model, &val, SIDE, 1, &|_| {}).unwrap().accuracy)
    };
    let (plain, slim) = (run(0.0), run(0.4));
    for (plain, slim) in plain.0.iter().zip(slim.0) {
        assert!(slim < 0.8 * plain, "{plain} {slim}");
    }
    assert!(slim.1 > 0.7 * plain.1, "{plain:?} {slim:?}");
    assert!(slim.2 > 0.9, "{slim:?}");
    let config = FitConfig { sparsity: f64::NAN, ..config() };
    let error = fit(&fresh(3), None, &train, &config, &Device::Cpu, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("`sparsity`"), "{error}");
}

/// The job from a fresh classifier to a report, through the worker.
#[test]
fn a_classifier_goes_through_the_whole_job() {
    let folder = set(192, 90);
    let worker = |words: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_secateurs")).current_dir(folder.path()).args(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{words:?}\n{text}");
        String::from_utf8(output.stdout).unwrap()
    };
    worker(&[
        "train",
        "--arch",
        "simple-cnn",
        "--data",
        ".",
        "--epochs",
        "8",
        "--batch",
        "8",
        "--lr",
        "2e-3",
        "-o",
        "cnn.safetensors",
    ]);
    let limit = "0.8";
    for (importance, epochs) in [("fisher", "1"), ("bn-scale", "0")] {
        worker(&[
            "prune",
            "--model",
            "cnn.safetensors",
            "--data",
            "set.yaml",
            "--memory-mib",
            limit,
            "--epochs",
            epochs,
            "--importance",
            importance,
            "--out",
            importance,
        ]);
        let read = |name: &str| fs::read_to_string(folder.path().join(importance).join(name)).unwrap();
        let report: Value = serde_json::from_str(&read("report.json")).unwrap();
        let last = if epochs == "0" { "repaired" } else { "tuned" };
        for stage in ["uncut", "cut", "repaired", last] {
            let figures = &report[stage];
            let known = ["accuracy", "train_accuracy"].iter().all(|key| figures[key].is_number());
            assert!(known && figures.get("map50_95").is_none(), "{stage}: {figures}");
        }
        assert!(report[last]["accuracy"].as_f64().unwrap() > 0.8, "{report}");
        assert!(report[last]["params"].as_u64() < report["uncut"]["params"].as_u64());
        let page = read("report.html");
        assert!(page.contains("gap between the two") && !page.contains("mAP") && !page.contains("NaN"), "{importance}");
    }
    let shown = worker(&["eval", "--model", "bn-scale/model.safetensors", "--data", ".", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["images"], 90);
    assert!(shown["accuracy"].as_f64().unwrap() > 0.8, "{shown}");

    // The pruned network names picture files too.
    let val = Dataset::open(folder.path(), "val").unwrap();
    let mut words = vec!["detect".to_owned(), "--json".into(), "--model".into(), "bn-scale/model.safetensors".into()];
    for (number, item) in val.items.iter().take(20).enumerate() {
        words.push(format!("{number}.png"));
        item.image.load().unwrap().save(&folder.path().join(&words[words.len() - 1])).unwrap();
    }
    let lines = worker(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let right = lines.lines().zip(&val.items).filter(|(line, item)| {
        let found: Value = serde_json::from_str(line).unwrap();
        found["classes"][0]["class"].as_u64() == item.class().map(|class| class as u64)
    });
    assert!(right.count() >= 15 && lines.lines().count() == 20, "{lines}");
}

/// Real digits: 6,000 of them must be enough for an error below 4 %.
#[test]
fn real_digits_are_learned() {
    let Some(folder) = support::data("mnist") else { return };
    let [mut train, mut val] = ["train", "val"].map(|split| Dataset::open(Path::new(&folder), split).unwrap());
    assert_eq!((train.items.len(), val.items.len(), train.names.len()), (60_000, 10_000, 10));
    train.items.truncate(6000);
    val.items.truncate(2000);
    let config = FitConfig { epochs: 1, batch: 32, ..config() };
    let trained = fit(&fresh(10), None, &train, &config, &Device::Cpu, &mut |_| {}).unwrap();
    let found = accuracy(&trained, &val, SIDE, 2, &|_| {}).unwrap();
    assert!(found.accuracy > 0.96, "{found:?}");
}
