//! What is kept between runs: used where it is whole and of the same inputs, else made anew, with a note.

use assert_cmd::Command;
use secateurs::data::{Dataset, Item, Label, demo};
use secateurs::model::{Info, Model};
use secateurs::train::Device;
use secateurs::train::{FitConfig, FitEvent, TrainError, fit, init};
use secateurs::vision::Image;
use secateurs::zoo::yolo11::{Scale, detect};
use std::fs;
use std::path::{Path, PathBuf};

const SIDE: usize = 32;

/// Grey pictures with one object each, of the first class or of the second, alternately.
fn set(folder: &Path, count: usize) -> Dataset {
    let one = |number: usize| {
        let path = folder.join(format!("{number}.png"));
        Image::new(SIDE, SIDE, vec![40 + 10 * number as u8; 3 * SIDE * SIDE]).save(&path).unwrap();
        let labels = vec![Label { class: number % 2, cx: 0.5, cy: 0.5, w: 0.4, h: 0.4 }];
        Item { labels, ..Item::new(path.into()) }
    };
    Dataset { items: (0..count).map(one).collect(), names: vec!["a".into(), "b".into()], ..Dataset::default() }
}

/// A small detector, every second weight of its kernels at zero.
fn sparse(seed: u64) -> Model {
    let scale = Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let graph = detect(scale, 2).unwrap();
    let mut weights = init(&graph, seed);
    for tensor in weights.values_mut().filter(|tensor| tensor.shape().len() > 1) {
        tensor.data_mut().iter_mut().step_by(2).for_each(|v| *v = 0.0);
    }
    Model::new(graph, weights, Info::default()).unwrap()
}

/// What a training went on from, and what was wrong with what it found.
#[derive(Default)]
struct Seen {
    resumed: Option<usize>,
    aside: Option<(String, PathBuf)>,
}

fn train(model: &Model, set: &Dataset, config: &FitConfig) -> Result<(Model, Seen), TrainError> {
    let mut seen = Seen::default();
    let trained = fit(model, Some(model), set, config, &Device::Cpu, &mut |event| match event {
        FitEvent::Resumed { epochs, .. } => seen.resumed = Some(epochs),
        FitEvent::SetAside { problem, aside } => seen.aside = Some((problem, aside)),
        _ => {}
    })?;
    Ok((trained, seen))
}

fn config(folder: &Path) -> FitConfig {
    let checkpoint = Some(folder.join("training"));
    FitConfig {
        epochs: 2,
        batch: 2,
        imgsz: SIDE.into(),
        keep_zeros: true,
        threads: 1,
        checkpoint,
        ..FitConfig::default()
    }
}

#[test]
fn the_training_of_a_sparse_network_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (set, model, config) = (set(folder.path(), 4), sparse(1), config(folder.path()));
    let (first, seen) = train(&model, &set, &config).unwrap();
    assert!(seen.resumed.is_none() && seen.aside.is_none());
    let (second, seen) = train(&model, &set, &config).unwrap();
    assert_eq!((seen.resumed, seen.aside), (Some(2), None));
    assert_eq!(second.weights, first.weights);
}

#[test]
fn a_damaged_training_is_set_aside_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (set, model, config) = (set(folder.path(), 4), sparse(1), config(folder.path()));
    let path = folder.path().join("training");
    let (first, _) = train(&model, &set, &config).unwrap();
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let name = b"train.epochs\\\":\\\"";
    let counter = good.windows(name.len()).position(|part| part == name).unwrap() + name.len();
    let mut later = good.clone();
    later[counter] = b'1';
    let model_only = secateurs::model::to_bytes(&model).unwrap();
    let cases = [
        (good[..good.len() / 2].to_vec(), "safetensors"),
        (Vec::new(), "safetensors"),
        (flipped(good.len() - 40), ""),
        (flipped(good.len() / 2), ""),
        (later, "damaged"),
        (model_only, "not a checkpoint"),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, &bytes).unwrap();
        let (again, seen) = train(&model, &set, &config).unwrap();
        let (problem, aside) = seen.aside.expect("it must be reported");
        assert!(problem.contains(expected) && seen.resumed.is_none(), "{expected}: {problem}");
        assert_eq!(again.weights, first.weights, "{expected}");
        assert!(fs::read(&aside).unwrap() == bytes && fs::read(&path).unwrap() == good, "{expected}");
    }
}

#[test]
fn the_training_of_other_inputs_is_not_continued() {
    let folder = tempfile::tempdir().unwrap();
    let (same, model, config) = (set(folder.path(), 4), sparse(1), config(folder.path()));
    train(&model, &same, &config).unwrap();
    let mut labels = same.clone();
    labels.items[0].labels[0].class = 1;
    let pictures = set(
        &{
            let other = folder.path().join("other");
            fs::create_dir(&other).unwrap();
            other
        },
        4,
    );
    Image::new(SIDE, SIDE, vec![7; 3 * SIDE * SIDE]).save(pictures.items[3].image.path()).unwrap();
    let names = Dataset { names: vec!["a".into(), "c".into()], ..same.clone() };
    let longer = FitConfig { epochs: 3, ..config.clone() };
    let other = sparse(2);
    let cases = [
        (&model, &labels, &config, "other data"),
        (&model, &pictures, &config, "other data"),
        (&model, &names, &config, "other data"),
        (&other, &same, &config, "another network to start from, another teacher"),
        (&model, &same, &longer, "epochs 2 instead of 3"),
    ];
    for (model, set, config, expected) in cases {
        let problem = train(model, set, config).map(|_| ()).unwrap_err().to_string();
        assert!(problem.contains(expected) && problem.contains("training: was left by another training"), "{problem}");
    }
    // The same pictures elsewhere are the same data.
    let moved = set(&folder.path().join("other"), 4);
    assert_eq!(train(&model, &moved, &config).unwrap().1.resumed, Some(2));
}

#[test]
fn drawn_pictures_that_are_missing_or_changed_are_drawn_again() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("drawn");
    let ensure = || demo::ensure(&place, 5, 3).unwrap().1;
    assert_eq!((ensure(), ensure()), (0, 0));
    let files = ["images/train/00002.png", "labels/train/00001.txt", "images/val/00000.png", "labels/val/00000.txt"];
    let good = files.map(|file| fs::read(place.join(file)).unwrap());
    let whole = || files.iter().zip(&good).all(|(file, good)| fs::read(place.join(file)).unwrap() == *good);
    fs::remove_file(place.join(files[0])).unwrap();
    assert!(ensure() == 1 && whole());
    fs::write(place.join(files[1]), "0 0.5 0.5 0.1 0.1\n").unwrap();
    fs::write(place.join(files[2]), &good[2][..good[2].len() / 2]).unwrap();
    fs::remove_file(place.join(files[3])).unwrap();
    assert!(ensure() == 2 && whole() && ensure() == 0);
    fs::remove_dir_all(place.join("images/val")).unwrap();
    assert!(ensure() == 3 && whole());
    fs::write(place.join("sha256sums.txt"), "nonsense").unwrap();
    assert!(ensure() == 8 && whole() && ensure() == 0);
}

/// `prune` of the demo's model on a few small pictures; what it says.
fn prune(folder: &Path, flags: &[&str]) -> String {
    prune_on(folder, &demo::write(&folder.join("drawn"), 8, 4).unwrap(), flags)
}

/// The same on other pictures.
fn prune_on(folder: &Path, data: &Path, flags: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
    command.args(["prune", "--imgsz", "64", "--calibration-images", "4"]);
    if !flags.contains(&"--epochs") {
        command.args(["--epochs", "1"]);
    }
    command.arg("--model");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/demo.safetensors")).arg("--data").arg(data);
    command.arg("--cache").arg(folder.join("cache")).arg("--out").arg(folder.join("out")).args(flags);
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}");
    text
}

/// What is trained, chosen and shipped does not depend on validation images: with others, and other labels, the weights
/// are the same.
#[test]
fn validation_images_choose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--strategy", "unstructured", "--file-mib", "64", "--hold-out", "0.25", "--epochs", "2"];
    let weights = |folder: &Path| secateurs::model::load(&folder.join("out/model.safetensors")).unwrap().weights;
    let clean = folder.path().join("clean");
    fs::create_dir(&clean).unwrap();
    let told = prune(&clean, &flags);
    assert!(told.contains("2 images are held back to choose the epoch"), "{told}");
    let poisoned = folder.path().join("poisoned");
    fs::create_dir(&poisoned).unwrap();
    let set = demo::write(&poisoned.join("drawn"), 8, 4).unwrap();
    for number in 0..4 {
        let place = |part: &str, ending: &str| poisoned.join(format!("drawn/{part}/val/{number:05}.{ending}"));
        Image::new(160, 160, vec![200; 3 * 160 * 160]).save(&place("images", "png")).unwrap();
        fs::write(place("labels", "txt"), "1 0.5 0.5 0.9 0.9\n").unwrap();
    }
    prune_on(&poisoned, &set, &flags);
    assert!(weights(&clean) == weights(&poisoned));
    let report = |folder: &Path| {
        let text = fs::read_to_string(folder.join("out/report.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let (a, b) = (report(&clean), report(&poisoned));
    assert_eq!(a["training"], b["training"]);
    assert_ne!(a["tuned"]["map50_95"], b["tuned"]["map50_95"], "the other images do judge");
}

/// The entry of the cache whose name begins like this.
fn entry(folder: &Path, prefix: &str) -> PathBuf {
    let all = fs::read_dir(folder.join("cache")).unwrap().map(|entry| entry.unwrap().path());
    all.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix)).unwrap()
}

#[test]
fn a_sparse_job_runs_twice_and_after_its_training_was_truncated() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--strategy", "unstructured", "--file-mib", "64"];
    let text = prune(folder.path(), &flags);
    // Nothing was searched, so nothing is certified.
    let report = fs::read_to_string(folder.path().join("out/report.json")).unwrap();
    let search = &serde_json::from_str::<serde_json::Value>(&report).unwrap()["search"];
    assert!(search["gap"].is_null() && search["lower_bound"].is_null() && search["loss"].is_null(), "{search}");
    let page = fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    assert!(!text.contains("certified") && !page.contains("certified gap"), "{text}");
    let model = fs::read(folder.path().join("out/model.safetensors")).unwrap();
    assert!(prune(folder.path(), &flags).contains("resumed after 1 epochs"));
    let kept = entry(folder.path(), "tuned-");
    let bytes = fs::read(&kept).unwrap();
    fs::write(&kept, &bytes[..bytes.len() - 100]).unwrap();
    let text = prune(folder.path(), &flags);
    assert!(text.contains("set aside as"), "{text}");
    assert!(fs::read(folder.path().join("out/model.safetensors")).unwrap() == model);
}
