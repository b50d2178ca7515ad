//! Non-maximum suppression: greedy for upright boxes, in one pass for rotated ones, as ultralytics does both.

use super::boxes::{Rotated, Xyxy};
use super::decode::Candidate;
use super::gaussian::Gaussian;

/// How boxes are suppressed.
#[derive(Clone, Copy, Debug)]
pub struct NmsOptions {
    /// Only scores above this.
    pub score: f32,
    /// A box whose IoU with a better one is above this is removed. Rotated boxes: probabilistic IoU.
    pub iou: f32,
    /// One box per class of a cell, not only the best class.
    pub multi_label: bool,
    /// Boxes of different classes suppress each other.
    pub agnostic: bool,
    /// The most boxes that are kept.
    pub max_det: usize,
}

impl Default for NmsOptions {
    /// For people: confident boxes only.
    fn default() -> Self {
        Self { score: 0.25, iou: 0.7, multi_label: false, agnostic: false, max_det: 300 }
    }
}

impl NmsOptions {
    /// For evaluation: nearly everything, so that the whole precision-recall curve is there.
    pub const EVALUATION: Self = Self { score: 0.001, iou: 0.7, multi_label: true, agnostic: false, max_det: 300 };
}

/// The most candidates that are looked at, best first.
pub(super) const MAX_CANDIDATES: usize = 30_000;

/// Pixels between the classes while boxes are compared: more than any image side of the family.
const CLASS_SHIFT: f32 = 7680.0;

/// The candidates that are kept, best first; of equal scores the earlier one comes first.
pub fn nms(mut candidates: Vec<Candidate>, options: &NmsOptions) -> Vec<Candidate> {
    candidates.retain(|c| c.detection.score > options.score);
    candidates.sort_by(|a, b| b.detection.score.total_cmp(&a.detection.score));
    suppress(&mut candidates, &mut Vec::new(), options);
    candidates
}

/// Leaves those of the candidates that are kept; they come best first. `kept` is a buffer.
pub(super) fn suppress(candidates: &mut Vec<Candidate>, kept: &mut Vec<Xyxy>, options: &NmsOptions) {
    candidates.truncate(MAX_CANDIDATES);
    // Boxes of different classes are shifted apart, so that one comparison serves both modes; the shift also rounds the
    // coordinates as the reference's does.
    let apart = |c: &Candidate| {
        let shift = if options.agnostic { 0.0 } else { c.detection.class as f32 * CLASS_SHIFT };
        c.detection.bbox.map(|v| v + shift)
    };
    kept.clear();
    candidates.retain(|candidate| {
        if kept.len() >= options.max_det {
            return false;
        }
        let bbox = apart(candidate);
        let alone = kept.iter().all(|better| better.iou(&bbox) <= options.iou);
        if alone {
            kept.push(bbox);
        }
        alone
    });
}

/// The rotated boxes that are kept, best first; of equal scores the earlier one comes first. One pass: a box goes if any
/// better one of its class overlaps it too much, whether that one is kept or not.
pub fn nms_rotated(mut candidates: Vec<(Candidate, Rotated)>, options: &NmsOptions) -> Vec<(Candidate, Rotated)> {
    candidates.retain(|(c, bbox)| c.detection.score > options.score && bbox.is_finite());
    candidates.sort_by(|(a, _), (b, _)| b.detection.score.total_cmp(&a.detection.score));
    candidates.truncate(MAX_CANDIDATES);
    let mut better = Better::default();
    let kept = candidates.into_iter().filter(|(c, bbox)| better.admits(c.detection.class, bbox, options));
    kept.take(options.max_det).collect()
}

/// The rotated boxes that were looked at so far, which are better than those to come.
#[derive(Clone, Debug, Default)]
pub(super) struct Better(Vec<(usize, Gaussian)>);

impl Better {
    /// Forgets all, and takes memory for as many as there can be.
    pub fn reserve(&mut self, most: usize) {
        self.0.clear();
        self.0.reserve(most.min(MAX_CANDIDATES));
    }

    /// Whether no better box suppresses this one, which joins them in either case.
    pub fn admits(&mut self, class: usize, bbox: &Rotated, options: &NmsOptions) -> bool {
        let (shape, iou) = (bbox.gaussian(), f64::from(options.iou));
        let mut rivals = self.0.iter().filter(|(other, _)| options.agnostic || *other == class);
        let admitted = rivals.all(|(_, rival)| rival.is_beyond(&shape, iou) || rival.iou(&shape) <= iou);
        self.0.push((class, shape));
        admitted
    }
}
