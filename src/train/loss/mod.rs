//! The losses of the heads, each with its analytic gradient with respect to the raw head outputs.
//!
//! [`detect`] is the loss that YOLOv8 and YOLO11 are trained with: task-aligned assignment (Feng et al., TOOD, 2021),
//! complete-IoU box loss (Zheng et al., 2020), distribution focal loss (Li et al., GFL, 2020) and binary cross-entropy
//! on soft class targets. [`classify`] is softmax cross-entropy.
//!
//! Inputs and gradients are f32, sums and box arithmetic f64. Nothing here knows tensors, files or images.

mod assign;
mod boxes;
mod classify;

pub use assign::Positive;
pub use boxes::{ciou, ciou_gradient};
pub use classify::{Classification, classify};

use crate::graph::Head;
use crate::vision::NormalisedXywh;
use assign::Truth;
use rayon::prelude::*;
use thiserror::Error;

/// Weight of the box term.
pub const BOX_GAIN: f64 = 7.5;
/// Weight of the class term.
pub const CLASS_GAIN: f64 = 0.5;
/// Weight of the distribution focal term.
pub const DFL_GAIN: f64 = 1.5;

/// One output of a network for a batch.
#[derive(Clone, Copy, Debug)]
pub struct HeadView<'a> {
    /// The values, row-major.
    pub data: &'a [f32],
    /// `[N, C, h, w]`.
    pub shape: [usize; 4],
}

/// A labelled object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Image of the batch it is in.
    pub image: usize,
    /// Its class.
    pub class: usize,
    /// Where it is, as shares of the image.
    pub bbox: NormalisedXywh,
}

/// A detection loss and its gradient.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Box term, gain included, normalised by the sum of the target scores.
    pub box_: f64,
    /// Class term, likewise.
    pub cls: f64,
    /// Distribution focal term, likewise.
    pub dfl: f64,
    /// Batch size times the sum of the three terms.
    pub total: f64,
    /// `d total / d output` for every output of the graph, in the output's layout.
    pub grads: Vec<Vec<f32>>,
}

/// Inputs of a loss that do not fit together.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum LossError {
    /// The loss is for another kind of head.
    #[error("the loss needs the outputs of a {expected} head")]
    Head {
        /// The kind of head it is for.
        expected: &'static str,
    },
    /// The outputs are not those of the head.
    #[error("output {output} has shape {found:?}, expected {expected}")]
    Output {
        /// Position among the outputs.
        output: usize,
        /// Its shape.
        found: Vec<usize>,
        /// What the head needs.
        expected: String,
    },
    /// A label that belongs to no image or no class of the batch, or that is not a box.
    #[error("label {label}: {problem}")]
    Target {
        /// Position among the labels.
        label: usize,
        /// What is wrong.
        problem: String,
    },
}

/// One level of one image: class and box logits with their geometry.
#[derive(Clone, Copy)]
struct Level<'a> {
    boxes: &'a [f32],
    classes: &'a [f32],
    h: usize,
    w: usize,
    stride: f64,
    /// Number of this level's first cell among all cells of the image.
    first: usize,
}

impl Level<'_> {
    fn area(&self) -> usize {
        self.h * self.w
    }

    /// Centre of a cell in cells.
    fn centre(&self, cell: usize) -> [f64; 2] {
        [(cell % self.w) as f64 + 0.5, (cell / self.w) as f64 + 0.5]
    }
}

/// All head outputs of a batch, checked against the head.
struct Batch<'a> {
    n: usize,
    nc: usize,
    reg_max: usize,
    strides: &'a [usize],
    heads: &'a [HeadView<'a>],
}

impl<'a> Batch<'a> {
    fn new(head: &'a Head, heads: &'a [HeadView<'a>]) -> Result<Self, LossError> {
        let Head::Detect { nc, reg_max, strides } = head else { return Err(LossError::Head { expected: "detect" }) };
        let fail = |output: usize, expected: String| {
            let found = heads.get(output).map_or_else(Vec::new, |v| v.shape.to_vec());
            Err(LossError::Output { output, found, expected })
        };
        if heads.len() != 2 * strides.len() {
            return fail(heads.len(), format!("{} outputs in all", 2 * strides.len()));
        }
        let n = heads[0].shape[0];
        for (i, view) in heads.iter().enumerate() {
            let channels = if i % 2 == 0 { 4 * reg_max } else { *nc };
            let [_, _, h, w] = heads[i - i % 2].shape;
            if view.shape != [n, channels, h, w] {
                return fail(i, format!("[{n}, {channels}, {h}, {w}]"));
            }
            if view.data.len() != view.shape.iter().product::<usize>() || view.data.is_empty() {
                return fail(i, format!("as many values, and some; found {}", view.data.len()));
            }
        }
        Ok(Self { n, nc: *nc, reg_max: *reg_max, strides, heads })
    }

    /// Width and height of the images in pixels.
    fn size(&self) -> [f64; 2] {
        let [_, _, h, w] = self.heads[0].shape;
        [w, h].map(|side| (side * self.strides[0]) as f64)
    }

    fn levels(&self, image: usize) -> Vec<Level<'a>> {
        let mut first = 0;
        let one = |view: &HeadView<'a>| -> &'a [f32] {
            let len = view.data.len() / self.n;
            &view.data[image * len..(image + 1) * len]
        };
        let levels = self.heads.chunks_exact(2).zip(self.strides).map(|(pair, stride)| {
            let [_, _, h, w] = pair[0].shape;
            let level = Level { boxes: one(&pair[0]), classes: one(&pair[1]), h, w, stride: *stride as f64, first };
            first += h * w;
            level
        });
        levels.collect()
    }

    /// The objects of every image, in pixels.
    fn truths(&self, targets: &[Target]) -> Result<Vec<Vec<Truth>>, LossError> {
        let mut truths = vec![Vec::new(); self.n];
        let [width, height] = self.size();
        for (label, target) in targets.iter().enumerate() {
            let fail = |problem: String| LossError::Target { label, problem };
            if target.class >= self.nc {
                return Err(fail(format!("class {} of a head with {} classes", target.class, self.nc)));
            }
            let bbox = target.bbox.0;
            if bbox.iter().any(|v| !v.is_finite()) || bbox[2] < 0.0 || bbox[3] < 0.0 {
                return Err(fail(format!("{bbox:?} is not a box")));
            }
            let [cx, cy, w, h] = bbox.map(f64::from);
            let bbox =
                [(cx - w / 2.0) * width, (cy - h / 2.0) * height, (cx + w / 2.0) * width, (cy + h / 2.0) * height];
            let images = self.n;
            let of_image = truths
                .get_mut(target.image)
                .ok_or_else(|| fail(format!("image {} of a batch of {images}", target.image)))?;
            of_image.push(Truth { class: target.class, bbox });
        }
        Ok(truths)
    }
}

/// Which cells of every image answer for which of its objects, and how well: the task-aligned assignment that
/// [`detect`] is computed on. Objects are numbered within their image, in the order of `targets`.
///
/// # Errors
/// As [`detect`].
pub fn positives(head: &Head, heads: &[HeadView<'_>], targets: &[Target]) -> Result<Vec<Vec<Positive>>, LossError> {
    let batch = Batch::new(head, heads)?;
    let truths = batch.truths(targets)?;
    Ok((0..batch.n).into_par_iter().map(|i| assign::assign(&batch.levels(i), batch.reg_max, &truths[i])).collect())
}

/// The detection loss of a batch and its gradient. `heads` are the raw outputs of the graph in its order: box logits
/// `[N, 4 * reg_max, h, w]` (left, top, right, bottom, each `reg_max` bins) and class logits `[N, nc, h, w]` per level.
///
/// The assignment and the aspect-ratio weight of the complete IoU count as constants in the gradient.
///
/// # Errors
/// If the outputs are not those of a detect head, or a label does not fit them.
pub fn detect(head: &Head, heads: &[HeadView<'_>], targets: &[Target]) -> Result<Loss, LossError> {
    let batch = Batch::new(head, heads)?;
    let truths = batch.truths(targets)?;
    let assigned: Vec<Vec<Positive>> = (0..batch.n)
        .into_par_iter()
        .map(|image| assign::assign(&batch.levels(image), batch.reg_max, &truths[image]))
        .collect();
    let normaliser = assigned.iter().flatten().map(|p| p.score).sum::<f64>().max(1.0);
    let images: Vec<Image> = (0..batch.n)
        .into_par_iter()
        .map(|image| image_loss(&batch, &batch.levels(image), &truths[image], &assigned[image], normaliser))
        .collect();

    let mut loss = Loss { box_: 0.0, cls: 0.0, dfl: 0.0, total: 0.0, grads: Vec::new() };
    loss.grads = heads.iter().map(|view| Vec::with_capacity(view.data.len())).collect();
    for image in images {
        loss.box_ += image.terms[0];
        loss.cls += image.terms[1];
        loss.dfl += image.terms[2];
        for (all, one) in loss.grads.iter_mut().zip(&image.grads) {
            all.extend_from_slice(one);
        }
    }
    loss.total = batch.n as f64 * (loss.box_ + loss.cls + loss.dfl);
    Ok(loss)
}

/// What one image adds to the terms (box, class, DFL), and its part of the gradients.
struct Image {
    terms: [f64; 3],
    grads: Vec<Vec<f32>>,
}

fn image_loss(batch: &Batch<'_>, levels: &[Level<'_>], truths: &[Truth], positives: &[Positive], sum: f64) -> Image {
    let mut terms = [0.0; 3];
    let mut grads = Vec::with_capacity(2 * levels.len());
    let scale = batch.n as f64 * CLASS_GAIN / sum;
    for level in levels {
        let mut class_grad = vec![0.0f32; level.classes.len()];
        for (grad, &x) in class_grad.iter_mut().zip(level.classes) {
            let (loss, sigmoid) = bce(x, 0.0);
            terms[1] += f64::from(loss);
            *grad = (scale * f64::from(sigmoid)) as f32;
        }
        grads.push(vec![0.0f32; level.boxes.len()]);
        grads.push(class_grad);
    }
    for positive in positives {
        let Some(index) = levels.iter().rposition(|level| level.first <= positive.anchor) else { continue };
        let (level, cell) = (&levels[index], positive.anchor - levels[index].first);
        let truth = &truths[positive.object];
        // The soft target adds `-t x` to the cross-entropy against zero, and `-t` to its gradient.
        let at = truth.class * level.area() + cell;
        terms[1] -= positive.score * f64::from(level.classes[at]);
        grads[2 * index + 1][at] = (scale * (f64::from(sigmoid(level.classes[at])) - positive.score)) as f32;

        let weight = positive.score / sum;
        let factors = [BOX_GAIN, DFL_GAIN].map(|gain| batch.n as f64 * gain * weight);
        let target = truth.bbox.map(|v| v / level.stride);
        let (iou, dfl) = boxes::loss(level, cell, batch.reg_max, target, factors, &mut grads[2 * index]);
        terms[0] += weight * iou;
        terms[2] += weight * dfl;
    }
    terms = [BOX_GAIN * terms[0], CLASS_GAIN * terms[1] / sum, DFL_GAIN * terms[2]];
    Image { terms, grads }
}

/// Logistic function, finite for every finite logit.
pub fn sigmoid(x: f32) -> f32 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// Binary cross-entropy of a logit against a target in 0..=1, and its gradient with respect to the logit. Finite for
/// every finite logit.
pub fn bce(x: f32, target: f32) -> (f32, f32) {
    let e = (-x.abs()).exp();
    let sigmoid = if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
    (x.max(0.0) - x * target + e.ln_1p(), sigmoid - target)
}
