//! The losses of all tasks, and of YOLO26's end-to-end heads, against every golden file: terms, gradients, and the
//! assignment stage by stage.

use crate::support;
use safetensors::{Dtype, SafeTensors};
use secateurs::train::loss::{
    self, Assignment, Branch, Convention, Flow, Gradients, HeadView, Masks, Outputs, Shapes, Target, Task, Terms,
};
use secateurs::vision::NormalisedXywh;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

struct Golden<'a> {
    name: String,
    file: SafeTensors<'a>,
    meta: HashMap<String, String>,
}

impl Golden<'_> {
    fn has(&self, key: &str) -> bool {
        self.file.names().contains(&key)
    }

    fn floats(&self, key: &str) -> (Vec<usize>, Vec<f32>) {
        let view = self.file.tensor(key).unwrap_or_else(|e| panic!("{}: {key}: {e}", self.name));
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F16 => {
                data.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
            }
            other => panic!("{key} is {other:?}"),
        };
        (view.shape().to_vec(), values)
    }

    fn ints(&self, key: &str) -> Vec<usize> {
        let view = self.file.tensor(key).unwrap();
        match view.dtype() {
            Dtype::U8 => view.data().iter().map(|b| usize::from(*b)).collect(),
            _ => view.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as usize).collect(),
        }
    }

    fn json(&self, key: &str) -> Value {
        self.meta.get(key).map_or(Value::Null, |text| serde_json::from_str(text).unwrap())
    }

    fn number(&self, key: &str) -> f64 {
        self.meta[key].parse().unwrap()
    }

    fn branch(&self, prefix: &str) -> Branch {
        let reg_max = self.number("reg_max") as usize;
        let rows = |key: &str| self.file.tensor(&format!("{prefix}{key}.0")).unwrap().shape()[1];
        let shape = self.json("kpt_shape");
        let task = match self.meta["task"].as_str() {
            "segment" => Task::Segment { masks: rows("extra") },
            "pose" => {
                Task::Pose { keypoints: shape[0].as_u64().unwrap() as usize, dims: shape[1].as_u64().unwrap() as usize }
            }
            "obb" => Task::Obb,
            _ => Task::Detect,
        };
        let convention = if reg_max == 1 { Convention::Direct } else { Convention::Distribution };
        let nc = self.number("nc") as usize;
        Branch { nc, reg_max, strides: vec![8, 16, 32], task, convention, top: 10, keep: None }
    }
}

/// Raw outputs with their shapes.
type Tensors = Vec<([usize; 4], Vec<f32>)>;

/// Everything of one branch.
struct Raw {
    boxes: Tensors,
    extra: Tensors,
    sigmas: Tensors,
    planes: [Option<([usize; 4], Vec<f32>)>; 2],
    flow: Option<Flow>,
}

/// Splits `[B, 4 * reg_max + nc, h, w]` into box and class parts.
fn split((shape, values): (Vec<usize>, Vec<f32>), boxes: usize) -> Tensors {
    let [b, c, h, w] = shape.try_into().unwrap();
    let area = h * w;
    let part = |from: usize, to: usize| {
        let images = values.chunks_exact(c * area);
        ([b, to - from, h, w], images.flat_map(|image| image[from * area..to * area].to_vec()).collect())
    };
    vec![part(0, boxes), part(boxes, c)]
}

fn four((shape, values): (Vec<usize>, Vec<f32>)) -> ([usize; 4], Vec<f32>) {
    (shape.try_into().unwrap(), values)
}

impl Raw {
    fn read(golden: &Golden, prefix: &str, branch: &Branch) -> Self {
        let levels = |name: &str| -> Tensors {
            let keys = (0..3).map(|i| format!("{prefix}{name}.{i}"));
            keys.filter(|key| golden.has(key)).map(|key| four(golden.floats(&key))).collect()
        };
        let heads = (0..3).map(|i| golden.floats(&format!("{prefix}head.{i}")));
        let tensor = |name: &str| {
            let key = format!("flow.{name}");
            golden.has(&key).then(|| golden.floats(&key).1.into_iter().map(f64::from).collect())
        };
        Self {
            boxes: heads.flat_map(|head| split(head, 4 * branch.reg_max)).collect(),
            extra: levels("extra"),
            sigmas: levels("sigma"),
            planes: ["proto", "semseg"].map(|key| golden.has(key).then(|| four(golden.floats(key)))),
            flow: Flow::read(tensor),
        }
    }
}

fn views(tensors: &Tensors) -> Vec<HeadView<'_>> {
    tensors.iter().map(|(shape, data)| HeadView { data, shape: *shape }).collect()
}

/// The labels of a case.
struct Labels {
    targets: Vec<Target>,
    masks: Option<([usize; 2], Vec<u8>, bool)>,
    keypoints: Vec<Vec<[f32; 3]>>,
    angles: Vec<f32>,
}

impl Labels {
    fn read(golden: &Golden) -> Self {
        let (shape, boxes) = golden.floats("bboxes");
        let labels = golden.ints("batch_idx").into_iter().zip(golden.ints("cls")).zip(boxes.chunks_exact(shape[1]));
        let target = |((image, class), bbox): ((usize, usize), &[f32])| Target {
            image,
            class,
            bbox: NormalisedXywh(bbox[..4].try_into().unwrap()),
        };
        let mut keypoints = Vec::new();
        if golden.has("keypoints") {
            let (shape, values) = golden.floats("keypoints");
            let point = |point: &[f32]| [point[0], point[1], point.get(2).copied().unwrap_or(1.0)];
            let of = |object: &[f32]| object.chunks_exact(shape[2]).map(point).collect();
            keypoints = values.chunks_exact(shape[1] * shape[2]).map(of).collect();
        }
        let masks = golden.file.tensor("masks").ok().map(|view| {
            let size = [view.shape()[1], view.shape()[2]];
            (size, view.data().to_vec(), golden.meta["overlap_mask"] == "true")
        });
        let angles = if shape[1] == 5 { boxes.chunks_exact(5).map(|bbox| bbox[4]).collect() } else { vec![] };
        Self { targets: labels.map(target).collect(), masks, keypoints, angles }
    }

    fn shapes(&self, task: Task) -> Shapes<'_> {
        match (task, &self.masks) {
            (Task::Detect, _) => Shapes::Boxes,
            (Task::Obb, _) => Shapes::Angles(&self.angles),
            (Task::Pose { .. }, _) => Shapes::Keypoints(&self.keypoints),
            (_, Some((size, planes, overlap))) => Shapes::Masks(Masks { size: *size, planes, overlap: *overlap }),
            (_, None) => Shapes::Boxes,
        }
    }
}

/// Runs `check` on every golden file.
fn each(mut check: impl FnMut(&Golden)) {
    let Some(folder) = support::data("golden/losses") else { return };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    paths.sort();
    assert!(paths.len() >= 14, "{paths:?}");
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        let meta = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        check(&Golden { name, file: SafeTensors::deserialize(&bytes).unwrap(), meta });
    }
}

fn term(terms: &Terms, name: &str) -> f64 {
    match name {
        "box_loss" => terms.boxes,
        "cls_loss" => terms.classes,
        "dfl_loss" | "l1_loss" => terms.distances,
        "seg_loss" => terms.masks,
        "sem_loss" => terms.semantic,
        "pose_loss" => terms.keypoints,
        "kobj_loss" => terms.seen,
        "rle_loss" => terms.likelihood,
        "angle_loss" => terms.angle,
        other => panic!("{other}"),
    }
}

fn same_terms(golden: &Golden, of: &str, terms: &Terms, items: &Value) {
    let (names, items) = (golden.json("item_names"), items.as_array().unwrap());
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names.len(), items.len());
    for (name, wanted) in names.iter().zip(items) {
        let (found, wanted) = (term(terms, name), wanted.as_f64().unwrap());
        assert!((found - wanted).abs() <= 1e-4 * wanted, "{} {of} {name}: {found} for {wanted}", golden.name);
    }
    let all: f64 = names.iter().map(|name| term(terms, name)).sum();
    assert!((terms.sum() - all).abs() < 1e-9, "{}: other terms than {names:?}: {terms:?}", golden.name);
}

fn same_total(golden: &Golden, found: f64) {
    let wanted = f64::from(golden.floats("loss_total").1[0]);
    assert!((found - wanted).abs() <= 1e-4 * wanted, "{}: {found} for {wanted}", golden.name);
}

fn same_values(name: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let largest = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= 1e-6 + 1e-4 * largest, "{name}: value {i} is {f}, expected {w}; largest {largest}");
    }
    let error: f64 = found.iter().zip(wanted).map(|(f, w)| f64::from(f - w).powi(2)).sum();
    let norm: f64 = wanted.iter().map(|w| f64::from(*w).powi(2)).sum();
    assert!(error.sqrt() <= 1e-4 * norm.sqrt() + 1e-7, "{name} as a whole: {error:e} {norm:e}");
}

fn same_gradients(golden: &Golden, prefix: &str, branch: &Branch, grads: &Gradients) {
    for level in 0..3 {
        let key = |what: &str| format!("{prefix}{what}.{level}");
        let wanted = split(golden.floats(&key("grad")), 4 * branch.reg_max);
        for (i, (_, wanted)) in wanted.iter().enumerate() {
            same_values(&format!("{} {} {i}", golden.name, key("grad")), &grads.boxes[2 * level + i], wanted);
        }
        for (what, grads) in [("grad_extra", &grads.extra), ("grad_sigma", &grads.sigmas)] {
            assert_eq!(golden.has(&key(what)), !grads.is_empty(), "{} {what}", golden.name);
            if let Some(grad) = grads.get(level) {
                same_values(&format!("{} {}", golden.name, key(what)), grad, &golden.floats(&key(what)).1);
            }
        }
    }
}

/// What both branches of a head share, or the only one has.
fn same_shared_gradients(golden: &Golden, grads: &Gradients) {
    for (key, found) in [("grad_proto", &grads.prototypes), ("grad_semseg", &grads.semantic)] {
        assert_eq!(golden.has(key), !found.is_empty(), "{} {key}", golden.name);
        if golden.has(key) {
            same_values(&format!("{} {key}", golden.name), found, &golden.floats(key).1);
        }
    }
    let Some(flow) = &grads.flow else { return };
    for (name, network) in [("s.0", &flow.couplings[0].scale), ("t.5", &flow.couplings[5].shift)] {
        for (i, layer) in network.layers.iter().enumerate() {
            for (what, values) in [("weight", &layer.weights), ("bias", &layer.bias)] {
                let key = format!("grad_flow.{name}.{}.{what}", 2 * i);
                let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
                same_values(&format!("{} {key}", golden.name), &values, &golden.floats(&key).1);
            }
        }
    }
}

/// `[B, objects, anchors]` of the golden against what was found for an image's object and anchor.
fn same_stages(golden: &Golden, prefix: &str, assigned: &[Assignment]) {
    let name = format!("{} {prefix}", golden.name);
    let key = |what: &str| format!("{prefix}tal.{what}");
    let (shape, scores) = golden.floats(&key("target_scores"));
    let (anchors, nc) = (shape[1], shape[2]);
    // The reference may take cells whose overlap, and so whose score, is zero: they carry no weight, and are never taken
    // here.
    const NOTHING: f64 = 1e-9;
    let best = |at: usize| f64::from(scores[at * nc..(at + 1) * nc].iter().fold(0.0f32, |m, v| m.max(*v)));
    let found = assigned.iter().enumerate().flat_map(|(i, a)| a.positives.iter().map(move |p| (i, p)));
    let found = found.filter(|(_, p)| p.score > NOTHING).map(|(image, p)| (image, p.anchor));
    let found: BTreeSet<(usize, usize)> = found.collect();
    let foreground = golden.ints(&key("fg_mask"));
    let taken = |at: &usize| foreground[*at] == 1 && best(*at) > NOTHING;
    let wanted = (0..foreground.len()).filter(taken).map(|at| (at / anchors, at % anchors));
    assert_eq!(found, wanted.collect(), "{name}: foreground");
    let objects = golden.ints(&key("target_gt_idx"));
    for (image, assigned) in assigned.iter().enumerate() {
        for p in assigned.positives.iter().filter(|p| p.score > NOTHING) {
            let at = image * anchors + p.anchor;
            assert_eq!(p.object, objects[at], "{name}: cell {at}");
            let score = best(at);
            assert!((p.score - score).abs() <= 1e-9 + 1e-4 * score, "{name}: cell {at}: {} for {score}", p.score);
        }
    }
    if !golden.has(&key("in_gt")) {
        return;
    }
    let (shape, overlaps) = golden.floats(&key("overlaps"));
    let (_, metrics) = golden.floats(&key("align_metric"));
    let place = |image: usize, object: usize, anchor: usize| (image * shape[1] + object) * anchors + anchor;
    let marked = |what: &str| -> BTreeSet<usize> {
        let marks = golden.ints(&key(what));
        (0..marks.len()).filter(|at| marks[*at] == 1).collect()
    };
    let mut inside = BTreeSet::new();
    for (image, assigned) in assigned.iter().enumerate() {
        for (object, fits) in assigned.fits.iter().enumerate() {
            for fit in fits {
                let at = place(image, object, fit.anchor);
                inside.insert(at);
                for (what, found, wanted) in
                    [("overlap", fit.overlap, overlaps[at]), ("metric", fit.metric, metrics[at])]
                {
                    let wanted = f64::from(wanted);
                    assert!((found - wanted).abs() <= 1e-4 * wanted + 2e-6, "{name} {what} {at}: {found} for {wanted}");
                }
            }
        }
    }
    assert_eq!(inside, marked("in_gt"), "{name}: inside");
    let stages: [(&str, fn(&Assignment) -> Vec<(usize, usize)>); 3] = [
        ("pos_after_topk", |a| a.top.clone()),
        ("pos_after_conflicts", |a| a.settled.clone()),
        ("pos_final", |a| a.positives.iter().map(|p| (p.object, p.anchor)).collect()),
    ];
    for (what, of) in stages {
        let pairs = assigned.iter().enumerate().flat_map(|(i, a)| of(a).into_iter().map(move |(o, at)| (i, o, at)));
        // A cell of metric zero carries no weight, and is never taken here; f32 has zeros where f64 has not.
        let there = |at: &usize| metrics[*at] > 1e-12;
        let found = pairs.map(|(image, object, anchor)| place(image, object, anchor));
        let found: BTreeSet<usize> = found.filter(there).collect();
        let wanted: BTreeSet<usize> = marked(what).into_iter().filter(there).collect();
        assert_eq!(found, wanted, "{name}: {what}");
    }
}

#[test]
fn terms_gradients_and_assignments_of_every_task_equal_the_reference() {
    each(|golden| {
        if golden.meta.contains_key("family") {
            return;
        }
        let kind = golden.branch("");
        let (raw, labels) = (Raw::read(golden, "", &kind), Labels::read(golden));
        let (boxes, extra) = (views(&raw.boxes), views(&raw.extra));
        let prototypes = raw.planes[0].as_ref().map(|(shape, data)| HeadView { data, shape: *shape });
        let outputs = Outputs { boxes: &boxes, extra: &extra, prototypes, ..Outputs::default() };
        let shapes = labels.shapes(kind.task);
        same_stages(golden, "", &loss::assignments(&kind, outputs, &labels.targets, shapes).unwrap());
        let found = loss::branch(&kind, outputs, &labels.targets, shapes).unwrap();
        same_terms(golden, "", &found.terms, &golden.json("items"));
        same_total(golden, found.total);
        same_gradients(golden, "", &kind, &found.grads);
        same_shared_gradients(golden, &found.grads);
        // In the order of a graph's outputs the same.
        let all: Vec<HeadView> = boxes.iter().chain(&extra).copied().chain(prototypes).collect();
        let again = loss::branch(&kind, Outputs::of(&kind, &all).unwrap(), &labels.targets, shapes).unwrap();
        assert_eq!(again.grads.in_order().len(), all.len());
        assert_eq!(again.terms, found.terms);
    });
}

#[test]
fn the_end_to_end_losses_equal_the_reference() {
    each(|golden| {
        if !golden.meta.contains_key("family") {
            return;
        }
        let kind = golden.branch("o2m.");
        let labels = Labels::read(golden);
        let raw = ["o2m.", "o2o."].map(|prefix| Raw::read(golden, prefix, &kind));
        let lists = [0, 1].map(|i| [views(&raw[i].boxes), views(&raw[i].extra), views(&raw[i].sigmas)]);
        let outputs = [0, 1].map(|i| {
            let [boxes, extra, sigmas] = &lists[i];
            let [prototypes, semantic] =
                [0, 1].map(|p| raw[i].planes[p].as_ref().map(|(shape, data)| HeadView { data, shape: *shape }));
            Outputs { boxes, extra, prototypes, sigmas, flow: raw[i].flow.as_ref(), semantic, share: None }
        });
        let shapes = labels.shapes(kind.task);
        let assigned = |kind: &Branch, i: usize| loss::assignments(kind, outputs[i], &labels.targets, shapes).unwrap();
        same_stages(golden, "o2m.", &assigned(&kind, 0));
        same_stages(golden, "o2o.", &assigned(&kind.one2one(), 1));
        let weight = golden.number("weight_o2m");
        let found = loss::end_to_end(&kind, outputs, &labels.targets, shapes, weight).unwrap();
        same_terms(golden, "o2m", &found.one2many, &golden.json("o2m")["items"]);
        same_terms(golden, "o2o", &found.one2one, &golden.json("o2o")["items"]);
        same_total(golden, found.total);
        same_gradients(golden, "o2m.", &kind, &found.one2many_grads);
        same_gradients(golden, "o2o.", &kind, &found.one2one_grads);
        same_shared_gradients(golden, &found.one2many_grads);
        // Only the goldens of detection say how far their training is.
        if !golden.meta.contains_key("updates") {
            return;
        }
        let (epoch, epochs) = (golden.number("updates") as usize, golden.number("epochs") as usize);
        assert!((loss::one2many_weight(epoch, epochs) - weight).abs() < 1e-9, "{}", golden.name);
    });
}

#[test]
fn labels_of_another_task_are_refused() {
    let kind = Branch {
        nc: 1,
        reg_max: 1,
        strides: vec![8],
        task: Task::Pose { keypoints: 2, dims: 3 },
        convention: Convention::Direct,
        top: 10,
        keep: None,
    };
    let (boxes, classes, extra) = (vec![1.0; 4 * 4], vec![0.0; 4], vec![0.1; 6 * 4]);
    let view = |data, channels| HeadView { data, shape: [1, channels, 2, 2] };
    let all = [view(&boxes[..], 4), view(&classes, 1), view(&extra, 6)];
    let outputs = Outputs::of(&kind, &all).unwrap();
    let targets = [Target { image: 0, class: 0, bbox: NormalisedXywh([0.5, 0.5, 0.9, 0.9]) }];
    let points = [vec![[0.5, 0.5, 2.0], [0.1, f32::NAN, 1.0]]];
    let said = |shapes: Shapes| loss::branch(&kind, outputs, &targets, shapes).map(|_| ()).unwrap_err().to_string();
    assert_eq!(said(Shapes::Boxes), "label 0: the labels are those of another task");
    assert_eq!(said(Shapes::Angles(&[0.0])), "label 0: the labels are those of another task");
    assert!(said(Shapes::Keypoints(&points)).contains("expected 2 keypoints"));
    assert!(said(Shapes::Keypoints(&[])).contains("0 sets of keypoints for 1"));
    assert!(loss::branch(&kind, outputs, &[], Shapes::Boxes).is_ok());
    assert!(Outputs::of(&kind, &all[..2]).is_err());
}
