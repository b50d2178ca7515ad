//! Distillation: a pruned network learns from the outputs of the baseline.
//!
//! Three terms on the raw head outputs, whose shapes never depend on the widths inside:
//!
//! * class: cross-entropy of every class logit against the teacher's probability, less the teacher's own entropy;
//! * box: localisation distillation (Zheng et al., "Localization Distillation", 2022), the KL divergence of the distance
//!   distributions at a temperature, weighted by the teacher's confidence in the cell; where a box output is a distance
//!   itself (YOLO26), the Huber loss of the distance from the teacher's in strides (Huber, 1964);
//! * task: how far masks, keypoints and angles are from those that the teacher predicts ([`task_divergence`]), with the
//!   same weight.
//!
//! All are normalised by the teacher's confidences, as the detection loss is by its target scores, and multiplied by
//! the batch size: those of the whole batch, where it is shared over ranks. Features inside the network are not compared:
//! after surgery they have other channels.

use super::loss::{HeadView, LossError, bce, sigmoid};
use crate::graph::{Boxes, Head};
use crate::quantise::task_divergence;
use crate::ranks::Share;
use rayon::prelude::*;

/// Weights of the terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// Factor on the class term.
    pub class: f64,
    /// Factor on the box term.
    pub box_: f64,
    /// Factor on the term of masks, keypoints and angles.
    pub task: f64,
    /// Temperature of the distance distributions.
    pub temperature: f64,
    /// Cells where the teacher is less confident than this add nothing to the box term.
    pub min_confidence: f32,
}

impl Default for Distillation {
    fn default() -> Self {
        Self { class: 1.0, box_: 1.0, task: 1.0, temperature: 2.0, min_confidence: 0.01 }
    }
}

/// A distillation loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distilled {
    /// Class term, factor included, per image.
    pub cls: f64,
    /// Box term, factor included, per image.
    pub box_: f64,
    /// Task term, factor included, per image.
    pub task: f64,
    /// Batch size times the sum of all.
    pub total: f64,
}

/// The distillation loss of a batch for any head, per image, its gradient added to `grads` (one vector per output, in
/// the output's layout). `student` and `teacher` are the outputs of two graphs with the same head.
///
/// # Errors
/// If the outputs do not fit the head or each other.
pub fn head(
    head: &Head,
    student: &[HeadView<'_>],
    teacher: &[HeadView<'_>],
    (options, share): (&Distillation, Option<&Share>),
    grads: &mut [Vec<f32>],
) -> Result<f64, LossError> {
    if !matches!(head, Head::Classify { .. }) {
        let loss = detect(head, student, teacher, (options, share), grads)?;
        return Ok(loss.cls + loss.box_ + loss.task);
    }
    let ([student], [teacher], [grad]) = (student, teacher, grads) else {
        return Err(LossError::Head { expected: "classify" });
    };
    classify(*student, *teacher, (options, share), grad)
}

/// The distillation loss of a batch of objects, its gradient added to `grads`; otherwise as [`head`].
///
/// # Errors
/// If the outputs do not fit the head or each other.
pub fn detect(
    head: &Head,
    student: &[HeadView<'_>],
    teacher: &[HeadView<'_>],
    (options, share): (&Distillation, Option<&Share>),
    grads: &mut [Vec<f32>],
) -> Result<Distilled, LossError> {
    let Some(Boxes { nc, reg_max, strides }) = head.boxes() else {
        return Err(LossError::Head { expected: "detect, segment, pose or obb" });
    };
    let outputs = 2 * strides.len();
    check(outputs, (nc, reg_max), (student, teacher, grads))?;
    let here = student.first().map_or(0, |v| v.shape[0]);
    let n = share.map_or(here, Share::images);

    // The teacher's confidence in every cell, per level `[N, h, w]`.
    let pairs = &teacher[..outputs];
    let confidence: Vec<Vec<f32>> = pairs.iter().skip(1).step_by(2).map(|view| confidences(view)).collect();
    let image = |image: usize| {
        let level = |level: &Vec<f32>| {
            let cells = level.len() / here;
            level[image * cells..(image + 1) * cells].iter().map(|c| f64::from(*c)).sum::<f64>()
        };
        confidence.iter().map(level).sum::<f64>()
    };
    let sums: Vec<f64> = (0..here).map(image).collect();
    let sums = match share {
        Some(share) => share.gather(sums)?,
        None => sums,
    };
    let sum = sums.iter().sum::<f64>().max(1.0);
    let scale = n as f64 / sum;
    let mut result = Distilled::default();
    for (level, confidence) in confidence.iter().enumerate() {
        let [boxes, classes] = [2 * level, 2 * level + 1];
        result.cls += class_term(student[classes], teacher[classes], options.class * scale, &mut grads[classes]);
        result.box_ += box_term(student[boxes], teacher[boxes], confidence, options, scale, &mut grads[boxes]);
    }
    result.cls *= options.class / sum;
    result.box_ *= options.box_ / sum;
    result.task = options.task / sum * task_term((head, strides), student, teacher, options.task * scale, grads);
    result.total = n as f64 * (result.cls + result.box_ + result.task);
    Ok(result)
}

/// Refuses outputs that do not fit each other: the first `outputs` must be pairs of boxes and classes.
fn check(
    outputs: usize,
    (nc, reg_max): (usize, usize),
    (student, teacher, grads): (&[HeadView<'_>], &[HeadView<'_>], &[Vec<f32>]),
) -> Result<(), LossError> {
    for i in 0..outputs.max(student.len()).max(teacher.len()).max(grads.len()) {
        let (Some(s), Some(t), Some(g)) = (student.get(i), teacher.get(i), grads.get(i)) else {
            return Err(LossError::Output { output: i, found: vec![], expected: format!("{outputs} outputs of both") });
        };
        let [n, channels, h, w] = s.shape;
        let shape = match i {
            i if i >= outputs => [n, channels, h, w],
            i if i % 2 == 0 => [n, 4 * reg_max, h, w],
            i => {
                let [n, _, h, w] = student[i - 1].shape;
                [n, nc, h, w]
            }
        };
        let len: usize = shape.iter().product();
        if s.shape != shape || t.shape != shape || s.data.len() != len || t.data.len() != len || g.len() != len {
            let found = if s.shape == shape { t.shape } else { s.shape };
            let expected = format!("{shape:?} of student and teacher, and as many values");
            return Err(LossError::Output { output: i, found: found.to_vec(), expected });
        }
    }
    Ok(())
}

/// The term of what the head predicts beside classes and distributions, without its factor; adds `factor` times its
/// gradient.
fn task_term(
    (head, strides): (&Head, &[usize]),
    student: &[HeadView<'_>],
    teacher: &[HeadView<'_>],
    factor: f64,
    grads: &mut [Vec<f32>],
) -> f64 {
    let (Some([n, _, h, w]), Some(stride)) = (student.first().map(|view| view.shape), strides.first()) else {
        return 0.0;
    };
    let one = |image: usize| {
        let mut slopes: Vec<Vec<f32>> = image_of(student, image).iter().map(|values| vec![0.0; values.len()]).collect();
        let mut add = |output: usize, at: usize, slope: f64| slopes[output][at] += (factor * slope) as f32;
        let loss = task_divergence(
            head,
            (h * stride, w * stride),
            &image_of(teacher, image),
            &image_of(student, image),
            Some(&mut add),
        );
        (loss, slopes)
    };
    let images: Vec<(f64, Vec<Vec<f32>>)> = (0..n).into_par_iter().map(one).collect();
    let mut sum = 0.0;
    for (image, (loss, slopes)) in images.into_iter().enumerate() {
        sum += loss;
        for (grad, slopes) in grads.iter_mut().zip(slopes) {
            let first = image * slopes.len();
            grad[first..first + slopes.len()].iter_mut().zip(slopes).for_each(|(g, s)| *g += s);
        }
    }
    sum
}

/// The distillation loss of a classifier, mean over the batch, its gradient added to `grad`: divergence of the class
/// distributions at a temperature, times its square (Hinton et al., "Distilling the Knowledge in a Neural Network",
/// 2015). `student` and `teacher` are logits `[N, nc, 1, 1]`.
///
/// # Errors
/// If the logits do not fit each other.
pub fn classify(
    student: HeadView<'_>,
    teacher: HeadView<'_>,
    (options, share): (&Distillation, Option<&Share>),
    grad: &mut [f32],
) -> Result<f64, LossError> {
    let [n, nc, h, w] = student.shape;
    let len = n * nc;
    if teacher.shape != student.shape
        || [h, w] != [1, 1]
        || nc == 0
        || [student.data.len(), teacher.data.len(), grad.len()] != [len; 3]
    {
        let expected = format!("[N, classes, 1, 1] of both, and as many values; the student has {:?}", student.shape);
        return Err(LossError::Output { output: 0, found: teacher.shape.to_vec(), expected });
    }
    let temperature = options.temperature;
    let factor = options.class / share.map_or(n, Share::images).max(1) as f64;
    let mut sum = 0.0;
    let rows = student.data.chunks_exact(nc).zip(teacher.data.chunks_exact(nc)).zip(grad.chunks_exact_mut(nc));
    for ((student, teacher), grad) in rows {
        let [s, t] = [student, teacher].map(|row| softmax(row.iter().copied(), temperature));
        for ((s, t), g) in s.iter().zip(&t).zip(grad) {
            if *t > 0.0 {
                sum += temperature.powi(2) * t * (t.ln() - s.max(f64::MIN_POSITIVE).ln());
            }
            *g += (factor * temperature * (s - t)) as f32;
        }
    }
    Ok(factor * sum)
}

/// The outputs for one image of a batch.
fn image_of<'a>(views: &[HeadView<'a>], image: usize) -> Vec<&'a [f32]> {
    let of = |view: &HeadView<'a>| {
        let len = view.data.len() / view.shape[0].max(1);
        &view.data[image * len..(image + 1) * len]
    };
    views.iter().map(of).collect()
}

fn confidences(view: &HeadView<'_>) -> Vec<f32> {
    let [_, c, h, w] = view.shape;
    let images = view.data.chunks_exact((c * h * w).max(1));
    let cells = images.flat_map(|image| {
        (0..h * w).map(move |cell| image[cell..].iter().step_by(h * w).fold(f32::NEG_INFINITY, |m, x| m.max(*x)))
    });
    cells.map(sigmoid).collect()
}

fn class_term(student: HeadView<'_>, teacher: HeadView<'_>, factor: f64, grad: &mut [f32]) -> f64 {
    let mut sum = 0.0;
    for ((s, t), g) in student.data.iter().zip(teacher.data).zip(grad) {
        let target = sigmoid(*t);
        let (loss, slope) = bce(*s, target);
        sum += f64::from(loss) - f64::from(bce(*t, target).0);
        *g += (factor * f64::from(slope)) as f32;
    }
    sum
}

fn box_term(
    student: HeadView<'_>,
    teacher: HeadView<'_>,
    confidence: &[f32],
    options: &Distillation,
    scale: f64,
    grad: &mut [f32],
) -> f64 {
    let [_, c, h, w] = student.shape;
    let (bins, area) = (c / 4, h * w);
    let image = |(i, grad): (usize, &mut [f32])| {
        let at = i * c * area;
        let mut sum = 0.0;
        for cell in 0..area {
            let weight = confidence[i * area + cell];
            if weight < options.min_confidence {
                continue;
            }
            for side in 0..4 {
                let first = side * bins * area + cell;
                if bins == 1 {
                    let apart = f64::from(student.data[at + first]) - f64::from(teacher.data[at + first]);
                    let near = apart.clamp(-1.0, 1.0);
                    sum += f64::from(weight) / 4.0 * near * (apart - near / 2.0);
                    grad[first] += (options.box_ * scale * f64::from(weight) / 4.0 * near) as f32;
                    continue;
                }
                let softened =
                    |data: &[f32]| softmax((0..bins).map(|b| data[at + first + b * area]), options.temperature);
                let (s, t) = (softened(student.data), softened(teacher.data));
                // A factor of T^2 keeps the gradient's size free of the temperature; the mean is over the sides.
                let weight = f64::from(weight) * options.temperature / 4.0;
                for bin in 0..bins {
                    if t[bin] > 0.0 {
                        let ratio = t[bin].ln() - s[bin].max(f64::MIN_POSITIVE).ln();
                        sum += weight * options.temperature * t[bin] * ratio;
                    }
                    grad[first + bin * area] += (options.box_ * scale * weight * (s[bin] - t[bin])) as f32;
                }
            }
        }
        sum
    };
    grad.par_chunks_exact_mut((c * area).max(1)).enumerate().map(image).collect::<Vec<f64>>().iter().sum()
}

fn softmax(logits: impl Iterator<Item = f32>, temperature: f64) -> Vec<f64> {
    let mut p: Vec<f64> = logits.map(|x| f64::from(x) / temperature).collect();
    let top = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    p.iter_mut().for_each(|x| *x = (*x - top).exp());
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|x| *x /= sum);
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(bins: usize) -> [[usize; 4]; 4] {
        [[2, 4 * bins, 2, 3], [2, 3, 2, 3], [2, 4 * bins, 1, 2], [2, 3, 1, 2]]
    }

    fn outputs(bins: usize, seed: usize) -> Vec<Vec<f32>> {
        let value = |i: usize| ((i * 37 + seed * 61) % 103) as f32 / 20.0 - 2.5;
        shapes(bins).iter().map(|s| (0..s.iter().product()).map(value).collect()).collect()
    }

    fn views(bins: usize, outputs: &[Vec<f32>]) -> Vec<HeadView<'_>> {
        outputs.iter().zip(shapes(bins)).map(|(data, shape)| HeadView { data, shape }).collect()
    }

    fn run(bins: usize, student: &[Vec<f32>], teacher: &[Vec<f32>]) -> (Distilled, Vec<Vec<f32>>) {
        let head = Head::Detect { nc: 3, reg_max: bins, strides: vec![8, 16] };
        let mut grads: Vec<Vec<f32>> = student.iter().map(|o| vec![0.0; o.len()]).collect();
        let options = Distillation { class: 0.7, box_: 1.3, task: 1.1, temperature: 3.0, min_confidence: 0.3 };
        let loss = detect(&head, &views(bins, student), &views(bins, teacher), (&options, None), &mut grads).unwrap();
        (loss, grads)
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for bins in [8, 1] {
            // With one bin differences of 0.6 and of -4.55 strides: on both sides of the Huber loss's bend.
            let (student, teacher) = (outputs(bins, 1), outputs(bins, if bins == 1 { 89 } else { 2 }));
            let (loss, grads) = run(bins, &student, &teacher);
            assert!(loss.cls > 0.0 && loss.box_ > 0.0, "{bins} bins: {loss:?}");
            for (output, len) in student.iter().map(Vec::len).enumerate() {
                for i in (0..len).step_by(if bins == 1 { 1 } else { 7 }) {
                    let at = |step: f32| {
                        let mut moved = student.clone();
                        moved[output][i] += step;
                        run(bins, &moved, &teacher).0.total
                    };
                    let difference = (at(0.03125) - at(-0.03125)) / 0.0625;
                    let grad = f64::from(grads[output][i]);
                    let bound = 1e-4 + 1e-3 * grad.abs();
                    assert!((difference - grad).abs() < bound, "{bins} bins: {output}, {i}: {difference}, {grad}");
                }
            }
        }
    }

    /// Beside boxes and classes every task has outputs of its own, which are taught too.
    #[test]
    fn gradients_of_the_tasks_agree_with_finite_differences() {
        let (nc, reg_max, strides) = (2, 4, vec![8, 16]);
        let pairs = [[2, 16, 2, 3], [2, 2, 2, 3], [2, 16, 1, 2], [2, 2, 1, 2]];
        let with = |extra: usize, prototypes: usize| {
            let extra = [[2, extra, 2, 3], [2, extra, 1, 2]];
            let prototypes = (prototypes > 0).then_some([2, prototypes, 4, 6]);
            pairs.into_iter().chain(extra).chain(prototypes).collect::<Vec<[usize; 4]>>()
        };
        let cases = [
            (Head::Segment { nc, reg_max, strides: strides.clone(), masks: 3 }, with(3, 3)),
            (Head::Pose { nc, reg_max, strides: strides.clone(), keypoints: 2, dims: 3 }, with(6, 0)),
            (Head::Obb { nc, reg_max, strides }, with(1, 0)),
        ];
        for (head, shapes) in cases {
            let values = |seed: usize| -> Vec<Vec<f32>> {
                let value = |i: usize| ((i * 37 + seed * 61) % 103) as f32 / 40.0 - 1.0;
                shapes.iter().map(|s| (0..s.iter().product()).map(value).collect()).collect()
            };
            let (student, teacher) = (values(1), values(2));
            let run = |student: &[Vec<f32>]| {
                let view = |(data, shape): (&'_ Vec<f32>, &[usize; 4])| (data.clone(), *shape);
                let owned: Vec<(Vec<f32>, [usize; 4])> = student.iter().zip(&shapes).map(view).collect();
                let views: Vec<HeadView<'_>> = owned.iter().map(|(data, s)| HeadView { data, shape: *s }).collect();
                let taught = teacher.iter().zip(&shapes).map(|(data, s)| HeadView { data, shape: *s });
                let mut grads: Vec<Vec<f32>> = student.iter().map(|o| vec![0.0; o.len()]).collect();
                let loss =
                    detect(&head, &views, &taught.collect::<Vec<_>>(), (&Distillation::default(), None), &mut grads)
                        .unwrap();
                (loss, grads)
            };
            let (loss, grads) = run(&student);
            assert!(loss.task > 0.0, "{head:?}");
            for output in 4..shapes.len() {
                for i in (0..student[output].len()).step_by(3) {
                    let at = |step: f32| {
                        let mut moved = student.clone();
                        moved[output][i] += step;
                        run(&moved).0.total
                    };
                    let (difference, grad) = ((at(0.03125) - at(-0.03125)) / 0.0625, f64::from(grads[output][i]));
                    assert!(
                        (difference - grad).abs() < 2e-3 + 1e-2 * grad.abs(),
                        "{head:?} {output} {i}: {difference} {grad}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_gradient_of_a_classifier_agrees_with_finite_differences() {
        let options = Distillation { class: 0.7, temperature: 3.0, ..Distillation::default() };
        let logits =
            |seed: usize| (0..8).map(|i| ((i * 37 + seed * 61) % 103) as f32 / 10.0 - 5.0).collect::<Vec<f32>>();
        let (student, teacher) = (logits(1), logits(2));
        let run = |student: &[f32]| {
            let mut grad = vec![0.0; 8];
            let view = |data| HeadView { data, shape: [2, 4, 1, 1] };
            let loss = classify(view(student), view(&teacher), (&options, None), &mut grad).unwrap();
            (loss, grad)
        };
        let (loss, grad) = run(&student);
        assert!(loss > 0.0);
        assert!(run(&teacher).0.abs() < 1e-6);
        for i in 0..8 {
            let at = |step: f32| {
                let mut moved = student.clone();
                moved[i] += step;
                run(&moved).0
            };
            let difference = (at(0.03125) - at(-0.03125)) / 0.0625;
            assert!((difference - f64::from(grad[i])).abs() < 1e-3, "{i}: {difference}, {}", grad[i]);
        }
        let short = HeadView { data: &student[..4], shape: [1, 4, 1, 1] };
        assert!(
            classify(short, HeadView { data: &teacher, shape: [2, 4, 1, 1] }, (&options, None), &mut [0.0; 8]).is_err()
        );
    }

    #[test]
    fn a_student_that_equals_its_teacher_has_nothing_to_learn() {
        for bins in [8, 1] {
            let (loss, grads) = run(bins, &outputs(bins, 1), &outputs(bins, 1));
            assert!(loss.total.abs() < 1e-5, "{loss:?}");
            assert!(grads.iter().flatten().all(|g| g.abs() < 1e-6));
        }
    }
}
