//! What a step of a training minimises: the loss of the labels, and what a teacher adds to it; both with their gradients by
//! the outputs of the network.

use super::batch::Batch;
use super::config::{FitConfig, Terms, TrainError};
use super::{distill, loss};
use crate::graph::Head;
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

    /// The only output of a classifier.
    fn single(&self) -> Result<loss::HeadView<'_>, loss::LossError> {
        let [(shape, data)] = &self.0[..] else { return Err(loss::LossError::Head { expected: "classify" }) };
        Ok(loss::HeadView { data, shape: *shape })
    }

    fn views(&self) -> Vec<loss::HeadView<'_>> {
        self.0.iter().map(|(shape, data)| loss::HeadView { data, shape: *shape }).collect()
    }
}

/// The loss of a batch by the outputs of the network and, where it has one, of its teacher; and the gradient by every
/// output of the network, in their order. Where a head has two branches, `weight` is that of the one-to-many branch.
///
/// # Errors
/// If outputs or labels are not those of the head.
pub(super) fn objective(
    head: &Head,
    (values, taught): (&Outputs, Option<&Outputs>),
    batch: &Batch,
    (config, weight): (&FitConfig, f64),
) -> Result<(Terms, Vec<Vec<f32>>), TrainError> {
    let views = values.views();
    let (mut terms, mut grads) = match head {
        Head::Classify { .. } => {
            let loss = loss::classify(values.single()?, &batch.classes)?;
            (Terms { cls: loss.loss, ..Terms::default() }, vec![loss.grad])
        }
        _ => of_labels(head, &views, batch, weight)?,
    };
    let Some(taught) = taught else { return Ok((terms, grads)) };
    let mut options = config.distillation;
    options.class *= config.distill;
    options.box_ *= config.distill;
    terms.distill = match head {
        Head::Classify { .. } => distill::classify(values.single()?, taught.single()?, &options, &mut grads[0])?,
        _ => of_teacher(head, (&views, &taught.views()), (&options, weight), &mut grads)?,
    };
    Ok((terms, grads))
}

/// Whether the head has both branches: then its outputs are those of the one, followed by those of the other.
fn is_pair(head: &Head) -> bool {
    matches!(head, Head::EndToEnd { one2many: true, .. })
}

/// The loss of the labels.
fn of_labels(
    head: &Head,
    views: &[loss::HeadView<'_>],
    batch: &Batch,
    weight: f64,
) -> Result<(Terms, Vec<Vec<f32>>), TrainError> {
    let kind = loss::Branch::of(head)?;
    let (first, second) = views.split_at(if is_pair(head) { views.len() / 2 } else { views.len() });
    let outputs = loss::Outputs::of(&kind, first)?;
    let size = outputs.prototypes.map_or([0, 0], |p| [p.shape[2], p.shape[3]]);
    let planes = batch.shapes.planes(&batch.targets, batch.size, size);
    let shapes = batch.shapes.shapes(&planes, size);
    let (terms, grads) = if is_pair(head) {
        let outputs = [outputs, loss::Outputs::of(&kind, second)?];
        let found = loss::end_to_end(&kind, outputs, &batch.targets, shapes, weight)?;
        let terms = found.terms(weight);
        // Prototypes come last of a branch, and only the first one trains them: the second one's list ends before.
        let grads = found.one2many_grads.in_order().into_iter().chain(found.one2one_grads.in_order());
        (terms, grads.collect())
    } else {
        let found = loss::branch(&kind, outputs, &batch.targets, shapes)?;
        (found.terms, found.grads.in_order())
    };
    let (box_, cls, dfl) = (terms.boxes, terms.classes, terms.distances);
    let task = terms.sum() - box_ - cls - dfl;
    Ok((Terms { box_, cls, dfl, task, distill: 0.0 }, grads))
}

/// What the teacher's boxes and classes add: the outputs of the task itself are trained by the labels alone. Of two
/// branches each learns from the same branch of the teacher.
fn of_teacher(
    head: &Head,
    (student, teacher): (&[loss::HeadView<'_>], &[loss::HeadView<'_>]),
    (options, weight): (&distill::Distillation, f64),
    grads: &mut [Vec<f32>],
) -> Result<f64, TrainError> {
    let outputs = head.boxes().map_or(0, |boxes| 2 * boxes.strides.len());
    let branches = if is_pair(head) { vec![(0, weight), (student.len() / 2, 1.0 - weight)] } else { vec![(0, 1.0)] };
    let mut sum = 0.0;
    for (first, factor) in branches {
        let range = first..first + outputs;
        let parts = (student.get(range.clone()), teacher.get(range.clone()), grads.get_mut(range));
        let (Some(student), Some(teacher), Some(grads)) = parts else {
            return Err(loss::LossError::Head { expected: "detect, segment, pose or obb" }.into());
        };
        let options = distill::Distillation { class: options.class * factor, box_: options.box_ * factor, ..*options };
        let loss = distill::detect(head, student, teacher, &options, grads)?;
        sum += loss.cls + loss.box_;
    }
    Ok(sum)
}
