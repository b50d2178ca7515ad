//! The loss of one branch of a head, whatever its task, and its gradient.

use super::assign::{Assignment, Positive, assign};
use super::batch::{Batch, Branch, Level, Outputs, Shapes, Task, Truth};
use super::scene::Scene;
use super::{
    ANGLE_GAIN, BOX_GAIN, CLASS_GAIN, DFL_GAIN, Flow, LossError, POSE_GAIN, RLE_GAIN, SEEN_GAIN, Target, bce, boxes,
    keypoints, masks, rotated, sigmoid,
};
use rayon::prelude::*;

/// The terms of a loss, gains included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// Overlap of the boxes.
    pub boxes: f64,
    /// Classes.
    pub classes: f64,
    /// Distances from the sides: distribution focal loss, or their mean difference where there are no distributions.
    pub distances: f64,
    /// Masks.
    pub masks: f64,
    /// Classes of all pixels (YOLO26).
    pub semantic: f64,
    /// Places of the keypoints.
    pub keypoints: f64,
    /// Whether keypoints are visible.
    pub seen: f64,
    /// Likelihood of the keypoints' residuals (YOLO26).
    pub likelihood: f64,
    /// Angles of rotated boxes.
    pub angle: f64,
}

impl Terms {
    fn all(&mut self) -> [&mut f64; 9] {
        let Self { boxes, classes, distances, masks, semantic, keypoints, seen, likelihood, angle } = self;
        [boxes, classes, distances, masks, semantic, keypoints, seen, likelihood, angle]
    }

    /// The sum of all.
    pub fn sum(mut self) -> f64 {
        self.all().into_iter().map(|term| *term).sum()
    }

    /// Adds a multiple of other terms.
    pub(super) fn add(&mut self, mut other: Self, factor: f64) {
        self.all().into_iter().zip(other.all()).for_each(|(sum, term)| *sum += factor * *term);
    }
}

/// The gradient of a loss: for every output of a branch one in the output's layout.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// Of box outputs and class logits, pair after pair.
    pub boxes: Vec<Vec<f32>>,
    /// Of the task's own outputs.
    pub extra: Vec<Vec<f32>>,
    /// Of the prototypes; empty where there are none.
    pub prototypes: Vec<f32>,
    /// Of the raw deviations of keypoints.
    pub sigmas: Vec<Vec<f32>>,
    /// Of the semantic logits; empty where there are none.
    pub semantic: Vec<f32>,
    /// Of the flow's parameters, where there is a flow.
    pub flow: Option<Flow>,
}

impl Gradients {
    /// Those of a graph's outputs, in its order: see [`Outputs::of`].
    pub fn in_order(self) -> Vec<Vec<f32>> {
        let prototypes = if self.prototypes.is_empty() { None } else { Some(self.prototypes) };
        self.boxes.into_iter().chain(self.extra).chain(prototypes).collect()
    }

    /// Multiplies all by a factor.
    pub(super) fn scale(&mut self, factor: f64) {
        let lists = [&mut self.boxes, &mut self.extra, &mut self.sigmas].into_iter().flatten();
        for values in lists.chain([&mut self.prototypes, &mut self.semantic]) {
            values.iter_mut().for_each(|v| *v = (f64::from(*v) * factor) as f32);
        }
        if let Some(flow) = &mut self.flow {
            flow.parameters_mut(&mut |values| values.iter_mut().for_each(|v| *v *= factor));
        }
    }

    /// The gradient of an image in which nothing is found yet.
    fn zeros(batch: &Batch<'_>, image: usize, levels: &[Level<'_>]) -> Self {
        let of = |values: &[f32]| vec![0.0; values.len()];
        let lists = |part: fn(&Level<'_>) -> usize| {
            levels.iter().map(part).filter(|len| *len > 0).map(|len| vec![0.0; len]).collect()
        };
        Self {
            boxes: levels.iter().flat_map(|level| [of(level.boxes), of(level.classes)]).collect(),
            extra: lists(|level| level.extra.len()),
            prototypes: of(batch.prototypes(image).0),
            sigmas: lists(|level| level.sigmas.len()),
            semantic: batch.semantic(image).map_or_else(Vec::new, |(logits, _)| of(logits)),
            flow: batch.outputs.flow.filter(|_| levels.iter().any(|l| !l.sigmas.is_empty())).map(Flow::zeros_like),
        }
    }

    /// Puts the gradient of the next image behind those before it; parameters add up.
    fn append(&mut self, next: Self) {
        if self.boxes.is_empty() {
            *self = next;
            return;
        }
        let lists = |all: &mut Vec<Vec<f32>>, next: Vec<Vec<f32>>| {
            all.iter_mut().zip(next).for_each(|(all, next)| all.extend(next));
        };
        lists(&mut self.boxes, next.boxes);
        lists(&mut self.extra, next.extra);
        lists(&mut self.sigmas, next.sigmas);
        self.prototypes.extend(next.prototypes);
        self.semantic.extend(next.semantic);
        if let (Some(flow), Some(next)) = (&mut self.flow, next.flow) {
            flow.add(&next, 1.0);
        }
    }
}

/// The loss of a branch, and its gradient.
#[derive(Clone, Debug)]
pub struct BranchLoss {
    /// Its terms, gains included.
    pub terms: Terms,
    /// Batch size times the sum of the terms.
    pub total: f64,
    /// `d total / d output`.
    pub grads: Gradients,
}

/// Which cells of every image answer for which of its objects, and how well, stage by stage. Objects are numbered
/// within their image, in the order of `targets`; of rotated ones those that are too small are left out before.
///
/// # Errors
/// As [`branch`].
pub fn assignments(
    kind: &Branch,
    outputs: Outputs<'_>,
    targets: &[Target],
    shapes: Shapes<'_>,
) -> Result<Vec<Assignment>, LossError> {
    let batch = Batch::new(kind, outputs, shapes)?;
    let truths = batch.truths(targets)?;
    let of = |image: usize| assign(&mut Scene::new(&batch, image, &truths[image]), kind.top, kind.keep);
    Ok((0..batch.n).into_par_iter().map(of).collect())
}

/// The loss of a branch on a batch, and its gradient.
///
/// The assignment and the aspect-ratio weight of the complete IoU count as constants in the gradient.
///
/// # Errors
/// If the outputs are not those of the branch, or a label does not fit them.
pub fn branch(
    kind: &Branch,
    outputs: Outputs<'_>,
    targets: &[Target],
    shapes: Shapes<'_>,
) -> Result<BranchLoss, LossError> {
    let batch = Batch::new(kind, outputs, shapes)?;
    let truths = batch.truths(targets)?;
    let of = |image: usize| assign(&mut Scene::new(&batch, image, &truths[image]), kind.top, kind.keep).positives;
    let assigned: Vec<Vec<Positive>> = (0..batch.n).into_par_iter().map(of).collect();
    let sums = Sums::new(&batch, &truths, &assigned)?;
    let of = |image: usize| image_loss(&batch, image, &truths[image], &assigned[image], &sums);
    let images: Vec<(Terms, Gradients)> = (0..batch.n).into_par_iter().map(of).collect();
    let (mut terms, mut grads) = (Terms::default(), Gradients::default());
    for (of_image, gradient) in images {
        terms.add(of_image, 1.0);
        grads.append(gradient);
    }
    Ok(BranchLoss { total: sums.n * terms.sum(), terms, grads })
}

/// What the terms of a batch are divided by: of the whole batch, where others have parts of it.
struct Sums {
    /// Images.
    n: f64,
    /// Sum of all target scores, at least 1.
    scores: f64,
    /// Cells that answer for an object, at least 1.
    foreground: f64,
    /// Labelled keypoints of the objects that they answer for, at least 1.
    labelled: f64,
}

impl Sums {
    fn new(batch: &Batch<'_>, truths: &[Vec<Truth>], assigned: &[Vec<Positive>]) -> Result<Self, LossError> {
        let labelled = |truth: &Truth| match batch.shapes {
            Shapes::Keypoints(points) => points[truth.label].iter().filter(|point| point[2] != 0.0).count(),
            _ => 0,
        };
        let image = |(truths, of): (&Vec<Truth>, &Vec<Positive>)| {
            let labelled: usize = of.iter().map(|positive| labelled(&truths[positive.object])).sum();
            [of.iter().map(|positive| positive.score).sum::<f64>(), of.len() as f64, labelled as f64]
        };
        let sums = batch.sums(truths.iter().zip(assigned).map(image).collect())?;
        let [scores, foreground, labelled] = sums.map(|sum| sum.max(1.0));
        Ok(Self { n: batch.images() as f64, scores, foreground, labelled })
    }
}

/// What one image adds to the terms, and its part of the gradients.
fn image_loss(
    batch: &Batch<'_>,
    image: usize,
    truths: &[Truth],
    positives: &[Positive],
    sums: &Sums,
) -> (Terms, Gradients) {
    let levels = batch.levels(image);
    let mut grads = Gradients::zeros(batch, image, &levels);
    let mut terms = Terms::default();
    let scale = sums.n * CLASS_GAIN / sums.scores;
    for (index, level) in levels.iter().enumerate() {
        for (grad, &x) in grads.boxes[2 * index + 1].iter_mut().zip(level.classes) {
            let (loss, sigmoid) = bce(x, 0.0);
            terms.classes += f64::from(loss);
            *grad = (scale * f64::from(sigmoid)) as f32;
        }
    }
    for positive in positives {
        let Some(index) = levels.iter().rposition(|level| level.first <= positive.anchor) else { continue };
        let (level, cell) = (&levels[index], positive.anchor - levels[index].first);
        let truth = &truths[positive.object];
        // The soft target adds `-t x` to the cross-entropy against zero, and `-t` to its gradient.
        let at = truth.class * level.area() + cell;
        terms.classes -= positive.score * f64::from(level.classes[at]);
        grads.boxes[2 * index + 1][at] = (scale * (f64::from(sigmoid(level.classes[at])) - positive.score)) as f32;
        let place = Place { batch, image, index, level, cell };
        place.boxes(truth, positive.score / sums.scores, sums, (&mut terms, &mut grads));
        place.task(truth, positive.object, sums, (&mut terms, &mut grads));
    }
    terms.classes *= CLASS_GAIN / sums.scores;
    terms.semantic = masks::semantic(batch, image, truths, &mut grads.semantic);
    (terms, grads)
}

/// A cell that answers for an object.
struct Place<'a> {
    batch: &'a Batch<'a>,
    image: usize,
    /// Number of its level.
    index: usize,
    level: &'a Level<'a>,
    cell: usize,
}

impl Place<'_> {
    /// Adds the terms of the box, each with the weight of the cell.
    fn boxes(&self, truth: &Truth, weight: f64, sums: &Sums, (terms, grads): (&mut Terms, &mut Gradients)) {
        let (branch, level, stride) = (self.batch.branch, self.level, self.level.stride);
        let at = (level, self.cell);
        let shares = self.batch.size().map(|side| stride / side);
        let [box_factor, distance_factor, angle_factor] =
            [BOX_GAIN, DFL_GAIN, ANGLE_GAIN].map(|gain| sums.n * gain * weight);
        let grad = &mut grads.boxes[2 * self.index];
        if branch.task != Task::Obb {
            let target = truth.bbox.map(|v| v / stride);
            let factors = [box_factor, distance_factor];
            let (overlap, distance) = boxes::loss(at, branch.reg_max, target, shares, factors, grad);
            terms.boxes += BOX_GAIN * weight * overlap;
            terms.distances += DFL_GAIN * weight * distance;
            return;
        }
        let decoded = rotated::decode(level, self.cell, branch);
        let [cx, cy, w, h, angle] = truth.turned();
        let target = [cx / stride, cy / stride, w / stride, h / stride, angle];
        let (overlap, d_overlap) = rotated::overlap_gradient(decoded.bbox, target, rotated::WIDENING);
        let (off, d_angle) = rotated::angle_loss(decoded.bbox[4], target);
        let mut d = d_overlap.map(|d| -box_factor * d);
        d[4] += angle_factor * d_angle;
        decoded.add_gradient(at, d, grad, &mut grads.extra[self.index]);
        let wanted = rotated::distances(level.centre(self.cell), target);
        terms.boxes += BOX_GAIN * weight * (1.0 - overlap);
        terms.angle += ANGLE_GAIN * weight * off;
        terms.distances += DFL_GAIN * weight * decoded.sides.distance_loss(at, wanted, shares, distance_factor, grad);
    }

    /// Adds what the task asks beside the box.
    fn task(&self, truth: &Truth, object: usize, sums: &Sums, (terms, grads): (&mut Terms, &mut Gradients)) {
        let at = (self.level, self.cell);
        match self.batch.branch.task {
            Task::Detect | Task::Obb => {}
            Task::Segment { .. } => {
                let gain = BOX_GAIN / sums.foreground;
                let grads = (&mut grads.extra[self.index][..], &mut grads.prototypes[..]);
                let loss = masks::loss(self.batch, (self.image, object), at, truth, sums.n * gain, grads);
                terms.masks += gain * loss;
            }
            Task::Pose { keypoints, .. } => {
                let gains = [POSE_GAIN, SEEN_GAIN, RLE_GAIN];
                let scale = keypoints::Scale {
                    points: sums.foreground * keypoints as f64,
                    labelled: sums.labelled,
                    factors: gains.map(|gain| sums.n * gain),
                };
                let mut none = [];
                let mut grads = keypoints::Grads {
                    extra: &mut grads.extra[self.index],
                    sigmas: grads.sigmas.get_mut(self.index).map_or(&mut none, |grad| &mut grad[..]),
                    flow: grads.flow.as_mut(),
                };
                let found = keypoints::loss(self.batch, at, truth, &scale, &mut grads);
                terms.keypoints += gains[0] * found.place;
                terms.seen += gains[1] * found.seen;
                terms.likelihood += gains[2] * found.likelihood;
            }
        }
    }
}
