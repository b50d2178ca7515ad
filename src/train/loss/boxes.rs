//! Boxes from distance distributions, complete IoU (Zheng et al., "Distance-IoU Loss", 2020), and distribution focal
//! loss (Li et al., "Generalized Focal Loss", 2020).

use super::Level;
use std::f64::consts::PI;

/// Guards divisions by empty boxes.
const EPS: f64 = 1e-7;
/// Targets are kept this far below the last bin.
const LAST_BIN_MARGIN: f64 = 0.01;

/// Bin probabilities of the four sides of a cell, `[4][reg_max]` flat, and the mean distances in cells.
fn sides(level: &Level<'_>, cell: usize, reg_max: usize) -> (Vec<f64>, [f64; 4]) {
    let mut p = vec![0.0; 4 * reg_max];
    let mut mean = [0.0; 4];
    for (side, p) in p.chunks_exact_mut(reg_max).enumerate() {
        let logit = |bin: usize| f64::from(level.boxes[(side * reg_max + bin) * level.area() + cell]);
        let top = (0..reg_max).map(logit).fold(f64::NEG_INFINITY, f64::max);
        for (bin, p) in p.iter_mut().enumerate() {
            *p = (logit(bin) - top).exp();
        }
        let sum: f64 = p.iter().sum();
        for (bin, p) in p.iter_mut().enumerate() {
            *p /= sum;
            mean[side] += bin as f64 * *p;
        }
    }
    (p, mean)
}

fn corners([x, y]: [f64; 2], [left, top, right, bottom]: [f64; 4]) -> [f64; 4] {
    [x - left, y - top, x + right, y + bottom]
}

/// Corners of a cell's box in cells.
pub(super) fn decode(level: &Level<'_>, cell: usize, reg_max: usize) -> [f64; 4] {
    corners(level.centre(cell), sides(level, cell, reg_max).1)
}

/// `1 - CIoU` and the focal loss of a cell against a target (corners in cells). Adds `factors[0]` times the gradient
/// of the first and `factors[1]` times that of the second to `grad`, which has the layout of the level's box logits.
pub(super) fn loss(
    level: &Level<'_>,
    cell: usize,
    reg_max: usize,
    target: [f64; 4],
    factors: [f64; 2],
    grad: &mut [f32],
) -> (f64, f64) {
    let (p, mean) = sides(level, cell, reg_max);
    let centre = level.centre(cell);
    let (iou, d_corner) = ciou_gradient(corners(centre, mean), target);
    let last = reg_max as f64 - 1.0;
    let distances = [centre[0] - target[0], centre[1] - target[1], target[2] - centre[0], target[3] - centre[1]]
        .map(|d| d.clamp(0.0, (last - LAST_BIN_MARGIN).max(0.0)));
    let mut dfl = 0.0;
    for side in 0..4 {
        let p = &p[side * reg_max..(side + 1) * reg_max];
        let low = distances[side] as usize;
        let share = distances[side] - low as f64;
        let wanted = |bin: usize| match bin {
            b if b == low => 1.0 - share,
            b if b == low + 1 => share,
            _ => 0.0,
        };
        // Left and top distances move their corner the other way.
        let d_mean = if side < 2 { d_corner[side] } else { -d_corner[side] };
        for (bin, &p) in p.iter().enumerate() {
            if wanted(bin) > 0.0 {
                dfl -= wanted(bin) * p.max(f64::MIN_POSITIVE).ln() / 4.0;
            }
            let d = factors[0] * d_mean * p * (bin as f64 - mean[side]) + factors[1] * (p - wanted(bin)) / 4.0;
            grad[(side * reg_max + bin) * level.area() + cell] += d as f32;
        }
    }
    (1.0 - iou, dfl)
}

/// Complete IoU of two boxes given by their corners.
pub fn ciou(a: [f64; 4], b: [f64; 4]) -> f64 {
    ciou_gradient(a, b).0
}

/// Complete IoU of two boxes given by their corners, and its gradient with respect to the first. The weight of the
/// aspect-ratio term counts as a constant.
pub fn ciou_gradient(a: [f64; 4], b: [f64; 4]) -> (f64, [f64; 4]) {
    let (aw, ah) = (a[2] - a[0], a[3] - a[1] + EPS);
    let (bw, bh) = (b[2] - b[0], b[3] - b[1] + EPS);
    let iw = a[2].min(b[2]) - a[0].max(b[0]);
    let ih = a[3].min(b[3]) - a[1].max(b[1]);
    let inter = iw.max(0.0) * ih.max(0.0);
    let union = aw * ah + bw * bh - inter + EPS;
    let iou = inter / union;
    let cw = a[2].max(b[2]) - a[0].min(b[0]);
    let ch = a[3].max(b[3]) - a[1].min(b[1]);
    let diagonal = cw * cw + ch * ch + EPS;
    let (dx, dy) = (b[0] + b[2] - a[0] - a[2], b[1] + b[3] - a[1] - a[3]);
    let distance = (dx * dx + dy * dy) / 4.0;
    let k = 4.0 / (PI * PI);
    let turn = (bw / bh).atan() - (aw / ah).atan();
    let v = k * turn * turn;
    let alpha = v / (v - iou + 1.0 + EPS);

    // Per corner coordinate: left, top, right, bottom.
    let on = |c: bool| if c { 1.0 } else { 0.0 };
    let (gw, gh) = (on(iw > 0.0) * ih.max(0.0), on(ih > 0.0) * iw.max(0.0));
    let d_inter = [-gw * on(a[0] > b[0]), -gh * on(a[1] > b[1]), gw * on(a[2] < b[2]), gh * on(a[3] < b[3])];
    let d_area = [-ah, -aw, ah, aw];
    let d_diagonal = [
        -2.0 * cw * on(a[0] < b[0]),
        -2.0 * ch * on(a[1] < b[1]),
        2.0 * cw * on(a[2] > b[2]),
        2.0 * ch * on(a[3] > b[3]),
    ];
    let d_distance = [-dx / 2.0, -dy / 2.0, -dx / 2.0, -dy / 2.0];
    let bend = 2.0 * k * turn / (aw * aw + ah * ah);
    let d_v = [bend * ah, -bend * aw, -bend * ah, bend * aw];
    let gradient = std::array::from_fn(|i| {
        let d_iou = d_inter[i] / union - inter / (union * union) * (d_area[i] - d_inter[i]);
        d_iou - (d_distance[i] / diagonal - distance / (diagonal * diagonal) * d_diagonal[i]) - alpha * d_v[i]
    });
    (iou - distance / diagonal - alpha * v, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits `[4 * 8, 1, 2]`, of which the second cell is looked at.
    fn level(boxes: &[f32]) -> Level<'_> {
        Level { boxes, classes: &[], h: 1, w: 2, stride: 8.0, first: 0 }
    }

    #[test]
    fn gradients_of_both_terms_agree_with_finite_differences() {
        let logits: Vec<f32> = (0..64).map(|i| ((i * 37) % 101) as f32 / 25.0 - 2.0).collect();
        let target = [-0.5, -1.25, 4.0, 2.5];
        // The CIoU's corner gradient is checked elsewhere; here it is a constant that the box is projected on.
        let corner = ciou_gradient(decode(&level(&logits), 1, 8), target).1;
        for factors in [[1.0, 0.0], [0.0, 1.0]] {
            let value = |logits: &[f32]| {
                let box_: f64 = decode(&level(logits), 1, 8).iter().zip(corner).map(|(b, g)| -b * g).sum();
                let dfl = loss(&level(logits), 1, 8, target, [0.0; 2], &mut [0.0; 64]).1;
                factors[0] * box_ + factors[1] * dfl
            };
            let mut grad = [0.0; 64];
            loss(&level(&logits), 1, 8, target, factors, &mut grad);
            for i in 0..64 {
                let moved = |step: f32| {
                    let mut moved = logits.clone();
                    moved[i] += step;
                    value(&moved)
                };
                let difference = (moved(0.015625) - moved(-0.015625)) / 0.03125;
                assert!((difference - f64::from(grad[i])).abs() < 1e-4, "{i}: {difference} against {}", grad[i]);
            }
        }
    }
}
