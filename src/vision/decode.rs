//! From raw outputs to candidate boxes. Only cells with a class above the threshold are decoded.

use super::boxes::Detection;
use super::extra::Extra;
use super::levels::{levels, sigmoid};
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
    decode_to(head, size, outputs, wanted, &mut Vec::new(), &mut found);
    found
}

/// As [`decode`], behind what `found` holds. `best` is a buffer.
pub(super) fn decode_to(
    head: &Head,
    size: (usize, usize),
    outputs: &[&[f32]],
    wanted: &Candidates,
    best: &mut Vec<f32>,
    found: &mut Vec<Candidate>,
) {
    // On the logit the test costs no exponential.
    let least = (f64::from(wanted.score) / (1.0 - f64::from(wanted.score).min(1.0 - 1e-9))).ln() as f32 - 1e-3;
    for level in levels(head, size, outputs) {
        let nc = level.classes.len() / level.area.max(1);
        best.clear();
        best.resize(level.area, f32::MIN);
        for plane in level.classes.chunks_exact(level.area) {
            best.iter_mut().zip(plane).for_each(|(b, v)| *b = b.max(*v));
        }
        for cell in (0..level.area).filter(|cell| best[*cell] > least) {
            let bbox = level.bbox(cell);
            if !bbox.is_finite() {
                continue;
            }
            let mut push = |class: usize| {
                let score = sigmoid(level.classes[class * level.area + cell]);
                if score > wanted.score {
                    found
                        .push(Candidate { detection: Detection { class, score, bbox }, cell: level.first_cell + cell });
                }
            };
            if wanted.multi_label {
                (0..nc).filter(|class| level.classes[class * level.area + cell] > least).for_each(push);
            } else if let Some(class) = (0..nc).find(|class| level.classes[class * level.area + cell] == best[cell]) {
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
            let extra = Extra::of(head, level, outputs, cell);
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
            level.classes.chunks_exact(level.area).for_each(|plane| push(sigmoid(plane[cell])));
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
