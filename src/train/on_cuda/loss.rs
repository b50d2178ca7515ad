//! The loss of detection where the device computes it: which heads it is for, the labels of a batch as the device reads
//! them, and what stands between its sums and its terms.

use super::super::batch::Batch;
use super::super::config::{FitConfig, TrainError};
use super::super::loss::{BOX_GAIN, Branch, CLASS_GAIN, DFL_GAIN};
use super::super::objective::is_pair;
use super::super::terms::Terms;
use crate::graph::Head;
use crate::ranks::Share;
use crate::training::{Detection, Factors, LossBranch, MOST_LEVELS, MOST_TOP, TrainingError};

/// How the device computes the loss of a head, for images that show so many objects at most; none of heads that find more
/// than boxes, have more levels than the device takes, or classify.
pub fn plan(head: &Head, config: &FitConfig, objects: usize) -> Option<Detection> {
    if !matches!(head.branch(), Head::Detect { .. }) {
        return None;
    }
    let branch = Branch::of(head).ok()?;
    let kinds = if is_pair(head) { vec![branch.clone(), branch.one2one()] } else { vec![branch.clone()] };
    let fits = |kind: &Branch| kind.top <= MOST_TOP && matches!(kind.keep, None | Some(1));
    (branch.strides.len() <= MOST_LEVELS && kinds.iter().all(fits)).then(|| Detection {
        bins: branch.reg_max,
        branches: kinds.iter().map(|kind| LossBranch { top: kind.top, keeps_one: kind.keep.is_some() }).collect(),
        objects: objects.max(1),
        temperature: config.distillation.temperature,
        min_confidence: config.distillation.min_confidence,
    })
}

/// The labels of a batch: of every image how many objects, and of each its class, centre and size.
///
/// # Errors
/// Names a label that does not fit the head, and refuses images that show more objects than was planned for.
pub fn labels(head: &Head, plan: &Detection, batch: &Batch) -> Result<Vec<f32>, TrainError> {
    let (images, room) = (batch.size(), 1 + 5 * plan.objects);
    let mut labels = vec![0.0; images * room];
    for (number, target) in batch.labels.targets.iter().enumerate() {
        target.check(number, head.classes(), images)?;
        let own = &mut labels[target.image * room..][..room];
        let at = own[0] as usize;
        if at == plan.objects {
            let expected = format!("at most {at} objects an image");
            return Err(TrainingError::Length { what: "labels", found: at + 1, expected }.into());
        }
        own[0] += 1.0;
        own[1 + 5 * at] = target.class as f32;
        own[2 + 5 * at..][..4].copy_from_slice(&target.bbox.0);
    }
    Ok(labels)
}

/// The weights of the branches; `weight` is that of the first of two.
pub fn weights(plan: &Detection, weight: f64) -> Vec<f64> {
    if plan.branches.len() == 2 { vec![weight, 1.0 - weight] } else { vec![1.0; plan.branches.len()] }
}

/// What the terms of a branch are multiplied by, per image; gradients are those of the batch size times the sum.
#[derive(Clone, Copy, Debug)]
pub struct Scales {
    images: f64,
    terms: Factors,
}

/// Those of every branch, from the sums of this rank's images.
///
/// # Errors
/// If a rank cannot be reached.
pub fn scales(
    sums: &[Vec<[f32; 2]>],
    weights: &[f64],
    (config, share): (&FitConfig, &Share),
) -> Result<Vec<Scales>, TrainError> {
    let of = |(sums, weight): (&Vec<[f32; 2]>, &f64)| {
        let all = share.gather(sums.iter().flatten().map(|sum| f64::from(*sum)).collect())?;
        let sum = |which: usize| all.iter().skip(which).step_by(2).sum::<f64>().max(1.0);
        let (scores, confidences) = (sum(0), sum(1));
        let taught = |factor: f64| weight * config.distill * factor / confidences;
        let own = |gain: f64| weight * gain / scores;
        let terms = Factors {
            boxes: own(BOX_GAIN),
            classes: own(CLASS_GAIN),
            distances: own(DFL_GAIN),
            taught_classes: taught(config.distillation.class),
            taught_boxes: taught(config.distillation.box_),
        };
        Ok(Scales { images: share.images() as f64, terms })
    };
    sums.iter().zip(weights).map(of).collect()
}

impl Scales {
    /// What the gradients of the terms are multiplied by.
    pub fn factors(&self) -> Factors {
        let Factors { boxes, classes, distances, taught_classes, taught_boxes } = self.terms;
        let [boxes, classes, distances, taught_classes, taught_boxes] =
            [boxes, classes, distances, taught_classes, taught_boxes].map(|scale| self.images * scale);
        Factors { boxes, classes, distances, taught_classes, taught_boxes }
    }

    /// The terms from what the device found.
    pub fn terms(&self, found: &Factors) -> Terms {
        let scales = &self.terms;
        Terms {
            box_: scales.boxes * found.boxes,
            cls: scales.classes * found.classes,
            dfl: scales.distances * found.distances,
            task: 0.0,
            distill: scales.taught_classes * found.taught_classes + scales.taught_boxes * found.taught_boxes,
        }
    }
}
