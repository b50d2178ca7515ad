//! From raw outputs to candidate boxes.
//!
//! The distance of each box side from the cell's centre is the mean of a distribution over bins (Li et al., "Generalized Focal
//! Loss", NeurIPS 2020), in units of the level's stride. Only cells with a class above the threshold are worked out.

use super::Detection;
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

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// One level of a detect head's outputs.
struct Level<'a> {
    boxes: &'a [f32],
    classes: &'a [f32],
    width: usize,
    area: usize,
    stride: f32,
    reg_max: usize,
    first_cell: usize,
}

/// The levels of a detect head, as far as the outputs have the sizes they must have.
fn levels<'a>(head: &Head, (height, width): (usize, usize), outputs: &[&'a [f32]]) -> Vec<Level<'a>> {
    let Head::Detect { nc, reg_max, strides } = head else { return Vec::new() };
    let mut first_cell = 0;
    let mut levels = Vec::new();
    for (stride, pair) in strides.iter().zip(outputs.chunks_exact(2)) {
        let (h, w) = (height.div_ceil(*stride), width.div_ceil(*stride));
        if pair[0].len() != 4 * reg_max * h * w || pair[1].len() != nc * h * w {
            continue;
        }
        let level = Level {
            boxes: pair[0],
            classes: pair[1],
            width: w,
            area: h * w,
            stride: *stride as f32,
            reg_max: *reg_max,
            first_cell,
        };
        levels.push(level);
        first_cell += h * w;
    }
    levels
}

impl Level<'_> {
    /// Left, top, right, bottom in input pixels.
    fn bbox(&self, cell: usize) -> [f32; 4] {
        let (x, y) = ((cell % self.width) as f32 + 0.5, (cell / self.width) as f32 + 0.5);
        let side = |side: usize| {
            let bin = |b: usize| self.boxes[(side * self.reg_max + b) * self.area + cell];
            let top = (0..self.reg_max).map(bin).fold(f32::MIN, f32::max);
            let (mut sum, mut mean) = (0.0, 0.0);
            for b in 0..self.reg_max {
                let e = (bin(b) - top).exp();
                sum += e;
                mean += e * b as f32;
            }
            mean / sum
        };
        [x - side(0), y - side(1), x + side(2), y + side(3)].map(|v| v * self.stride)
    }
}

/// The candidates of one image, cell after cell. `size` is the input's height and width, `outputs` the graph's raw
/// outputs in its order. Values that are not numbers lead to no candidate.
pub fn decode(head: &Head, size: (usize, usize), outputs: &[&[f32]], wanted: &Candidates) -> Vec<Candidate> {
    // On the logit the test costs no exponential.
    let least = (f64::from(wanted.score) / (1.0 - f64::from(wanted.score).min(1.0 - 1e-9))).ln() as f32 - 1e-3;
    let mut found = Vec::new();
    for level in levels(head, size, outputs) {
        let nc = level.classes.len() / level.area.max(1);
        let mut best = vec![f32::MIN; level.area];
        for plane in level.classes.chunks_exact(level.area) {
            best.iter_mut().zip(plane).for_each(|(b, v)| *b = b.max(*v));
        }
        for cell in (0..level.area).filter(|cell| best[*cell] > least) {
            let bbox = level.bbox(cell);
            if bbox.iter().any(|v| !v.is_finite()) {
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
    found
}

/// Everything, as exporters of this family write it: `[4 + nc, cells]`, centre, width and height in pixels, then scores.
pub fn decode_all(head: &Head, size: (usize, usize), outputs: &[&[f32]]) -> Vec<f32> {
    let levels = levels(head, size, outputs);
    let cells: usize = levels.iter().map(|level| level.area).sum();
    let mut all = vec![0.0; (4 + head_classes(head)) * cells];
    for level in &levels {
        for cell in 0..level.area {
            let at = level.first_cell + cell;
            let [x0, y0, x1, y1] = level.bbox(cell);
            for (row, value) in [(x0 + x1) / 2.0, (y0 + y1) / 2.0, x1 - x0, y1 - y0].into_iter().enumerate() {
                all[row * cells + at] = value;
            }
            for (class, plane) in level.classes.chunks_exact(level.area).enumerate() {
                all[(4 + class) * cells + at] = sigmoid(plane[cell]);
            }
        }
    }
    all
}

fn head_classes(head: &Head) -> usize {
    match head {
        Head::Detect { nc, .. } | Head::Classify { nc } => *nc,
    }
}
