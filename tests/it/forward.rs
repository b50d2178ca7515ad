//! The CPU engine and the plain reference against the golden forward passes.

use crate::support;
use secateurs::engine::{Engine, Options, reference};
use secateurs::graph::{Head, NodeId};
use secateurs::import;
use secateurs::model::{Model, Weights, tensors};
use secateurs::vision::decode_all;

/// A model from a plain safetensors file with the names of a checkpoint.
pub fn yolo(path: &str) -> Option<Model> {
    Some(import::load(&support::data(path)?).unwrap())
}

fn goldens(path: &str) -> Option<Weights> {
    let path = support::data(path)?;
    Some(tensors(&path, &std::fs::read(&path).unwrap()).unwrap())
}

/// Boxes (centre and size in pixels) and scores `[4 + nc, N]` from raw logits, in f64.
fn decode(head: &Head, levels: &[(&[f32], &[f32], usize, usize)]) -> Vec<f64> {
    let Head::Detect { nc, reg_max, strides } = head else { panic!("not a detector") };
    let total: usize = levels.iter().map(|(_, _, h, w)| h * w).sum();
    let mut out = vec![0.0; (4 + nc) * total];
    let mut at = 0;
    for ((boxes, classes, h, w), stride) in levels.iter().zip(strides) {
        let (n, stride) = (h * w, *stride as f64);
        for i in 0..n {
            let side = |s: usize| {
                let bins = (0..*reg_max).map(|b| f64::from(boxes[(s * reg_max + b) * n + i]));
                let (mut sum, mut mean) = (0.0, 0.0);
                for (bin, e) in bins.map(f64::exp).enumerate() {
                    sum += e;
                    mean += e * bin as f64;
                }
                mean / sum
            };
            let [left, top, right, bottom] = [0, 1, 2, 3].map(side);
            let (cx, cy) = ((i % w) as f64 + 0.5, (i / w) as f64 + 0.5);
            let bbox = [cx + (right - left) / 2.0, cy + (bottom - top) / 2.0, left + right, top + bottom];
            bbox.iter().enumerate().for_each(|(row, v)| out[row * total + at + i] = v * stride);
            for c in 0..*nc {
                out[(4 + c) * total + at + i] = 1.0 / (1.0 + (-f64::from(classes[c * n + i])).exp());
            }
        }
        at += n;
    }
    out
}

/// One golden: the model's file, the golden's file, the prefix of its tensors, and the tolerances on boxes (pixels) and
/// scores. The random networks amplify rounding: their f32 goldens lie 0.0145 and 0.0065 px from the f64 reference, and
/// the PyTorch that made them, on another processor or with batch norm folded, lies up to 0.028 and 0.013 px from
/// them. The tolerance there is twice that: a sum in another order, and nothing more.
const CASES: [(&str, &str, &str, [f64; 2]); 4] = [
    ("models/yolo11n-coco.safetensors", "golden/forward-yolo11n-coco.safetensors", "sq.", [5e-3, 1e-4]),
    ("models/yolo11n-coco.safetensors", "golden/forward-yolo11n-coco.safetensors", "rect.", [5e-3, 1e-4]),
    (
        "golden/deep-narrow/deep-narrow-l-w025-nc3.safetensors",
        "golden/deep-narrow/deep-narrow-l-w025-nc3-forward.safetensors",
        "",
        [5e-2, 2e-4],
    ),
    ("golden/deep-narrow/n-nc1.safetensors", "golden/deep-narrow/n-nc1-forward.safetensors", "", [2e-2, 1e-4]),
];

/// The graph's outputs for one input of a height and a width.
pub type Runner = fn(&Model, &[f32], usize, usize) -> Vec<Vec<f32>>;

/// Every case against a runner.
pub fn check(run: Runner) {
    for (model_path, golden_path, prefix, tolerance) in CASES {
        let (Some(model), Some(golden)) = (yolo(model_path), goldens(golden_path)) else { return };
        let input = &golden[&format!("{prefix}input")];
        let (height, width) = (input.shape()[2], input.shape()[3]);
        let outputs = run(&model, input.data(), height, width);
        let case = format!("{golden_path} {prefix}");
        let mut levels = Vec::new();
        for (level, pair) in outputs.chunks(2).enumerate() {
            let raw = &golden[&format!("{prefix}head.{level}")];
            let (h, w) = (raw.shape()[2], raw.shape()[3]);
            let joined: Vec<f32> = pair.concat();
            assert_eq!(joined.len(), raw.data().len(), "{case}: level {level}");
            let worst = joined.iter().zip(raw.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(f64::from(worst) <= tolerance[0], "{case}: logits of level {level} differ by {worst}");
            levels.push((&pair[0][..], &pair[1][..], h, w));
        }
        let decoded = decode(&model.graph.head, &levels);
        let expected = golden[&format!("{prefix}decoded")].data();
        assert_eq!(decoded.len(), expected.len(), "{case}");
        let boxes = 4 * decoded.len() / (4 + model.graph.classes());
        let worst = |range: std::ops::Range<usize>| {
            range.map(|i| (decoded[i] - f64::from(expected[i])).abs()).fold(0.0, f64::max)
        };
        let (pixels, score) = (worst(0..boxes), worst(boxes..decoded.len()));
        assert!(pixels <= tolerance[0], "{case}: boxes differ by {pixels} px");
        assert!(score <= tolerance[1], "{case}: scores differ by {score}");
        eprintln!("{case}: {pixels:.5} px, {score:.2e}");
    }
}

/// Largest difference, as a share of the expected values' size where that is above 1.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

/// The golden files of the other tasks: raw outputs, and everything decoded. The weights are random.
pub fn check_tasks(run: Runner) {
    for (task, extra) in
        [("seg", Some("mask_coefficient")), ("pose", Some("kpts")), ("obb", Some("angle")), ("cls", None)]
    {
        let files = ["", "-forward"].map(|part| format!("golden/tasks/yolo11n-{task}-random{part}.safetensors"));
        let (Some(model), Some(golden)) = (yolo(&files[0]), goldens(&files[1])) else { return };
        let input = &golden["input"];
        let size = (input.shape()[2], input.shape()[3]);
        let outputs = run(&model, input.data(), size.0, size.1);
        let Some(extra) = extra else {
            let error = relative(&outputs[0], golden["out.1"].data());
            assert!(error <= 1e-4, "{task}: logits differ by {error}");
            continue;
        };
        // The golden's rows run over all levels, ours level by level.
        let check = |what: &str, levels: &[&Vec<f32>]| {
            let expected = &golden[&format!("out.1.{what}")];
            let (rows, cells) = (expected.shape()[1], expected.shape()[2]);
            let mut joined = Vec::new();
            for row in 0..rows {
                levels
                    .iter()
                    .for_each(|l| joined.extend_from_slice(&l[row * l.len() / rows..(row + 1) * l.len() / rows]));
            }
            assert_eq!(joined.len(), rows * cells, "{task} {what}");
            let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
            if what == "angle" {
                joined.iter_mut().for_each(|v| *v = (sigmoid(*v) - 0.25) * std::f32::consts::PI);
            }
            let error = relative(&joined, expected.data());
            assert!(error <= 1e-4, "{task}: {what} differ by {error}");
        };
        let of = |at: [usize; 3]| at.map(|i| &outputs[i]);
        check("boxes", &of([0, 2, 4]));
        check("scores", &of([1, 3, 5]));
        check(extra, &of([6, 7, 8]));
        let mut decoded = "out.0";
        if task == "seg" {
            decoded = "out.0.0";
            let error = relative(&outputs[9], golden["out.1.proto"].data());
            assert!(error <= 1e-4, "{task}: prototypes differ by {error}");
        }
        let parts: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
        let found = decode_all(&model.graph.head, size, &parts);
        let (expected, cells) = (&golden[decoded], golden[decoded].shape()[2]);
        for (row, (found, expected)) in found.chunks(cells).zip(expected.data().chunks(cells)).enumerate() {
            // Boxes in pixels amplify rounding, as in the detectors' goldens.
            let error = relative(found, expected);
            assert!(error <= 3e-4, "{task}: row {row} of everything decoded differs by {error}");
        }
        eprintln!("{task}: {} outputs, {} rows decoded", outputs.len(), found.len() / cells);
    }
}

pub fn by_reference(model: &Model, input: &[f32], height: usize, width: usize) -> Vec<Vec<f32>> {
    let all = reference::run(model, input, height, width).unwrap();
    model.graph.outputs.iter().map(|id| all[id.index()].clone()).collect()
}

pub fn by_engine(model: &Model, input: &[f32], height: usize, width: usize) -> Vec<Vec<f32>> {
    let mut engine = Engine::new(model, height, width, &Options { threads: 2, ..Default::default() }).unwrap();
    engine.run(input).unwrap();
    (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect()
}

#[test]
fn the_reference_agrees_with_the_golden_forward_passes() {
    check(by_reference);
    check_tasks(by_reference);
}

#[test]
fn the_engine_agrees_with_the_golden_forward_passes() {
    check(by_engine);
    check_tasks(by_engine);
}

#[test]
fn kept_layers_agree_with_the_golden_layers() {
    let (Some(model), Some(golden)) = (yolo(CASES[0].0), goldens(CASES[0].1)) else { return };
    // The last node of every top-level layer is its output.
    let last = |layer: usize| {
        let inside = |id: &NodeId| {
            let name = &model.graph.node(*id).name;
            *name == format!("model.{layer}") || name.starts_with(&format!("model.{layer}."))
        };
        model.graph.ids().rfind(inside).unwrap()
    };
    let keep: Vec<NodeId> = (0..23).map(last).collect();
    let mut engine = Engine::new(&model, 320, 320, &Options { keep: keep.clone(), ..Options::default() }).unwrap();
    engine.run(golden["sq.input"].data()).unwrap();
    for (layer, id) in keep.iter().enumerate() {
        let expected = golden[&format!("sq.layer.{layer}")].data();
        let found = engine.kept(*id);
        assert_eq!(found.len(), expected.len(), "layer {layer}");
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= 2e-3 + 2e-3 * b.abs(), "layer {layer}, value {i}: {a}, expected {b}");
        }
    }
}
