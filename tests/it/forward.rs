//! The CPU engine and the plain reference against the golden forward passes.

use crate::support;
use secateurs::engine::{Engine, Options, reference};
use secateurs::graph::{Head, NodeId};
use secateurs::model::{Info, Model, Weights, tensors};
use secateurs::zoo::yolo11;

/// A YOLO11 from a plain safetensors file with the names of a checkpoint.
pub fn yolo(path: &str) -> Option<Model> {
    let path = support::data(path)?;
    let weights = tensors(&path, &std::fs::read(&path).unwrap()).unwrap();
    let shapes = yolo11::Shapes {
        tensors: weights.iter().map(|(k, t)| (k.clone(), t.shape().to_vec())).collect(),
        ..Default::default()
    };
    Some(Model::new(yolo11::from_shapes(&shapes).unwrap(), weights, Info::default()).unwrap())
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

#[test]
fn the_reference_agrees_with_the_golden_forward_passes() {
    check(|model, input, height, width| {
        let all = reference::run(model, input, height, width).unwrap();
        model.graph.outputs.iter().map(|id| all[id.index()].clone()).collect()
    });
}

#[test]
fn the_engine_agrees_with_the_golden_forward_passes() {
    check(|model, input, height, width| {
        let mut engine = Engine::new(model, height, width, &Options { threads: 2, ..Default::default() }).unwrap();
        engine.run(input).unwrap();
        (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect()
    });
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
    let mut engine = Engine::new(&model, 320, 320, &Options { threads: 1, keep: keep.clone() }).unwrap();
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
