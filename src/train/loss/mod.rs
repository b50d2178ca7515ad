//! The losses of the heads, each with its analytic gradient with respect to the raw head outputs.
//!
//! [`detect`] is the loss that YOLOv8 and YOLO11 are trained with: task-aligned assignment (Feng et al., TOOD, 2021),
//! complete-IoU box loss (Zheng et al., 2020), distribution focal loss (Li et al., GFL, 2020) and binary cross-entropy
//! on soft class targets. [`branch`] adds what masks, keypoints and rotated boxes need, by the conventions of YOLO26
//! too, and [`end_to_end`] trains the two branches of a head without suppression. [`classify`] is softmax
//! cross-entropy.
//!
//! Inputs and gradients are f32, sums and box arithmetic f64. Nothing here knows tensors, files or images.

mod assign;
mod batch;
mod boxes;
mod classify;
mod end_to_end;
mod flow;
mod keypoints;
mod masks;
mod rotated;
mod scene;
mod task;

pub use assign::{Assignment, Fit, Positive};
pub use batch::{Branch, Convention, Masks, Outputs, Shapes, Task};
pub use boxes::{ciou, ciou_gradient};
pub use classify::{Classification, classify, classify_smoothed};
pub use end_to_end::{EndToEnd, end_to_end, one2many_weight};
pub use flow::{Coupling, Flow, Linear, Network, Pass};
pub use rotated::overlap_gradient;
pub use task::{BranchLoss, Gradients, Terms, assignments, branch};

use crate::graph::Head;
use crate::ranks::RankError;
use crate::vision::NormalisedXywh;
use thiserror::Error;

/// Weight of the box term.
pub const BOX_GAIN: f64 = 7.5;
/// Weight of the class term.
pub const CLASS_GAIN: f64 = 0.5;
/// Weight of the distribution focal term, or of the distance term in its place.
pub const DFL_GAIN: f64 = 1.5;
/// Weight of the places of keypoints.
pub const POSE_GAIN: f64 = 12.0;
/// Weight of whether keypoints are visible.
pub const SEEN_GAIN: f64 = 1.0;
/// Weight of the likelihood of keypoints' residuals.
pub const RLE_GAIN: f64 = 1.0;
/// Weight of the angle of rotated boxes.
pub const ANGLE_GAIN: f64 = 1.0;

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

impl Target {
    /// Refuses an object that belongs to no image or class of a batch, or is not a box; `label` is its position among the
    /// labels.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self, label: usize, nc: usize, images: usize) -> Result<(), LossError> {
        let NormalisedXywh(bbox) = self.bbox;
        let problem = if self.class >= nc {
            format!("class {} of a head with {nc} classes", self.class)
        } else if bbox.iter().any(|v| !v.is_finite()) || bbox[2] < 0.0 || bbox[3] < 0.0 {
            format!("{bbox:?} is not a box")
        } else if self.image >= images {
            format!("image {} of a batch of {images}", self.image)
        } else {
            return Ok(());
        };
        Err(LossError::Target { label, problem })
    }
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
    /// The ranks that have the rest of the batch cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RankError),
}

/// The branch and the outputs of a head that finds boxes and nothing else.
fn detection<'a>(head: &Head, heads: &'a [HeadView<'a>]) -> Result<(Branch, Outputs<'a>), LossError> {
    if !matches!(head.branch(), Head::Detect { .. }) {
        return Err(LossError::Head { expected: "detect" });
    }
    let branch = Branch::of(head)?;
    let outputs = Outputs::of(&branch, heads)?;
    Ok((branch, outputs))
}

/// Which cells of every image answer for which of its objects, and how well: the task-aligned assignment that
/// [`detect`] is computed on. Objects are numbered within their image, in the order of `targets`.
///
/// # Errors
/// As [`detect`].
pub fn positives(head: &Head, heads: &[HeadView<'_>], targets: &[Target]) -> Result<Vec<Vec<Positive>>, LossError> {
    let (kind, outputs) = detection(head, heads)?;
    let assigned = assignments(&kind, outputs, targets, Shapes::Boxes)?;
    Ok(assigned.into_iter().map(|assigned| assigned.positives).collect())
}

/// The detection loss of a batch and its gradient; of a one-to-one branch by its own assignment. `heads` are the raw outputs of the graph in its order: box logits
/// `[N, 4 * reg_max, h, w]` (left, top, right, bottom, each `reg_max` bins) and class logits `[N, nc, h, w]` per level.
///
/// The assignment and the aspect-ratio weight of the complete IoU count as constants in the gradient.
///
/// # Errors
/// If the outputs are not those of a detect head, or a label does not fit them.
pub fn detect(head: &Head, heads: &[HeadView<'_>], targets: &[Target]) -> Result<Loss, LossError> {
    let (kind, outputs) = detection(head, heads)?;
    let BranchLoss { terms, total, grads } = branch(&kind, outputs, targets, Shapes::Boxes)?;
    Ok(Loss { box_: terms.boxes, cls: terms.classes, dfl: terms.distances, total, grads: grads.in_order() })
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
