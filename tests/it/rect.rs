//! Rectangular images: what letterboxing changes and what it must not, and the whole job at height and width.

use crate::forward::yolo;
use crate::harness::Bench;
use crate::support;
use secateurs::bench;
use secateurs::detector::{Detector, DetectorError, Predictor, SizeError, check_size};
use secateurs::emit::onnx::proto::ModelProto;
use secateurs::engine::Options;
use secateurs::graph::{Builder, Graph, Head, Op};
use secateurs::model::{self, Info, Model, tensors};
use secateurs::size::ImageSize;
use secateurs::vision::{Candidate, Detection, Image, Letterbox, NmsOptions, Xyxy, nms};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const MODEL: &str = "models/yolo11n-coco.safetensors";
const GOLDEN: &str = "golden/forward-yolo11n-coco.safetensors";
const PHOTO: &str = "coco-mini/images/val/000000458054.jpg";

/// Detections with a score above this are sure enough to be the same in two runs.
const SURE: f32 = 0.5;

/// The worst overlap of a sure detection of `a` with the best of the same class in `b`, and the largest difference of the
/// two's scores.
fn apart(a: &[Detection], b: &[Detection]) -> (f32, f32) {
    let mut worst = (1.0f32, 0.0f32);
    for one in a.iter().filter(|d| d.score > SURE) {
        let same = b.iter().filter(|other| other.class == one.class);
        let best = same.max_by(|x, y| x.bbox.iou(&one.bbox).total_cmp(&y.bbox.iou(&one.bbox)));
        let (iou, score) = best.map_or((0.0, 1.0), |d| (d.bbox.iou(&one.bbox), (d.score - one.score).abs()));
        worst = (worst.0.min(iou), worst.1.max(score));
    }
    worst
}

/// What ours is asked for.
const ASKED: NmsOptions = NmsOptions { score: 0.05, ..NmsOptions::EVALUATION };

/// What suppression keeps of the original's decoded outputs `[84, cells]`, in pixels of the photo.
fn golden(decoded: &[f32], letterbox: &Letterbox) -> Vec<Detection> {
    let cells = decoded.len() / 84;
    let of = |row: usize, cell: usize| decoded[row * cells + cell];
    let candidate = |cell: usize| {
        let class = (0..80).max_by(|a, b| of(4 + a, cell).total_cmp(&of(4 + b, cell))).unwrap();
        let [x, y, w, h] = [0, 1, 2, 3].map(|row| of(row, cell));
        let bbox = Xyxy([x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]);
        Candidate { detection: Detection { class, score: of(4 + class, cell), bbox }, cell }
    };
    let candidates = (0..cells).map(candidate).filter(|c| c.detection.score > ASKED.score).collect();
    let kept = nms(candidates, &ASKED).into_iter().map(|kept| kept.detection);
    kept.map(|d| Detection { bbox: letterbox.to_source(d.bbox), ..d }).collect()
}

fn found(model: &Model, size: impl Into<ImageSize>, image: &Image) -> Vec<Detection> {
    let mut detector = Detector::new(model, size, &Options { threads: 2, ..Options::default() }).unwrap();
    detector.options = NmsOptions { multi_label: false, ..ASKED };
    detector.detect(image).unwrap().into_iter().map(|object| object.detection).collect()
}

/// The original's forward passes of one photo in a square and in a rectangle differ by what grey bars do to a network.
/// Ours find what the original finds in each, and differ from each other by no more.
#[test]
fn a_rectangle_finds_what_the_square_finds() {
    let (Some(model), Some(path), Some(photo)) = (yolo(MODEL), support::data(GOLDEN), support::data(PHOTO)) else {
        return;
    };
    let goldens = tensors(&path, &std::fs::read(&path).unwrap()).unwrap();
    let image = Image::open(&photo).unwrap();
    let mut both = Vec::new();
    for prefix in ["sq", "rect"] {
        let input = &goldens[&format!("{prefix}.input")];
        let size = ImageSize::from([input.shape()[2], input.shape()[3]]);
        let letterbox = Letterbox::new(image.width(), image.height(), size.width, size.height);
        let expected = golden(goldens[&format!("{prefix}.decoded")].data(), &letterbox);
        let ours = found(&model, size, &image);
        // The photo is decoded and scaled by other programs: the network sees the last bit of a byte differently.
        let (iou, score) = apart(&ours, &expected);
        assert!(ours.iter().any(|d| d.score > SURE) && iou > 0.97 && score < 0.03, "{prefix}: {iou} {score}");
        both.push((ours, expected));
    }
    let [(square, square_golden), (wide, wide_golden)] = &both[..] else { panic!() };
    for (from, to, golden) in
        [(square, wide, [square_golden, wide_golden]), (wide, square, [wide_golden, square_golden])]
    {
        let (allowed, ours) = (apart(golden[0], golden[1]), apart(from, to));
        eprintln!("overlap and score of square and rectangle: the original {allowed:?}, ours {ours:?}");
        assert!(ours.0 > allowed.0 - 0.03 && ours.1 < allowed.1 + 0.03, "{ours:?} {allowed:?}");
    }
}

/// Photos of all kinds: in a rectangle of the photo's own shape a network finds what it finds in the square around it.
#[test]
fn photos_lose_nothing_with_their_grey_bars() {
    let (Some(model), Some(folder)) = (yolo(MODEL), support::data("images")) else { return };
    let mut photos: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    photos.sort();
    let (mut sure, mut shared) = (0, 0);
    for photo in photos {
        let image = Image::open(&photo).unwrap();
        let (w, h) = (image.width() as f64, image.height() as f64);
        let fitting = |side: f64, other: f64| ((320.0 * side / other.max(side)) as usize).next_multiple_of(32);
        let size = ImageSize { height: fitting(h, w), width: fitting(w, h) };
        let (square, own) = (found(&model, 320, &image), found(&model, size, &image));
        for (a, b) in [(&square, &own), (&own, &square)] {
            let same = |one: &Detection| b.iter().any(|d| d.class == one.class && d.bbox.iou(&one.bbox) > 0.8);
            let clear: Vec<&Detection> = a.iter().filter(|d| d.score > SURE).collect();
            (sure, shared) = (sure + clear.len(), shared + clear.iter().filter(|one| same(one)).count());
        }
    }
    eprintln!("{shared} of {sure} sure detections are the same");
    assert!(sure > 20 && shared as f64 >= 0.95 * sure as f64, "{shared} of {sure}");
}

fn classifier() -> Graph {
    let mut builder = Builder::default();
    let input = builder.push("images", Op::Input { channels: 3 }, &[]);
    let mean = builder.push("mean", Op::GlobalAvgPool, &[input]);
    builder.finish(vec![mean], Head::Classify { nc: 3 }).unwrap()
}

/// A classifier whose answer is the mean of each channel.
pub fn classifier_model() -> Model {
    Model::new(classifier(), Default::default(), Info::default()).unwrap()
}

#[test]
fn sizes_that_a_network_cannot_take_are_named() {
    let detector = crate::harness::model().graph;
    let refused = |size: [usize; 2], graph: &Graph| check_size(size.into(), graph).map_err(|e| e.to_string());
    assert_eq!(refused([64, 96], &detector), Ok([64, 96].into()));
    let cases = [
        ([64, 97], &detector, "imgsz 64x97: expected multiples of 8, for example 64x104"),
        ([0, 64], &detector, "imgsz 0x64: expected multiples of 8, for example 8x64"),
        ([64, 5000], &detector, "imgsz 64x5000: expected multiples of 8, for example 64x4096"),
        ([65, 65], &detector, "imgsz 65: expected a multiple of 8, for example 72"),
    ];
    for (size, graph, expected) in cases {
        assert_eq!(refused(size, graph).unwrap_err(), expected);
    }
    let (graph, size) = (classifier(), ImageSize::from([32, 64]));
    let expected = "imgsz 32x64: a classifier sees a square: expected one side, for example 32";
    assert_eq!(refused([32, 64], &graph).unwrap_err(), expected);
    let model = classifier_model();
    let made = Predictor::new(&model, size, &Options::default());
    assert!(matches!(made, Err(DetectorError::Size(SizeError::Square { .. }))));
    assert!(Predictor::new(&model, 32, &Options::default()).is_ok());
}

/// All keys of a JSON document, with those around them.
fn keys(value: &Value, around: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            let key = format!("{around}.{key}");
            keys(value, &key, found);
            found.insert(key);
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, &format!("{around}[]"), found)),
        _ => {}
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// `prune --imgsz 64,96`, and what came of it through bench, detect, eval and export, without naming the size again.
#[test]
fn the_whole_job_runs_at_height_and_width() {
    let bench = Bench::new();
    let mut reports = Vec::new();
    for (imgsz, out) in [("64,96", "wide"), ("64", "square")] {
        let output = bench.prune_at(imgsz, 4.0, out, "cache").output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{imgsz}: {text}");
        reports.push(json(&bench.path(out).join("report.json")));
    }
    assert_eq!((&reports[0]["imgsz"], &reports[1]["imgsz"]), (&serde_json::json!([64, 96]), &64.into()));
    assert!(reports[0]["device"].as_str().unwrap().ends_with(", 64x96 px"), "{}", reports[0]["device"]);
    assert!(reports[1]["device"].as_str().unwrap().ends_with(", 64 px"), "{}", reports[1]["device"]);
    let macs = |report: &Value| report["uncut"]["macs"].as_u64().unwrap();
    assert_eq!(2 * macs(&reports[0]), 3 * macs(&reports[1]));
    let [wide, square] = [0, 1].map(|i| {
        let mut found = BTreeSet::new();
        keys(&reports[i], "", &mut found);
        found
    });
    // Photos are there where the networks disagree.
    let same =
        |found: &BTreeSet<String>| found.iter().filter(|key| !key.contains("photos")).cloned().collect::<Vec<_>>();
    assert_eq!(same(&wide), same(&square));
    let page = std::fs::read_to_string(bench.path("wide/report.html")).unwrap();
    assert!(page.contains("64 \u{d7} 96 (height \u{d7} width)"), "the page does not say the size");
    let path = bench.path("wide/model.safetensors");
    let shipped = model::load(&path).unwrap();
    assert_eq!(shipped.info.imgsz, Some([64, 96].into()));

    let worker = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_secateurs"));
        let output = command.args(arguments).current_dir(bench.path("wide")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let own = ["--model", "model.safetensors"];
    let timed = worker(&[&["bench", "--runs", "3", "--warmup", "1", "--json"], &own[..]].concat());
    let timed: bench::Measured = serde_json::from_str(&timed).unwrap();
    assert_eq!(timed.imgsz, [64, 96].into());
    assert!(worker(&[&["bench", "--runs", "2", "--imgsz", "32x64"], &own[..]].concat()).starts_with("32x64 px, "));
    let inspected: Value = serde_json::from_str(&worker(&[&["inspect", "--json"], &own[..]].concat())).unwrap();
    assert_eq!(inspected["imgsz"], serde_json::json!([64, 96]));
    assert_eq!(inspected["layers"][0]["shape"], serde_json::json!([3, 64, 96]));
    let data = bench.path("in/data").join("data.yaml");
    let split = worker(&[&["eval", "--data", data.to_str().unwrap()], &own[..]].concat());
    assert!(split.contains("images at 64x96 px"), "{split}");
    let photo = bench.path("in/photo.png");
    Image::new(192, 128, vec![90; 3 * 192 * 128]).save(&photo).unwrap();
    worker(&[&["detect", photo.to_str().unwrap(), "--json"], &own[..]].concat());
    worker(&[&["export", "--format", "onnx", "-o", "model.onnx"], &own[..]].concat());
    let file =
        <ModelProto as prost::Message>::decode(&std::fs::read(bench.path("wide/model.onnx")).unwrap()[..]).unwrap();
    let input = file.graph.unwrap().input.remove(0).r#type.unwrap().tensor_type.unwrap().shape.unwrap();
    assert_eq!(input.dim.iter().map(|d| d.dim_value.unwrap()).collect::<Vec<_>>(), [1, 3, 64, 96]);
}
