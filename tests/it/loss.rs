//! The detection loss against the reference's terms, gradients and assignments.

use crate::support::data;
use safetensors::{Dtype, SafeTensors};
use secateurs::graph::Head;
use secateurs::train::loss::{self, HeadView, Target};
use secateurs::vision::NormalisedXywh;

const CASES: [&str; 9] = [
    "00-nc3-mixed-random",
    "01-nc3-mixed-trained",
    "02-nc3-crowd-trained",
    "03-nc3-tiny-trained",
    "04-nc3-border-trained",
    "05-nc3-empty",
    "06-nc3-single-rect96x192",
    "07-nc80-mixed-trained",
    "08-nc80-crowd-trained",
];
const BOX: usize = 64;

fn floats(file: &SafeTensors<'_>, key: &str) -> (Vec<usize>, Vec<f32>) {
    let view = file.tensor(key).unwrap();
    assert_eq!(view.dtype(), Dtype::F32, "{key}");
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), values)
}

fn ints(file: &SafeTensors<'_>, key: &str) -> Vec<i32> {
    let view = file.tensor(key).unwrap();
    match view.dtype() {
        Dtype::U8 => view.data().iter().map(|b| i32::from(*b)).collect(),
        Dtype::I32 => view.data().chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect(),
        other => panic!("{key} is {other:?}"),
    }
}

/// Splits `[B, 64 + nc, h, w]` into box and class parts.
fn split(shape: &[usize], values: &[f32]) -> [([usize; 4], Vec<f32>); 2] {
    let [b, c, h, w] = shape.try_into().unwrap();
    let area = h * w;
    let part = |from: usize, to: usize| {
        let values = values.chunks_exact(c * area).flat_map(|image| image[from * area..to * area].to_vec()).collect();
        ([b, to - from, h, w], values)
    };
    [part(0, BOX), part(BOX, c)]
}

struct Case {
    head: Head,
    outputs: Vec<([usize; 4], Vec<f32>)>,
    grads: Vec<Vec<f32>>,
    targets: Vec<Target>,
}

impl Case {
    fn read(file: &SafeTensors<'_>) -> Self {
        let three = |name: &str| {
            (0..3)
                .flat_map(|i| {
                    let (shape, values) = floats(file, &format!("{name}.{i}"));
                    split(&shape, &values)
                })
                .collect::<Vec<_>>()
        };
        let outputs = three("head");
        let nc = outputs[1].0[1];
        let boxes = floats(file, "bboxes").1;
        let labels = ints(file, "batch_idx").into_iter().zip(ints(file, "cls")).zip(boxes.chunks_exact(4));
        let targets = labels.map(|((image, class), bbox)| Target {
            image: image as usize,
            class: class as usize,
            bbox: NormalisedXywh(bbox.try_into().unwrap()),
        });
        Self {
            head: Head::Detect { nc, reg_max: 16, strides: vec![8, 16, 32] },
            grads: three("grad").into_iter().map(|(_, values)| values).collect(),
            targets: targets.collect(),
            outputs,
        }
    }

    fn views(&self) -> Vec<HeadView<'_>> {
        self.outputs.iter().map(|(shape, data)| HeadView { data, shape: *shape }).collect()
    }
}

#[test]
fn terms_gradients_and_assignments_equal_the_reference() {
    for name in CASES {
        let Some(path) = data(&format!("golden/loss-{name}.safetensors")) else { return };
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let case = Case::read(&file);
        let loss = loss::detect(&case.head, &case.views(), &case.targets).unwrap();

        let mut wanted = floats(&file, "loss_items").1;
        wanted.extend(floats(&file, "loss_total").1);
        for (found, wanted) in [loss.box_, loss.cls, loss.dfl, loss.total].into_iter().zip(wanted) {
            let wanted = f64::from(wanted);
            assert!((found - wanted).abs() <= 1e-4 * wanted.abs(), "{name}: {found}, expected {wanted}");
        }
        for (output, (found, wanted)) in loss.grads.iter().zip(&case.grads).enumerate() {
            assert_eq!(found.len(), wanted.len());
            let largest = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
                // Relative to the value, with the rounding noise of the reference's own f32 sums as the floor.
                let slack = 1e-4 * w.abs() + 2e-6 * largest;
                assert!((f - w).abs() <= slack, "{name}: gradient {i} of output {output} is {f}, expected {w}");
            }
            let error: f64 = found.iter().zip(wanted).map(|(f, w)| f64::from(f - w).powi(2)).sum();
            let norm: f64 = wanted.iter().map(|w| f64::from(*w).powi(2)).sum();
            assert!(error.sqrt() <= 1e-4 * norm.sqrt(), "{name}: gradient of output {output} as a whole");
        }
        check_assignment(name, &file, &case);
    }
}

/// Where the reference's target scores are not all zero, the cell, its object, class and score are ours too.
fn check_assignment(name: &str, file: &SafeTensors<'_>, case: &Case) {
    let positives = loss::positives(&case.head, &case.views(), &case.targets).unwrap();
    let (shape, scores) = floats(file, "tal.target_scores");
    let (anchors, nc) = (shape[1], shape[2]);
    let (foreground, object) = (ints(file, "tal.fg_mask"), ints(file, "tal.target_gt_idx"));
    let mut found = vec![None; shape[0] * anchors];
    for (image, positives) in positives.iter().enumerate() {
        let of_image: Vec<&Target> = case.targets.iter().filter(|t| t.image == image).collect();
        for p in positives {
            found[image * anchors + p.anchor] = Some((p.object, of_image[p.object].class, p.score));
        }
    }
    let mut seen = 0;
    for (i, found) in found.into_iter().enumerate() {
        let scores = &scores[i * nc..(i + 1) * nc];
        if scores.iter().sum::<f32>() == 0.0 {
            assert!(found.is_none_or(|(_, _, score)| score < 1e-9), "{name}: cell {i} is background, found {found:?}");
            continue;
        }
        assert_eq!(foreground[i], 1);
        let Some((found_object, class, score)) = found else { panic!("{name}: cell {i} was not assigned") };
        assert_eq!(found_object, object[i] as usize, "{name}: cell {i}");
        assert!((score - f64::from(scores[class])).abs() <= 1e-4 * score, "{name}: cell {i}: {score}, {scores:?}");
        seen += 1;
    }
    assert_eq!(seen > 0, !case.targets.is_empty(), "{name}");
}

#[test]
fn class_gradients_agree_with_finite_differences() {
    // Logits of class 0 do not move the assignment of an object of class 1, which the gradient holds constant.
    let head = Head::Detect { nc: 2, reg_max: 16, strides: vec![8] };
    let boxes: Vec<f32> = (0..64 * 16).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let classes: Vec<f32> = (0..2 * 16).map(|i| ((i * 29) % 31) as f32 / 5.0 - 3.0).collect();
    let target = Target { image: 0, class: 1, bbox: NormalisedXywh([0.5, 0.5, 0.8, 0.6]) };
    let at = |classes: &[f32]| {
        let views = [HeadView { data: &boxes, shape: [1, 64, 4, 4] }, HeadView { data: classes, shape: [1, 2, 4, 4] }];
        loss::detect(&head, &views, &[target]).unwrap()
    };
    let base = at(&classes);
    assert!(base.grads[0].iter().any(|g| *g != 0.0));
    for i in 0..16 {
        let moved = |step: f32| {
            let mut moved = classes.clone();
            moved[i] += step;
            at(&moved).total
        };
        let difference = (moved(0.03125) - moved(-0.03125)) / 0.0625;
        assert!((difference - f64::from(base.grads[1][i])).abs() < 1e-3, "{i}: {difference}, {}", base.grads[1][i]);
    }
}

#[test]
fn complete_iou_has_the_gradient_of_finite_differences_at_a_constant_weight() {
    let target = [10.0, 12.0, 30.0, 26.0];
    let cases = [
        [8.0, 10.0, 25.0, 30.0],
        [12.0, 14.0, 20.0, 20.0],
        [0.0, 0.0, 60.0, 40.0],
        [40.0, 40.0, 52.0, 61.0],
        [10.5, 2.0, 29.0, 11.0],
    ];
    // Everything but the aspect-ratio term, whose weight the gradient holds constant.
    let aspect = |b: [f64; 4]| {
        (((20.0f64 / 14.0).atan() - ((b[2] - b[0]) / (b[3] - b[1])).atan()) * 2.0 / std::f64::consts::PI).powi(2)
    };
    for case in cases {
        let (value, gradient) = loss::ciou_gradient(case, target);
        assert!((-1.5..=1.0).contains(&value));
        let v = aspect(case);
        let iou = {
            let w = (case[2].min(target[2]) - case[0].max(target[0])).max(0.0);
            let h = (case[3].min(target[3]) - case[1].max(target[1])).max(0.0);
            let area = |b: [f64; 4]| (b[2] - b[0]) * (b[3] - b[1]);
            w * h / (area(case) + area(target) - w * h)
        };
        let alpha = v / (v - iou + 1.0);
        for i in 0..4 {
            let at = |step: f64| {
                let mut moved = case;
                moved[i] += step;
                let v = aspect(moved);
                let free = loss::ciou(moved, target);
                // Swap the moving weight for the constant one.
                let moving = {
                    let w = (moved[2].min(target[2]) - moved[0].max(target[0])).max(0.0);
                    let h = (moved[3].min(target[3]) - moved[1].max(target[1])).max(0.0);
                    let area = |b: [f64; 4]| (b[2] - b[0]) * (b[3] - b[1]);
                    v / (v - w * h / (area(moved) + area(target) - w * h) + 1.0)
                };
                free + moving * v - alpha * v
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((difference - gradient[i]).abs() < 1e-6, "{case:?}, {i}: {difference} against {}", gradient[i]);
        }
    }
    assert!((loss::ciou(target, target) - 1.0).abs() < 1e-6);
}

#[test]
fn binary_cross_entropy_is_finite_and_right_far_out() {
    for (x, target, value, gradient) in [
        (200.0, 1.0, 0.0, 0.0),
        (200.0, 0.0, 200.0, 1.0),
        (-200.0, 1.0, 200.0, -1.0),
        (-200.0, 0.0, 0.0, 0.0),
        (200.0, 0.25, 150.0, 0.75),
        (0.0, 0.5, std::f32::consts::LN_2, 0.0),
        (1e30, 0.0, 1e30, 1.0),
    ] {
        let (found, slope) = loss::bce(x, target);
        assert!((found - value).abs() <= 1e-6 * value.max(1.0) && (slope - gradient).abs() < 1e-6, "{x}, {target}");
    }
    // Through the whole loss: every class logit at +-200.
    let head = Head::Detect { nc: 1, reg_max: 16, strides: vec![8] };
    for x in [-200.0f32, 200.0] {
        let (boxes, classes) = (vec![0.0; 64 * 16], vec![x; 16]);
        let views = [HeadView { data: &boxes, shape: [1, 64, 4, 4] }, HeadView { data: &classes, shape: [1, 1, 4, 4] }];
        let target = Target { image: 0, class: 0, bbox: NormalisedXywh([0.5, 0.5, 0.9, 0.9]) };
        let loss = loss::detect(&head, &views, &[target]).unwrap();
        assert!(loss.total.is_finite() && loss.grads.iter().flatten().all(|g| g.is_finite()));
    }
}

#[test]
fn labels_and_outputs_that_do_not_fit_are_refused() {
    let head = Head::Detect { nc: 2, reg_max: 16, strides: vec![8] };
    let (boxes, classes) = (vec![0.0; 64 * 4], vec![0.0; 2 * 4]);
    let views = [HeadView { data: &boxes, shape: [1, 64, 2, 2] }, HeadView { data: &classes, shape: [1, 2, 2, 2] }];
    let good = Target { image: 0, class: 1, bbox: NormalisedXywh([0.5, 0.5, 0.5, 0.5]) };
    assert!(loss::detect(&head, &views, &[good]).is_ok());
    for bad in [
        Target { image: 1, ..good },
        Target { class: 2, ..good },
        Target { bbox: NormalisedXywh([0.5, f32::NAN, 0.5, 0.5]), ..good },
        Target { bbox: NormalisedXywh([0.5, 0.5, -0.5, 0.5]), ..good },
    ] {
        assert!(loss::detect(&head, &views, &[good, bad]).unwrap_err().to_string().starts_with("label 1: "));
    }
    assert!(loss::detect(&head, &views[..1], &[good]).is_err());
    assert!(loss::detect(&Head::Classify { nc: 2 }, &views, &[good]).is_err());
}
