//! What a training minimises, whatever the head: the loss of the labels, and what a teacher adds to it; both with their
//! gradients by the outputs of the network. Importance reads the same loss.

use super::config::{FitConfig, TrainError};
use super::distill;
use super::labels::Labels;
use super::loss::{self, HeadView, LossError};
use super::terms::Terms;
use crate::graph::Head;
use crate::ranks::Share;
use candle_core::Tensor;

/// The outputs of a network as plain values.
pub(super) struct Outputs(Vec<([usize; 4], Vec<f32>)>);

impl Outputs {
    pub fn read(outputs: &[Tensor]) -> candle_core::Result<Self> {
        let read = |output: &Tensor| {
            let (n, c, h, w) = output.dims4()?;
            Ok(([n, c, h, w], output.flatten_all()?.to_vec1::<f32>()?))
        };
        outputs.iter().map(read).collect::<candle_core::Result<_>>().map(Self)
    }

    /// Outputs by shape `[n, c, h, w]` and values.
    pub fn of(outputs: Vec<([usize; 4], Vec<f32>)>) -> Self {
        Self(outputs)
    }

    fn views(&self) -> Vec<HeadView<'_>> {
        self.0.iter().map(|(shape, data)| HeadView { data, shape: *shape }).collect()
    }
}

/// The loss of a batch by the outputs of the network and, where it has one, of its teacher; and the gradient by every
/// output of the network, in their order. Where a head has two branches, `weight` is that of the one-to-many branch. Of
/// a batch that is shared over ranks these are the terms of this rank's images, which add up to those of the batch.
///
/// # Errors
/// If outputs or labels are not those of the head.
pub(super) fn objective(
    head: &Head,
    (values, taught): (&Outputs, Option<&Outputs>),
    labels: &Labels,
    (config, weight): (&FitConfig, f64),
    share: Option<&Share>,
) -> Result<(Terms, Vec<Vec<f32>>), TrainError> {
    let views = values.views();
    let (mut terms, mut grads) = match (head, &views[..]) {
        (Head::Classify { .. }, [logits]) => {
            let images = share.map_or(labels.classes.len(), Share::images);
            let loss = loss::classify_smoothed(*logits, &labels.classes, config.label_smoothing, images)?;
            (Terms { cls: loss.loss, ..Terms::default() }, vec![loss.grad])
        }
        (Head::Classify { .. }, _) => return Err(LossError::Head { expected: "classify" }.into()),
        _ => branches(head, &views, labels, weight, share)?,
    };
    let Some(taught) = taught else { return Ok((terms, grads)) };
    let mut options = config.distillation;
    options.class *= config.distill;
    options.box_ *= config.distill;
    options.task *= config.distill;
    terms.distill = teacher_loss(head, (&views, &taught.views()), (&options, weight), share, &mut grads)?;
    Ok((terms, grads))
}

/// Whether the head has both branches: then its outputs are those of the one, followed by those of the other.
pub(super) fn is_pair(head: &Head) -> bool {
    matches!(head, Head::EndToEnd { one2many: true, .. })
}

/// The loss of the labels of a batch, and its gradient by every output of the network (`[N, C, h, w]` each), in their order
/// and layout. Where a head has two branches, `weight` is that of the one-to-many branch.
///
/// # Errors
/// If outputs or labels are not those of the head.
pub fn label_loss(
    head: &Head,
    views: &[HeadView<'_>],
    labels: &Labels,
    weight: f64,
) -> Result<(Terms, Vec<Vec<f32>>), LossError> {
    if let Head::Classify { .. } = head {
        let [logits] = views else { return Err(LossError::Head { expected: "classify" }) };
        let loss = loss::classify(*logits, &labels.classes)?;
        return Ok((Terms { cls: loss.loss, ..Terms::default() }, vec![loss.grad]));
    }
    branches(head, views, labels, weight, None)
}

/// As [`label_loss`], of a head that finds objects.
fn branches(
    head: &Head,
    views: &[HeadView<'_>],
    labels: &Labels,
    weight: f64,
    share: Option<&Share>,
) -> Result<(Terms, Vec<Vec<f32>>), LossError> {
    let kind = loss::Branch::of(head)?;
    let (first, second) = views.split_at(if is_pair(head) { views.len() / 2 } else { views.len() });
    let outputs = loss::Outputs { share, ..loss::Outputs::of(&kind, first)? };
    let images = first.first().map_or(0, |view| view.shape[0]);
    let size = outputs.prototypes.map_or([0, 0], |p| [p.shape[2], p.shape[3]]);
    let planes = labels.shapes.planes(&labels.targets, images, size);
    let shapes = labels.shapes.shapes(&planes, size);
    let (terms, grads) = if is_pair(head) {
        let outputs = [outputs, loss::Outputs { share, ..loss::Outputs::of(&kind, second)? }];
        let found = loss::end_to_end(&kind, outputs, &labels.targets, shapes, weight)?;
        let terms = found.terms(weight);
        let mut grads = found.one2many_grads.in_order();
        grads.extend(found.one2one_grads.in_order());
        // Prototypes come last of a branch, and only the first one trains them.
        grads.extend(outputs[1].prototypes.map(|prototypes| vec![0.0; prototypes.data.len()]));
        (terms, grads)
    } else {
        let found = loss::branch(&kind, outputs, &labels.targets, shapes)?;
        (found.terms, found.grads.in_order())
    };
    let (box_, cls, dfl) = (terms.boxes, terms.classes, terms.distances);
    let task = match head.branch() {
        Head::Detect { .. } => 0.0,
        _ => terms.sum() - box_ - cls - dfl,
    };
    Ok((Terms { box_, cls, dfl, task, distill: 0.0 }, grads))
}

/// What a teacher adds; of two branches each learns from the same branch of the teacher.
fn teacher_loss(
    head: &Head,
    (student, teacher): (&[HeadView<'_>], &[HeadView<'_>]),
    (options, weight): (&distill::Distillation, f64),
    share: Option<&Share>,
    grads: &mut [Vec<f32>],
) -> Result<f64, LossError> {
    if !is_pair(head) {
        return distill::head(head, student, teacher, (options, share), grads);
    }
    let half = student.len() / 2;
    let mut sum = 0.0;
    for (range, factor) in [(0..half, weight), (half..student.len(), 1.0 - weight)] {
        let parts = (student.get(range.clone()), teacher.get(range.clone()), grads.get_mut(range));
        let (Some(student), Some(teacher), Some(grads)) = parts else {
            return Err(LossError::Head { expected: "detect, segment, pose or obb" });
        };
        let [class, box_, task] = [options.class, options.box_, options.task].map(|gain| gain * factor);
        let options = distill::Distillation { class, box_, task, ..*options };
        sum += distill::head(head, student, teacher, (&options, share), grads)?;
    }
    // The second branch reads the prototypes, and does not train them.
    if let (Head::Segment { .. }, Some(prototypes)) = (head.branch(), grads.last_mut()) {
        prototypes.fill(0.0);
    }
    Ok(sum)
}
