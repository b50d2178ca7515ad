//! What is done with an input of each kind, as the programs do it. An error is an answer; a panic, a wrong exit code or
//! endless work is a finding.

use crate::devices::{device, table, times, window};
use crate::jobs::{cache, cached, finished, manifests, plans, reports};
use crate::place::Place;
use crate::target::{How, Target};
use crate::tokens::{GRAPH, IDX, IMAGE, JSON, LABELS, LISTS, TOML, YAML};
use crate::{pickle, seeds};
use secateurs::bundle::sbom::Crates;
use secateurs::bundle::sign::{PublicKey, Signature, Signer};
use secateurs::bundle::{self, Lock};
use secateurs::data::{Dataset, LabelTask, OpenOptions, Shapes};
use secateurs::detector::{Predictor, input_size};
use secateurs::emit::onnx;
use secateurs::engine::{Options, plan_memory};
use secateurs::eval::{Prepared, Rle};
use secateurs::group::groups;
use secateurs::import;
use secateurs::model::{self, Model};
use secateurs::profile;
use secateurs::vision::{Image, Letterbox, Rotated};
use std::fs;
use std::path::Path;
use zip::CompressionMethod;

/// All kinds.
pub const TARGETS: &[Target] = &[
    Target { name: "checkpoint", seeds: seeds::pickles, tokens: &[], how: How::Pickle, run: checkpoint },
    Target {
        name: "zip",
        seeds: seeds::archives,
        tokens: &[b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"m/data.pkl"],
        how: How::Bytes,
        run: foreign,
    },
    Target { name: "tensors", seeds: seeds::tensors, tokens: JSON, how: How::Safetensors, run: foreign },
    Target { name: "model", seeds: seeds::models, tokens: GRAPH, how: How::Safetensors, run: own },
    Target { name: "profile", seeds: seeds::profiles, tokens: TOML, how: How::Bytes, run: profile },
    Target { name: "lock", seeds: seeds::locks, tokens: TOML, how: How::Bytes, run: lock },
    Target { name: "crates", seeds: seeds::crates, tokens: JSON, how: How::Json, run: crates },
    Target { name: "signature", seeds: seeds::signatures, tokens: &[], how: How::Bytes, run: signature },
    Target { name: "dataset", seeds: seeds::datasets, tokens: YAML, how: How::Bytes, run: dataset },
    Target { name: "labels", seeds: seeds::labels, tokens: LABELS, how: How::Bytes, run: labels },
    Target { name: "list", seeds: seeds::lists, tokens: LISTS, how: How::Bytes, run: list },
    Target { name: "annotations", seeds: seeds::annotations, tokens: JSON, how: How::Json, run: annotations },
    Target { name: "idx", seeds: seeds::idx, tokens: IDX, how: How::Bytes, run: idx },
    Target { name: "image", seeds: seeds::images, tokens: IMAGE, how: How::Bytes, run: image },
    Target { name: "device", seeds: seeds::devices, tokens: JSON, how: How::Json, run: device },
    Target { name: "window", seeds: seeds::windows, tokens: JSON, how: How::Json, run: window },
    Target { name: "times", seeds: seeds::times, tokens: JSON, how: How::Json, run: times },
    Target { name: "table", seeds: seeds::tables, tokens: JSON, how: How::Json, run: table },
    Target {
        name: "plan",
        seeds: plans,
        tokens: TOML,
        how: How::Bytes,
        run: |place, bytes| finished(place, "plan.toml", bytes),
    },
    Target {
        name: "report",
        seeds: reports,
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| finished(place, "report.json", bytes),
    },
    Target {
        name: "manifest",
        seeds: manifests,
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| finished(place, "manifest.json", bytes),
    },
    Target {
        name: "cache-importance",
        seeds: || cached("importance-"),
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| cache(place, "importance-", bytes),
    },
    Target {
        name: "cache-latency",
        seeds: || cached("latency-"),
        tokens: JSON,
        how: How::Json,
        run: |place, bytes| cache(place, "latency-", bytes),
    },
    Target {
        name: "cache-tuned",
        seeds: || cached("tuned-"),
        tokens: JSON,
        how: How::Safetensors,
        run: |place, bytes| cache(place, "tuned-", bytes),
    },
];

/// The sizes up to which a network is also run: what is larger takes long by right.
const MAX_BYTES: usize = 64 << 20;
const MAX_MACS: usize = 20_000_000;

fn checkpoint(_: &mut Place, bytes: &[u8]) {
    foreign(&mut Place::default(), &pickle::archive(bytes, CompressionMethod::Stored));
}

fn foreign(_: &mut Place, bytes: &[u8]) {
    if let Ok(model) = import::from_bytes(Path::new("fuzz.pt"), bytes) {
        look(&model);
    }
}

fn own(_: &mut Place, bytes: &[u8]) {
    if let Ok(model) = model::from_bytes(Path::new("fuzz.safetensors"), bytes) {
        let again = model::to_bytes(&model).expect("what was read can be written");
        model::from_bytes(Path::new("again.safetensors"), &again).expect("what was written can be read");
        look(&model);
        use_it(&model);
    }
}

/// What `inspect` does.
fn look(model: &Model) {
    let _ = groups(&model.graph);
    let _ = model.graph.cost(32, 32);
    let _ = input_size(model, Some(32.into())).is_ok() && input_size(model, None).is_ok();
}

/// What `detect` and `export` do.
fn use_it(model: &Model) {
    let options = Options { threads: 1, ..Options::default() };
    let (Ok(memory), Ok(cost)) = (plan_memory(&model.graph, 32, 32, &options), model.graph.cost(32, 32)) else {
        return;
    };
    if memory.total() > MAX_BYTES || cost.macs > MAX_MACS {
        return;
    }
    let _ = onnx::export(model, 32, 32);
    if let Ok(mut predictor) = Predictor::new(model, 32, &options) {
        predictor.set_thresholds(0.1, 0.7);
        let image = Image::new(40, 30, (0..3 * 40 * 30).map(|i| (i % 251) as u8).collect());
        if let Ok(found) = predictor.find(Path::new("x.png"), &image, model) {
            let _ = serde_json::to_string(&found);
        }
    }
}

fn profile(_: &mut Place, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match profile::parse(Path::new("fuzz.toml"), &text) {
        Ok(profile) => drop(serde_json::to_string(&profile)),
        Err(error) => error.problems().iter().for_each(|problem| drop(problem.to_string())),
    }
}

fn crates(_: &mut Place, bytes: &[u8]) {
    let _ = Crates::parse(bytes);
}

/// A file of minisign's that could be any: a signature, a public or a secret key.
fn signature(place: &mut Place, bytes: &[u8]) {
    let path = place.file("release.key", bytes);
    let _ = Signer::open(&path, None);
    let key = PublicKey::open(seeds::PUBLIC_KEY).unwrap();
    if let Ok(signature) = Signature::parse(bytes) {
        let _ = signature.check(b"manifest", &key);
    }
    let _ = PublicKey::open(&path.to_string_lossy());
}

/// What is read is also entered again.
fn lock(place: &mut Place, bytes: &[u8]) {
    let path = place.file("secateurs.lock", bytes);
    let Ok(Some(lock)) = Lock::read(&path) else { return };
    for (name, target) in lock.targets.iter().take(3) {
        let _ = target.inputs.differences(&target.inputs);
        let before = fs::read(&path).unwrap();
        match bundle::enter(&path, name, target) {
            Ok(()) => assert!(Lock::read(&path).is_ok_and(|read| read.as_ref() == Some(&lock)), "entered another lock"),
            Err(_) => assert!(fs::read(&path).unwrap() == before, "a lock that was refused has changed"),
        }
    }
}

/// Paths that lead out of the set's folder may name anything of this machine.
fn leads_out(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let parts = text.split(|c: char| c.is_whitespace() || "\"'[]{},:&*!|>-".contains(c));
    text.matches("..").count() > 1 || text.contains('\\') || parts.into_iter().any(|part| part.starts_with('/'))
}

fn dataset(place: &mut Place, bytes: &[u8]) {
    if leads_out(bytes) {
        return;
    }
    let yaml = place.dataset();
    fs::write(&yaml, bytes).unwrap();
    for split in ["train", "val", "test"] {
        read(&yaml, split);
    }
}

fn labels(place: &mut Place, bytes: &[u8]) {
    let yaml = place.dataset();
    place.file("set/labels/train/0.txt", bytes);
    read(&yaml, "train");
    for task in [LabelTask::Segment, LabelTask::Obb] {
        let options = OpenOptions { task, ..OpenOptions::default() };
        let Ok(set) = Dataset::open_with(&yaml, "train", &options) else { continue };
        for item in &set.items {
            match &item.shapes {
                Shapes::Outlines(all) => {
                    assert_eq!(all.len(), item.labels.len());
                    for outline in all {
                        let points: Vec<[f64; 2]> = outline.iter().map(|p| p.map(|v| 64.0 * f64::from(v))).collect();
                        assert!(Rle::from_outline(&points, [64, 48]).area() <= 64 * 48);
                    }
                }
                Shapes::Corners(all) => {
                    assert_eq!(all.len(), item.labels.len());
                    assert!(all.iter().all(|corners| Rotated::around(corners).is_finite()));
                }
                _ => assert!(item.labels.is_empty(), "{:?}", item.shapes),
            }
        }
    }
}

fn list(place: &mut Place, bytes: &[u8]) {
    if leads_out(bytes) {
        return;
    }
    place.dataset();
    let yaml = place.file("set/listed.yaml", b"path: .\ntrain: list.txt\nnames: [a, b, c]\n");
    place.file("set/list.txt", bytes);
    read(&yaml, "train");
}

fn read(place: &Path, split: &str) {
    if let Ok(set) = Dataset::open(place, split) {
        for item in set.items.iter().take(3) {
            let _ = item.image.load();
            for label in &item.labels {
                assert!(label.class < set.names.len().max(1), "class {} of {}", label.class, set.names.len());
                assert!([label.cx, label.cy, label.w, label.h].iter().all(|v| (0.0..=1.0).contains(v)), "{label:?}");
            }
        }
    }
}

fn annotations(place: &mut Place, bytes: &[u8]) {
    let yaml = place.dataset();
    place.file("set/annotations/instances_train.json", bytes);
    if let Ok(set) = Dataset::open(&yaml, "train") {
        let _ = Prepared::new(&set, 32);
    }
}

fn idx(place: &mut Place, bytes: &[u8]) {
    let packed = bytes.starts_with(&[0x1f, 0x8b]);
    let _ = fs::remove_dir_all(place.folder.join("idx"));
    place.file(&format!("idx/train-images-idx3-ubyte{}", if packed { ".gz" } else { "" }), bytes);
    place.file("idx/train-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 2, 0]);
    read(&place.folder.join("idx"), "train");
    place.file("idx/train-images-idx3-ubyte", &seeds::idx()[0]);
    place.file("idx/train-labels-idx1-ubyte", bytes);
    read(&place.folder.join("idx"), "train");
}

fn image(_: &mut Place, bytes: &[u8]) {
    if let Ok(image) = Image::decode(Path::new("fuzz.png"), bytes) {
        assert_eq!(image.data().len(), 3 * image.width() * image.height());
        Letterbox::new(image.width(), image.height(), 32, 32).forward(&image, &mut vec![0.0; 3 * 32 * 32]);
        let _ = (image.shrunk(16), image.centre_square(16));
    }
}
