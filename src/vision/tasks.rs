//! From raw outputs to the objects of an image: decoding, suppression of duplicates, and what the task adds.

use super::boxes::{Detection, Rotated};
use super::decode::{Candidate, Candidates, decode};
use super::extra::Extra;
use super::levels::levels;
use super::nms::{NmsOptions, nms};
use super::topk::top;
use crate::graph::Head;

/// Detections in pixels of the network's input, best first: [`decode`], then [`nms`]; of a one-to-one branch [`top`].
/// Where a graph has both branches, the one-to-many branch answers.
///
/// `outputs` are the raw outputs of a detect graph for one image, in the graph's order. A classifier has no detections.
pub fn detect(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<Detection> {
    let kept = if head.is_one2one() {
        top(head, size, outputs, options)
    } else {
        nms(candidates(head, size, outputs, options), options)
    };
    kept.into_iter().map(|kept| kept.detection).collect()
}

/// Objects in pixels of the network's input, best first: the boxes that are kept, and what the task adds to each. The
/// box of a rotated object is the upright one around it.
pub fn find(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<(Detection, Extra)> {
    let levels = levels(head, size, outputs);
    let extra = |candidate: &Candidate| {
        let level = levels.iter().rfind(|level| level.first_cell <= candidate.cell);
        level.map_or(Extra::None, |level| Extra::of(head, level, outputs, candidate.cell - level.first_cell))
    };
    let rotates = matches!(head.branch(), Head::Obb { .. });
    if head.is_one2one() {
        let upright = |(detection, extra): (Detection, Extra)| match extra {
            Extra::Rotated(bbox) => (Detection { bbox: bbox.hull(), ..detection }, extra),
            _ => (detection, extra),
        };
        return top(head, size, outputs, options).iter().map(|kept| upright((kept.detection, extra(kept)))).collect();
    }
    let candidates = candidates(head, size, outputs, options);
    if rotates {
        return turned(candidates, &extra, options);
    }
    nms(candidates, options).iter().map(|kept| (kept.detection, extra(kept))).collect()
}

/// What may be suppressed.
fn candidates(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<Candidate> {
    decode(head, size, outputs, &Candidates { score: options.score, multi_label: options.multi_label })
}

/// Suppression of rotated boxes by their own overlap.
fn turned(
    mut candidates: Vec<Candidate>,
    extra: &dyn Fn(&Candidate) -> Extra,
    options: &NmsOptions,
) -> Vec<(Detection, Extra)> {
    candidates.sort_by(|a, b| b.detection.score.total_cmp(&a.detection.score));
    let mut kept: Vec<(Detection, Rotated)> = Vec::new();
    for candidate in candidates {
        if kept.len() >= options.max_det {
            break;
        }
        let Extra::Rotated(bbox) = extra(&candidate) else { continue };
        let detection = Detection { bbox: bbox.hull(), ..candidate.detection };
        let rival = |better: &Detection| options.agnostic || better.class == detection.class;
        if kept.iter().all(|(better, its)| !rival(better) || its.overlap(&bbox) <= options.iou) {
            kept.push((detection, bbox));
        }
    }
    kept.into_iter().map(|(detection, bbox)| (detection, Extra::Rotated(bbox))).collect()
}
