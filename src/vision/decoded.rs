//! Detections from outputs that are decoded already, as exporters of this family write them: another runtime computed
//! them.

use super::boxes::{Detection, Xyxy};
use super::decode::Candidate;
use super::levels::cells;
use super::nms::{NmsOptions, nms};
use super::topk::TopBuffers;
use crate::graph::Head;

/// The boxes of an output `[4 + nc + extra, cells]` as [`decode_all`](super::decode_all) writes it, best first: those that
/// [`detect`](super::detect()) keeps of the same network's raw outputs. None where the output has another size.
pub fn detect_decoded(
    head: &Head,
    size: (usize, usize),
    output: &[f32],
    options: &NmsOptions,
) -> Option<Vec<Detection>> {
    let (nc, cells) = (head.classes(), cells(head, size));
    if cells == 0 || output.len() != (4 + nc + head.extra()) * cells {
        return None;
    }
    let at = |row: usize, cell: usize| output[row * cells + cell];
    let score = |class: usize, cell: usize| at(4 + class, cell);
    let candidate = |class: usize, cell: usize| {
        let [x, y, w, h] = [0, 1, 2, 3].map(|row| at(row, cell));
        let bbox = Xyxy([x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0]);
        let candidate = Candidate { detection: Detection { class, score: score(class, cell), bbox }, cell };
        (candidate.detection.score > options.score && bbox.is_finite()).then_some(candidate)
    };
    let kept = if head.is_one2one() {
        let mut buffers = TopBuffers::default();
        let best = (0..cells).map(|cell| (0..nc).map(|class| score(class, cell)).fold(f32::MIN, f32::max));
        buffers.choose(best, |cell, tell| (0..nc).for_each(|class| tell(score(class, cell))), options);
        buffers.chosen().filter_map(|(_, cell, class)| candidate(class, cell)).collect()
    } else {
        let mut candidates = Vec::new();
        for cell in 0..cells {
            let best = (0..nc).map(|class| score(class, cell)).fold(f32::MIN, f32::max);
            if best <= options.score {
                continue;
            }
            let wanted = |class: &usize| options.multi_label || score(*class, cell) == best;
            let classes = (0..nc).filter(wanted).take(if options.multi_label { nc } else { 1 });
            candidates.extend(classes.filter_map(|class| candidate(class, cell)));
        }
        nms(candidates, options)
    };
    Some(kept.into_iter().map(|kept| kept.detection).collect())
}
