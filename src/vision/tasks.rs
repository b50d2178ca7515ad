//! From raw outputs to the objects of an image: decoding, suppression of duplicates, and what the task adds.

use super::boxes::{Detection, Xyxy};
use super::decode::{Candidate, Candidates, decode, decode_to};
use super::extra::Extra;
use super::levels::{Outputs, cells, levels};
use super::nms::{Better, MAX_CANDIDATES, NmsOptions, nms, suppress};
use super::topk::{TopBuffers, top, top_to};
use crate::graph::Head;

/// Detections in pixels of the network's input, best first: [`decode`], then [`nms`]; of a one-to-one branch [`top`].
/// Where a graph has both branches, the one-to-many branch answers.
///
/// `outputs` are the raw outputs of a detect graph for one image, in the graph's order. A classifier has no detections.
pub fn detect(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<Detection> {
    let kept = if head.is_one2one() {
        top(head, size, outputs, options)
    } else {
        let wanted = Candidates { score: options.score, multi_label: options.multi_label };
        nms(decode(head, size, outputs, &wanted), options)
    };
    kept.into_iter().map(|kept| kept.detection).collect()
}

/// Objects in pixels of the network's input, best first: the boxes that are kept, and what the task adds to each. The
/// box of a rotated object is the upright one around it.
pub fn find(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<(Detection, Extra)> {
    let mut found = Vec::new();
    find_with(head, size, outputs.into(), options, &mut FindBuffers::default(), |detection, extra| {
        found.push((detection, extra.clone()));
    });
    found
}

/// Buffers that [`find_with`] uses again from image to image.
#[derive(Clone, Debug, Default)]
pub struct FindBuffers {
    best: Vec<f32>,
    top: TopBuffers,
    candidates: Vec<Candidate>,
    boxes: Vec<Xyxy>,
    better: Better,
    extra: Extra,
}

impl FindBuffers {
    /// Takes what any image can need: one candidate a cell. Candidates of several classes a cell, which are for
    /// evaluations, get memory when they come.
    fn reserve(&mut self, cells: usize, options: &NmsOptions) {
        let most = options.max_det.min(cells);
        // Of some cells of an image there may be more in the next.
        self.best.clear();
        self.best.reserve(cells);
        self.candidates.clear();
        self.candidates.reserve(cells);
        self.boxes.clear();
        self.boxes.reserve(most);
    }
}

/// As [`find`], object by object. It allocates for the first image only, except with `multi_label`. The outputs may be those
/// of some cells, of all that have a class above the [`least_logit`](super::least_logit) of the options' score; of a
/// one-to-one branch they must be whole.
pub fn find_with(
    head: &Head,
    size: (usize, usize),
    outputs: Outputs,
    options: &NmsOptions,
    buffers: &mut FindBuffers,
    mut give: impl FnMut(Detection, &Extra),
) {
    buffers.reserve(cells(head, size), options);
    let FindBuffers { best, top, candidates, boxes, better, extra } = buffers;
    let add = |candidate: &Candidate, extra: &mut Extra| {
        let mut place = levels(head, size, outputs).filter_map(|level| Some((level.column(candidate.cell)?, level)));
        *extra = place
            .next()
            .map_or(Extra::None, |(column, level)| std::mem::take(extra).turned_into(head, &level, outputs, column));
    };
    if head.is_one2one() {
        candidates.reserve(options.max_det.min(cells(head, size) * head.classes()));
        top_to(head, size, outputs.values, options, top, candidates);
        for kept in candidates.iter() {
            add(kept, extra);
            let bbox = if let Extra::Rotated(bbox) = extra { bbox.hull() } else { kept.detection.bbox };
            give(Detection { bbox, ..kept.detection }, extra);
        }
        return;
    }
    let wanted = Candidates { score: options.score, multi_label: options.multi_label };
    decode_to(head, size, outputs, &wanted, best, candidates);
    // They come cell by cell and class by class: of equal scores the earlier one stays first.
    candidates.sort_unstable_by(|a, b| {
        let order = |c: &Candidate| (c.cell, c.detection.class);
        b.detection.score.total_cmp(&a.detection.score).then_with(|| order(a).cmp(&order(b)))
    });
    if !matches!(head.branch(), Head::Obb { .. }) {
        suppress(candidates, boxes, options);
        for kept in candidates.iter() {
            add(kept, extra);
            give(kept.detection, extra);
        }
        return;
    }
    // Rotated boxes are suppressed by their own overlap, in one pass.
    better.reserve(cells(head, size));
    let mut kept = 0;
    for candidate in candidates.iter().take(MAX_CANDIDATES) {
        if kept >= options.max_det {
            break;
        }
        add(candidate, extra);
        let Extra::Rotated(bbox) = *extra else { continue };
        if bbox.is_finite() && better.admits(candidate.detection.class, &bbox, options) {
            kept += 1;
            give(Detection { bbox: bbox.hull(), ..candidate.detection }, extra);
        }
    }
}
