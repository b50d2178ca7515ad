//! Boxes from distances or distributions of them, complete IoU (Zheng et al., "Distance-IoU Loss", 2020), distribution
//! focal loss (Li et al., "Generalized Focal Loss", 2020), and the plain distance loss where there are no
//! distributions.

use super::batch::Level;
use std::f64::consts::PI;

/// Guards divisions by empty boxes.
const EPS: f64 = 1e-7;
/// Targets are kept this far below the last bin.
const LAST_BIN_MARGIN: f64 = 0.01;

/// The predicted distances of a cell from its box sides.
pub(super) struct Sides {
    /// Bin probabilities, `[4][reg_max]` flat; none where the outputs are the distances.
    p: Vec<f64>,
    /// Left, top, right, bottom, in cells.
    pub mean: [f64; 4],
}

impl Sides {
    /// Those of a cell. With one bin per side the outputs are the distances themselves.
    pub fn of(level: &Level<'_>, cell: usize, reg_max: usize) -> Self {
        let output = |row: usize| f64::from(level.boxes[row * level.area() + cell]);
        if reg_max == 1 {
            return Self { p: Vec::new(), mean: [0, 1, 2, 3].map(output) };
        }
        let mut p = vec![0.0; 4 * reg_max];
        let mut mean = [0.0; 4];
        for (side, p) in p.chunks_exact_mut(reg_max).enumerate() {
            let logit = |bin: usize| output(side * reg_max + bin);
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
        Self { p, mean }
    }

    /// Adds the gradient that belongs to these gradients of the distances to `grad`, which has the layout of the
    /// level's box outputs.
    pub fn add_gradient(&self, level: &Level<'_>, cell: usize, d_mean: [f64; 4], grad: &mut [f32]) {
        let bins = self.p.len() / 4;
        for (side, d) in d_mean.into_iter().enumerate() {
            if bins == 0 {
                grad[side * level.area() + cell] += d as f32;
            }
            for (bin, p) in self.p.iter().skip(side * bins).take(bins).enumerate() {
                let d = d * p * (bin as f64 - self.mean[side]);
                grad[(side * bins + bin) * level.area() + cell] += d as f32;
            }
        }
    }

    /// How far the distances are from those of the target, `wanted`, in cells: the distribution focal loss, or without
    /// distributions the mean difference, each times the side's `share` (a cell as a share of the image). Adds `factor`
    /// times its gradient to `grad`.
    pub fn distance_loss(
        &self,
        (level, cell): (&Level<'_>, usize),
        wanted: [f64; 4],
        shares: [f64; 2],
        factor: f64,
        grad: &mut [f32],
    ) -> f64 {
        if self.p.is_empty() {
            let off: [f64; 4] = std::array::from_fn(|side| self.mean[side] - wanted[side]);
            let share = |side: usize| shares[side % 2] / 4.0;
            let d = std::array::from_fn(
                |side| if off[side] == 0.0 { 0.0 } else { factor * share(side) * off[side].signum() },
            );
            self.add_gradient(level, cell, d, grad);
            return (0..4).map(|side| off[side].abs() * share(side)).sum();
        }
        let bins = self.p.len() / 4;
        let mut loss = 0.0;
        for (side, wanted) in wanted.into_iter().enumerate() {
            let wanted = wanted.clamp(0.0, (bins as f64 - 1.0 - LAST_BIN_MARGIN).max(0.0));
            let low = wanted as usize;
            let share = wanted - low as f64;
            for (bin, p) in self.p[side * bins..(side + 1) * bins].iter().enumerate() {
                let weight = match bin {
                    b if b == low => 1.0 - share,
                    b if b == low + 1 => share,
                    _ => 0.0,
                };
                if weight > 0.0 {
                    loss -= weight * p.max(f64::MIN_POSITIVE).ln() / 4.0;
                }
                grad[(side * bins + bin) * level.area() + cell] += (factor * (p - weight) / 4.0) as f32;
            }
        }
        loss
    }
}

fn corners([x, y]: [f64; 2], [left, top, right, bottom]: [f64; 4]) -> [f64; 4] {
    [x - left, y - top, x + right, y + bottom]
}

/// Corners of a cell's box in cells.
pub(super) fn decode(level: &Level<'_>, cell: usize, reg_max: usize) -> [f64; 4] {
    corners(level.centre(cell), Sides::of(level, cell, reg_max).mean)
}

/// `1 - CIoU` and the distance loss ([`Sides::distance_loss`]) of a cell against a target (corners in cells). Adds
/// `factors[0]` times the gradient of the first and `factors[1]` times that of the second to `grad`, which has the
/// layout of the level's box outputs. `shares` are the width and the height of a cell as shares of the image's.
pub(super) fn loss(
    (level, cell): (&Level<'_>, usize),
    reg_max: usize,
    target: [f64; 4],
    shares: [f64; 2],
    factors: [f64; 2],
    grad: &mut [f32],
) -> (f64, f64) {
    let sides = Sides::of(level, cell, reg_max);
    let centre = level.centre(cell);
    let (iou, d_corner) = ciou_gradient(corners(centre, sides.mean), target);
    // Left and top distances move their corner the other way.
    let d_mean = [1.0, 1.0, -1.0, -1.0];
    let d_mean = std::array::from_fn(|side| factors[0] * d_mean[side] * d_corner[side]);
    sides.add_gradient(level, cell, d_mean, grad);
    let wanted = [centre[0] - target[0], centre[1] - target[1], target[2] - centre[0], target[3] - centre[1]];
    (1.0 - iou, sides.distance_loss((level, cell), wanted, shares, factors[1], grad))
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
        Level { boxes, classes: &[], extra: &[], sigmas: &[], h: 1, w: 2, stride: 8.0, first: 0 }
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
                let dfl = loss((&level(logits), 1), 8, target, [1.0; 2], [0.0; 2], &mut [0.0; 64]).1;
                factors[0] * box_ + factors[1] * dfl
            };
            let mut grad = [0.0; 64];
            loss((&level(&logits), 1), 8, target, [1.0; 2], factors, &mut grad);
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
