//! From raw outputs to the objects of an image: decoding, suppression of duplicates, and what the task adds.

use super::boxes::{Detection, Rotated};
use super::decode::{Candidate, Candidates, decode};
use super::extra::Extra;
use super::levels::levels;
use super::nms::{NmsOptions, nms, nms_rotated};
use crate::graph::Head;

/// Detections in pixels of the network's input, best first: [`decode`], then [`nms`].
///
/// `outputs` are the raw outputs of a detect graph for one image, in the graph's order. A classifier has no detections.
pub fn detect(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<Detection> {
    let candidates =
        decode(head, size, outputs, &Candidates { score: options.score, multi_label: options.multi_label });
    nms(candidates, options).into_iter().map(|kept| kept.detection).collect()
}

/// Objects in pixels of the network's input, best first: the boxes that are kept, and what the task adds to each. The
/// box of a rotated object is the upright one around it.
pub fn find(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<(Detection, Extra)> {
    let wanted = Candidates { score: options.score, multi_label: options.multi_label };
    let candidates = decode(head, size, outputs, &wanted);
    let levels = levels(head, size, outputs);
    let extra = |candidate: &Candidate| {
        let level = levels.iter().rfind(|level| level.first_cell <= candidate.cell);
        level.map_or(Extra::None, |level| Extra::of(head, level, outputs, candidate.cell - level.first_cell))
    };
    if matches!(head, Head::Obb { .. }) {
        let rotated = |candidate: Candidate| match extra(&candidate) {
            Extra::Rotated(bbox) => Some((candidate, bbox)),
            _ => None,
        };
        let kept = nms_rotated(candidates.into_iter().filter_map(rotated).collect(), options);
        let upright = |(candidate, bbox): (Candidate, Rotated)| {
            (Detection { bbox: bbox.hull(), ..candidate.detection }, Extra::Rotated(bbox))
        };
        return kept.into_iter().map(upright).collect();
    }
    nms(candidates, options).iter().map(|kept| (kept.detection, extra(kept))).collect()
}
