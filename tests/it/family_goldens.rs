//! Every golden forward pass of the model families against whoever runs one: the engine on the CPU, candle, the CUDA
//! engine on the emulated driver. Whoever includes this brings the types, `data` and the reference into scope.

use super::{
    Candidate, Candidates, Graph, Head, Model, NmsOptions, NodeId, Tensor, Value, Weights, by_reference, data, decode,
    decode_all, load, nms, tensors, top,
};
use std::collections::BTreeSet;

/// The folder of the goldens, below that of the data.
pub const FOLDER: &str = "golden/families";

/// A JSON file of the data folder.
pub fn json(path: &str) -> Option<Value> {
    Some(serde_json::from_slice(&std::fs::read(data(path)?).unwrap()).unwrap())
}

/// Raw outputs and the tensors of some layers.
pub type Runner = fn(&Model, &[f32], (usize, usize), &[NodeId]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>);

/// The golden forward passes: name, model, tensors, facts.
pub fn all() -> Vec<(String, Model, Weights, Value)> {
    let (Some(folder), Some(index)) = (data(FOLDER), json(&format!("{FOLDER}/index.json"))) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (name, facts) in index.as_object().unwrap() {
        let golden = folder.join(format!("{name}-forward.safetensors"));
        let plain = folder.join(format!("{name}.safetensors"));
        let model = if plain.exists() { plain } else { folder.join(format!("{name}.pt")) };
        let model = load(&model).unwrap_or_else(|e| panic!("{e}"));
        let golden = tensors(&golden, &std::fs::read(&golden).unwrap()).unwrap();
        all.push((name.clone(), model, golden, facts.clone()));
    }
    assert!(all.len() >= 16);
    all
}

/// The shared input of a name, `[3, h, w]`, and its height and width.
pub fn input(name: &str) -> (Vec<f32>, (usize, usize)) {
    let bytes = std::fs::read(data(&format!("{FOLDER}/inputs.safetensors")).unwrap()).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let shape = view.shape();
    let size = (shape[shape.len() - 2], shape[shape.len() - 1]);
    (view.data().iter().map(|v| f32::from(*v) / 255.0).collect(), size)
}

/// The output of a top-level layer.
fn layer(graph: &Graph, layer: &str) -> NodeId {
    let name = format!("model.{layer}");
    let inside = |id: &NodeId| {
        let is = &graph.node(*id).name;
        *is == name || is.starts_with(&format!("{name}."))
    };
    graph.ids().rfind(inside).unwrap_or_else(|| panic!("no layer {layer}"))
}

/// The largest difference from the expected values as a share of the tolerance, at most 1.
fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what} differ by {worst}, the tolerance is {tolerance}");
    worst / tolerance
}

/// Every case against a runner.
pub fn check(run: Runner) {
    for (name, model, golden, facts) in all() {
        let tolerance = |what: &str, otherwise: f64| facts["tolerance"][what].as_f64().unwrap_or(otherwise);
        let (image, size) = input("sq");
        let entering: Vec<&String> = golden.keys().filter(|key| key.starts_with("layer.")).collect();
        let keep: Vec<NodeId> = entering.iter().map(|key| layer(&model.graph, &key["layer.".len()..])).collect();
        let (outputs, kept) = run(&model, &image, size, &keep);
        let mut worst = 0.0f64;
        for (key, found) in entering.iter().zip(&kept) {
            let limit = tolerance("head inputs", 1e-4);
            worst = worst.max(close(&format!("{name} {key}"), found, golden[*key].data(), limit));
        }
        if let Head::Classify { .. } = model.graph.head {
            close(&format!("{name} logits"), &outputs[0], golden["logits"].data(), tolerance("logits", 1e-4));
            continue;
        }
        let each = match &model.graph.head {
            Head::EndToEnd { one2many: true, .. } => outputs.len() / 2,
            _ => outputs.len(),
        };
        for (branch, outputs) in ["one2many", "one2one"].into_iter().zip(outputs.chunks(each)) {
            let case = format!("{name} {branch}");
            worst = worst.max(raw(&case, &model, &golden, branch, outputs, &tolerance));
            worst = worst.max(decoded(&case, &model, &golden, branch, (size, outputs), &tolerance));
        }
        if golden.contains_key("rect.one2many.decoded") {
            let (image, size) = input("rect");
            let (outputs, _) = run(&model, &image, size, &[]);
            let exact = by_reference(&model, &image, size.0, size.1);
            let branches = outputs.chunks(each).zip(exact.chunks(each));
            for (branch, (outputs, exact)) in ["one2many", "one2one"].into_iter().zip(branches) {
                let case = format!("{name} rect {branch}");
                let expected = &golden[&format!("rect.{branch}.decoded")];
                // The tolerances beside the goldens were measured at 160 x 160: four times the greatest spread, of which what
                // they are off from f64 is one. Here that one is known, and the others are in proportion.
                let (boxes, scores) = apart(&model, expected, (size, exact), branch == "one2one");
                let share = |what: &str| greatest_over_f64(&facts["spread"][format!("{branch}.decoded.{what}")]);
                let wider = |what: &str, otherwise: f64| match what {
                    "boxes px" => tolerance(what, otherwise).max(4.0 * boxes * share("boxes_px")),
                    "scores" => tolerance(what, otherwise).max(4.0 * scores * share("scores")),
                    _ => tolerance(what, otherwise),
                };
                worst = worst.max(everything(&case, &model, expected, (size, outputs), branch == "one2one", &wider));
            }
        }
        layers(run, &name, &model, &golden);
        eprintln!("{name}: {} outputs of {each} each, off by {worst:.3} of what is allowed", outputs.len());
    }
}

/// The greatest of the spreads that were measured for a tensor, as a multiple of the one from f64.
fn greatest_over_f64(spread: &Value) -> f64 {
    let greatest = spread.as_object().unwrap().values().filter_map(Value::as_f64).fold(0.0, f64::max);
    greatest / spread["f64"].as_f64().unwrap()
}

/// Every top-level layer at 64 x 96 pixels, which the golden holds in f16.
fn layers(run: Runner, name: &str, model: &Model, golden: &Weights) {
    let keys: Vec<&String> = golden.keys().filter(|key| key.starts_with("small.layer.")).collect();
    let node = |key: &str| {
        let number = &key["small.layer.".len()..];
        match number.split_once('.') {
            // The parts of a `CBLinear`.
            Some((at, part)) => model.graph.find(&format!("model.{at}.split.{part}")).unwrap(),
            None => layer(&model.graph, number),
        }
    };
    let keep: Vec<NodeId> = keys.iter().map(|key| node(key)).collect();
    let (image, size) = input("small");
    let (_, kept) = run(model, &image, size, &keep);
    for (key, found) in keys.iter().zip(&kept) {
        let expected = golden[*key].data();
        assert_eq!(found.len(), expected.len(), "{name} {key}");
        for (i, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= 2e-3 * (1.0 + b.abs()), "{name} {key}, value {i}: {a}, expected {b}");
        }
    }
}

/// Rows over all levels from outputs level by level.
fn joined(levels: &[&Vec<f32>], rows: usize) -> Vec<f32> {
    (0..rows)
        .flat_map(|row| levels.iter().flat_map(move |l| &l[row * l.len() / rows..(row + 1) * l.len() / rows]))
        .copied()
        .collect()
}

/// Raw outputs against the golden's; the largest share of a tolerance.
fn raw(
    case: &str,
    model: &Model,
    golden: &Weights,
    branch: &str,
    outputs: &[Vec<f32>],
    tolerance: &dyn Fn(&str, f64) -> f64,
) -> f64 {
    let of = |at: [usize; 3]| at.map(|i| &outputs[i]);
    let mut share = 0.0f64;
    for (what, at) in
        [("boxes", [0, 2, 4]), ("scores", [1, 3, 5]), ("kpts", [6, 7, 8]), ("mask_coefficient", [6, 7, 8])]
    {
        let Some(expected) = golden.get(&format!("{branch}.{what}")) else {
            assert!(what == "kpts" || what == "mask_coefficient", "{case}: no {what}");
            continue;
        };
        let limit = tolerance(if what == "mask_coefficient" { "extra" } else { "raw" }, 5e-4);
        let found = joined(&of(at), expected.shape()[1]);
        share = share.max(close(&format!("{case} {what}"), &found, expected.data(), limit));
    }
    if let Head::Segment { .. } = model.graph.head.branch() {
        let limit = tolerance("proto", 1e-4);
        share = share.max(close(&format!("{case} proto"), &outputs[9], golden["proto"].data(), limit));
    }
    share
}

/// Everything decoded, in the golden's convention.
fn as_golden(model: &Model, cells: usize, (size, outputs): ((usize, usize), &[Vec<f32>]), corners: bool) -> Vec<f32> {
    let head = model.graph.head.branch();
    let parts: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
    let mut found = decode_all(head, size, &parts);
    if corners && !matches!(head, Head::Obb { .. }) {
        for cell in 0..cells {
            let [x, y, w, h] = [0, 1, 2, 3].map(|row| found[row * cells + cell]);
            let sides = [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0];
            sides.into_iter().enumerate().for_each(|(row, side)| found[row * cells + cell] = side);
        }
    }
    found
}

/// The largest distances of a golden's boxes, in pixels, and of its scores from others.
fn apart(model: &Model, expected: &Tensor, outputs: ((usize, usize), &[Vec<f32>]), corners: bool) -> (f64, f64) {
    let (cells, classes) = (expected.shape()[2], model.graph.head.branch().classes());
    let found = as_golden(model, cells, outputs, corners);
    let far: Vec<f64> = found.iter().zip(expected.data()).map(|(a, b)| f64::from((a - b).abs())).collect();
    let most = |rows: &[f64]| rows.iter().copied().fold(0.0, f64::max);
    (most(&far[..4 * cells]), most(&far[4 * cells..(4 + classes) * cells]))
}

/// Boxes, scores and the task's rows against the golden's; the largest share of a tolerance.
fn everything(
    case: &str,
    model: &Model,
    expected: &Tensor,
    (size, outputs): ((usize, usize), &[Vec<f32>]),
    corners: bool,
    tolerance: &dyn Fn(&str, f64) -> f64,
) -> f64 {
    let (head, cells) = (model.graph.head.branch(), expected.shape()[2]);
    let found = as_golden(model, cells, (size, outputs), corners);
    assert_eq!(found.len(), expected.data().len(), "{case}");
    let mut share = 0.0f64;
    for (row, (found, expected)) in found.chunks(cells).zip(expected.data().chunks(cells)).enumerate() {
        let limit = match row {
            0..4 => tolerance("boxes px", 5e-3),
            _ if row < 4 + head.classes() => tolerance("scores", 1e-4),
            _ => tolerance("extra", 1e-3),
        };
        share = share.max(close(&format!("{case} row {row}"), found, expected, limit));
    }
    share
}

fn decoded(
    case: &str,
    model: &Model,
    golden: &Weights,
    branch: &str,
    (size, outputs): ((usize, usize), &[Vec<f32>]),
    tolerance: &dyn Fn(&str, f64) -> f64,
) -> f64 {
    let expected = &golden[&format!("{branch}.decoded")];
    let share = everything(case, model, expected, (size, outputs), branch == "one2one", tolerance);
    let head = model.graph.head.branch();
    let parts: Vec<&[f32]> = outputs.iter().map(Vec::as_slice).collect();
    let options = NmsOptions::default();
    let (found, rows, anchors) = match branch {
        "one2one" => {
            // The head's own choice is not cut at a score.
            let all = NmsOptions { score: -1.0, ..options };
            (top(head, size, &parts, &all), "one2one.final", "one2one.final_anchor")
        }
        // Rotated boxes are suppressed by their own overlap.
        _ if matches!(head, Head::Obb { .. }) => return share,
        _ => {
            let wanted = Candidates { score: options.score, multi_label: false };
            (nms(decode(head, size, &parts, &wanted), &options), "one2many.nms", "one2many.nms_anchor")
        }
    };
    let cells = ints(case, anchors);
    let rows = golden[rows].data().chunks(golden[rows].shape()[golden[rows].shape().len() - 1]);
    let expected: BTreeSet<(usize, usize)> = rows.zip(cells).map(|(row, cell)| (cell, row[5] as usize)).collect();
    let of = |found: &Candidate| (found.cell, found.detection.class);
    let found: BTreeSet<(usize, usize)> = found.iter().map(of).collect();
    assert_eq!(found, expected, "{case}");
    share
}

/// The integers of a golden's tensor; `case` begins with the golden's name.
fn ints(case: &str, key: &str) -> Vec<usize> {
    let name = case.split(' ').next().unwrap();
    let bytes = std::fs::read(data(&format!("{FOLDER}/{name}-forward.safetensors")).unwrap()).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(key).unwrap();
    let width = view.data().len() / view.shape().iter().product::<usize>().max(1);
    view.data().chunks(width.max(1)).map(|b| b.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte))).collect()
}
