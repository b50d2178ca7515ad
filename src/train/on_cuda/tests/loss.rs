//! The loss that the device computes, against that of the host on the same outputs.

use super::super::loss::plan;
use super::*;
use crate::graph::Graph;
use crate::model::Info;
use crate::train::init;
use crate::zoo::{Task, yolo11, yolo26, yolov10};

const SIDE: usize = 64;

fn target(image: usize, class: usize, bbox: [f32; 4]) -> Target {
    Target { image, class, bbox: NormalisedXywh(bbox) }
}

/// Three images: objects that contest cells, two of them the same box, one smaller than a cell and one that leaves the
/// image; none; and more of them than rows of cells.
fn crowded() -> Vec<Target> {
    let mut targets = vec![
        target(0, 0, [0.4, 0.4, 0.5, 0.6]),
        target(0, 2, [0.5, 0.45, 0.5, 0.5]),
        target(0, 1, [0.4, 0.4, 0.5, 0.6]),
        target(0, 1, [0.8, 0.8, 0.03, 0.02]),
        target(0, 0, [0.95, 0.1, 0.4, 0.3]),
    ];
    let many = (0..12).map(|i| {
        let at = |factor: usize| 0.1 + ((i * factor) % 17) as f32 / 20.0;
        target(2, i % 3, [at(5), at(7), 0.1 + at(3) / 2.0, 0.1 + at(11) / 2.0])
    });
    targets.extend(many);
    targets
}

fn model(graph: &Graph, seed: u64) -> Model {
    let mut weights = init(graph, seed);
    // Box outputs and class logits that are far from even, so that some cells fit much better than others.
    for (number, (key, tensor)) in weights.iter_mut().enumerate() {
        if key.ends_with("weight") && tensor.shape().len() == 4 && tensor.shape()[2] == 1 {
            let factor = 1.0 + ((number * 7 + seed as usize) % 5) as f32 / 4.0;
            tensor.data_mut().iter_mut().for_each(|w| *w *= factor);
        }
    }
    Model::new(graph.clone(), weights, Info::default()).unwrap()
}

/// Terms, and gradients by the factor of the loss.
fn backward(stepper: &mut OnCuda<'_>, batch: &Batch) -> (Terms, Vec<f32>) {
    let terms = stepper.backward(batch, At { epoch: 1, step: 0, steps: 1, epochs: 4 }).unwrap();
    (terms, stepper.gradients().unwrap().to_vec())
}

#[test]
fn terms_and_gradients_are_those_of_the_host() {
    if emulated::device().is_none() {
        return;
    }
    let narrow = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let heads = [
        ("distributions", yolo11::network(narrow, Task::Detect, 3).unwrap()),
        ("two branches", yolov10::detect(yolov10::Scale::of('n').unwrap(), 3).unwrap()),
        ("distances", yolo26::network(yolo26_narrow(), Task::Detect, 3).unwrap()),
    ];
    for (what, graph) in heads {
        let (student, teacher) = (model(&graph, 1), model(&graph, 2));
        let images = (0..3 * 3 * SIDE * SIDE).map(|i| ((i * 37 + i / 64 * 11) % 101) as f32 / 100.0).collect();
        let labels = Labels { targets: crowded(), ..Labels::default() };
        let batch = Batch { images, share: Share::new(&Ranks::default(), 3), labels };
        for (taught, mixed) in [(false, false), (true, false), (true, true)] {
            let config = FitConfig { imgsz: SIDE.into(), ..FitConfig::default() };
            let teacher = taught.then_some(&teacher);
            let cuda = Cuda { ordinal: 0, mixed };
            let of = |loss| {
                let mut stepper = OnCuda::with(&student, teacher, (&config, &[3], loss), cuda).unwrap();
                backward(&mut stepper, &batch)
            };
            let planned = plan(&graph.head, &config, 12);
            assert!(planned.is_some(), "{what}");
            let ((found, own), (wanted, gradients)) = (of(planned), of(None));
            let text = format!("{what}, teacher {taught}, mixed {mixed}: {found:?}, expected {wanted:?}");
            assert!(wanted.box_ > 0.0 && (wanted.distill != 0.0) == taught, "{text}");
            let pairs = [
                (found.box_, wanted.box_),
                (found.cls, wanted.cls),
                (found.dfl, wanted.dfl),
                (found.distill, wanted.distill),
            ];
            for (found, wanted) in pairs {
                assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1e-3), "{text}");
            }
            close(&text, &own, &gradients, if mixed { 1e-2 } else { 1e-5 });
        }
    }
}

fn yolo26_narrow() -> yolo11::Scale {
    yolo11::Scale { depth: 0.5, width: 0.0625, max_channels: 256, c3k_everywhere: false }
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    if emulated::device().is_none() {
        return;
    }
    let scale = yolo11::Scale { depth: 0.25, width: 0.0625, max_channels: 256, c3k_everywhere: false };
    let model = model(&yolo11::network(scale, Task::Detect, 3).unwrap(), 1);
    let config = FitConfig { imgsz: SIDE.into(), ..FitConfig::default() };
    let cuda = Cuda { ordinal: 0, mixed: false };
    let mut stepper = OnCuda::new(&model, None, (&config, &[1], 2), cuda).unwrap();
    let whole = [0.5, 0.5, 1.0, 1.0];
    for (targets, expected) in [
        (vec![target(0, 3, whole)], "class 3 of a head with 3 classes"),
        (vec![target(1, 0, whole)], "image 1 of a batch of 1"),
        (vec![target(0, 0, [0.5, 0.5, f32::NAN, 1.0])], "is not a box"),
        (vec![target(0, 0, whole); 3], "at most 2 objects"),
    ] {
        let labels = Labels { targets, ..Labels::default() };
        let batch = Batch { images: vec![0.5; 3 * SIDE * SIDE], share: Share::new(&Ranks::default(), 1), labels };
        let refused = stepper.backward(&batch, At { epoch: 0, step: 0, steps: 1, epochs: 1 }).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}
