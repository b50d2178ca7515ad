//! From raw outputs to candidate boxes. Only cells with a class above the threshold are decoded.

use super::boxes::Detection;
use super::extra::Extra;
use super::levels::{Outputs, levels, sigmoid};
use crate::graph::Head;

/// Which candidates are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    /// Only scores above this.
    pub score: f32,
    /// One candidate for every class above the threshold, not only the best of a cell.
    pub multi_label: bool,
}

/// A box before suppression, and the cell it came from (all levels counted through).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The box.
    pub detection: Detection,
    /// Number of the cell.
    pub cell: usize,
}

/// The candidates of one image, cell after cell. `size` is the input's height and width, `outputs` the graph's raw
/// outputs in its order. Values that are not numbers lead to no candidate.
pub fn decode(head: &Head, size: (usize, usize), outputs: &[&[f32]], wanted: &Candidates) -> Vec<Candidate> {
    let mut found = Vec::new();
    decode_to(head, size, outputs.into(), wanted, &mut Vec::new(), &mut found);
    found
}

/// A logit below that of a score, by more than rounding: a cell leads to a candidate of a better score only if one of its
/// classes is above.
pub fn least_logit(score: f32) -> f32 {
    (f64::from(score) / (1.0 - f64::from(score).min(1.0 - 1e-9))).ln() as f32 - 1e-3
}

/// As [`decode`], behind what `found` holds; where the outputs are those of some cells, these must be all that have a class
/// above [`least_logit`]. `best` is a buffer.
pub(super) fn decode_to(
    head: &Head,
    size: (usize, usize),
    outputs: Outputs,
    wanted: &Candidates,
    best: &mut Vec<f32>,
    found: &mut Vec<Candidate>,
) {
    // On the logit the test costs no exponential.
    let least = least_logit(wanted.score);
    for level in levels(head, size, outputs) {
        best.clear();
        best.resize(level.columns(), f32::MIN);
        for logits in level.logits() {
            best.iter_mut().zip(logits).for_each(|(b, v)| *b = b.max(*v));
        }
        for column in (0..level.columns()).filter(|column| best[*column] > least) {
            let (bbox, cell) = (level.bbox(column), level.cell(column));
            if !bbox.is_finite() {
                continue;
            }
            let mut push = |class: usize| {
                let score = sigmoid(level.logit(class, column));
                if score > wanted.score {
                    found.push(Candidate { detection: Detection { class, score, bbox }, cell });
                }
            };
            if wanted.multi_label {
                (0..level.classes()).filter(|class| level.logit(*class, column) > least).for_each(push);
            } else if let Some(class) = (0..level.classes()).find(|class| level.logit(*class, column) == best[column]) {
                push(class);
            }
        }
    }
}

/// Everything, as exporters of this family write it: `[4 + nc + extra, cells]`, centre, width and height in pixels,
/// then scores, then what the task adds: mask coefficients, keypoints in pixels, or the angle in radians.
pub fn decode_all(head: &Head, size: (usize, usize), outputs: &[&[f32]]) -> Vec<f32> {
    let levels: Vec<_> = levels(head, size, outputs).collect();
    let cells: usize = levels.iter().map(|level| level.area).sum();
    let first = 4 + head.classes();
    let mut all = vec![0.0; (first + head.extra()) * cells];
    for level in &levels {
        for cell in 0..level.area {
            let at = level.first_cell + cell;
            let extra = Extra::of(head, level, outputs.into(), cell);
            let [x0, y0, x1, y1] = level.bbox(cell).0;
            let mut row = 0;
            let mut push = |value: f32| {
                all[row * cells + at] = value;
                row += 1;
            };
            match &extra {
                Extra::Rotated(bbox) => bbox.centre.into_iter().chain(bbox.size).for_each(&mut push),
                _ => [(x0 + x1) / 2.0, (y0 + y1) / 2.0, x1 - x0, y1 - y0].into_iter().for_each(&mut push),
            }
            level.logits().for_each(|logits| push(sigmoid(logits[cell])));
            match extra {
                Extra::None => {}
                Extra::Coefficients(values) => values.into_iter().for_each(push),
                Extra::Rotated(bbox) => push(bbox.angle),
                Extra::Keypoints(points, dims) => {
                    points.iter().flat_map(|point| &point[..dims]).for_each(|value| push(*value));
                }
            }
        }
    }
    all
}
