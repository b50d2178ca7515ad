//! Rotated boxes: decoding, probabilistic IoU with its gradient (Llerena et al., "Gaussian Bounding Boxes and
//! Probabilistic Intersection-over-Union", 2021), and the loss of the angle.

use super::batch::{Branch, Convention, Level};
use super::boxes::Sides;
use super::sigmoid;
use std::f64::consts::PI;

/// Guards divisions, logarithm and root.
const EPS: f64 = 1e-7;
/// Added to both variances in the loss, in cells squared, so that thin boxes keep a gradient.
pub(super) const WIDENING: f64 = 0.01;
/// The angle of an object counts the less, the nearer it is to a square: `exp(-(ln(w / h) / 3)^2)`.
const ASPECT_SCALE: f64 = 9.0;

/// A predicted rotated box, and what its gradient is computed from.
pub(super) struct Decoded {
    /// Centre x, centre y, width, height in cells, and the angle in radians.
    pub bbox: [f64; 5],
    pub sides: Sides,
    /// `d angle / d raw output`.
    slope: f64,
}

/// The box of a cell.
pub(super) fn decode(level: &Level<'_>, cell: usize, branch: &Branch) -> Decoded {
    let sides = Sides::of(level, cell, branch.reg_max);
    let raw = level.extra(0, cell);
    let (angle, slope) = match branch.convention {
        Convention::Direct => (raw, 1.0),
        Convention::Distribution => {
            let s = f64::from(sigmoid(raw as f32));
            ((s - 0.25) * PI, s * (1.0 - s) * PI)
        }
    };
    let ([left, top, right, bottom], [x, y]) = (sides.mean, level.centre(cell));
    let ((sin, cos), [along, across]) = (angle.sin_cos(), [(right - left) / 2.0, (bottom - top) / 2.0]);
    let centre = [x + along * cos - across * sin, y + along * sin + across * cos];
    Decoded { bbox: [centre[0], centre[1], left + right, top + bottom, angle], sides, slope }
}

impl Decoded {
    /// Adds the gradient that belongs to the gradient of the box to those of the box outputs and of the angle.
    pub fn add_gradient(&self, (level, cell): (&Level<'_>, usize), d: [f64; 5], grad: &mut [f32], angle: &mut [f32]) {
        let ([left, top, right, bottom], (sin, cos)) = (self.sides.mean, self.bbox[4].sin_cos());
        let [along, across] = [(right - left) / 2.0, (bottom - top) / 2.0];
        let (d_along, d_across) = (d[0] * cos + d[1] * sin, d[1] * cos - d[0] * sin);
        let d_sides = [-d_along / 2.0 + d[2], -d_across / 2.0 + d[3], d_along / 2.0 + d[2], d_across / 2.0 + d[3]];
        self.sides.add_gradient(level, cell, d_sides, grad);
        let turn = d[4] - d[0] * (along * sin + across * cos) + d[1] * (along * cos - across * sin);
        angle[cell] += (turn * self.slope) as f32;
    }
}

/// The distances of a point from the sides of a rotated box, in the box's own frame: left, top, right, bottom.
pub(super) fn distances([x, y]: [f64; 2], [cx, cy, w, h, angle]: [f64; 5]) -> [f64; 4] {
    let ((sin, cos), (dx, dy)) = (angle.sin_cos(), (x - cx, y - cy));
    let (along, across) = (dx * cos + dy * sin, dy * cos - dx * sin);
    [w / 2.0 + along, h / 2.0 + across, w / 2.0 - along, h / 2.0 - across]
}

/// Variances along the sides of a box, and its covariance: along x, along y, of both.
fn covariance([_, _, w, h, angle]: [f64; 5], widening: f64) -> ([f64; 2], [f64; 3]) {
    let (sin, cos) = angle.sin_cos();
    let [a, b] = [w, h].map(|side| side * side / 12.0 + widening);
    ([a, b], [a * cos * cos + b * sin * sin, a * sin * sin + b * cos * cos, (a - b) * sin * cos])
}

/// Probabilistic IoU of two boxes (centre x, centre y, width, height, angle), whose variances are widened.
pub(super) fn overlap(a: [f64; 5], b: [f64; 5], widening: f64) -> f64 {
    overlap_gradient(a, b, widening).0
}

/// [`overlap`], and its gradient with respect to the first box.
pub fn overlap_gradient(a: [f64; 5], b: [f64; 5], widening: f64) -> (f64, [f64; 5]) {
    let ((own, p), (others, q)) = (covariance(a, widening), covariance(b, widening));
    let [xx, yy, xy]: [f64; 3] = std::array::from_fn(|i| p[i] + q[i]);
    let (dx, dy) = (a[0] - b[0], a[1] - b[1]);
    let det = xx * yy - xy * xy;
    let guarded = det + EPS;
    let quadratic = xx * dy * dy + yy * dx * dx - 2.0 * xy * dx * dy;
    let apart = quadratic / (4.0 * guarded);
    let (first, second) = (own[0] * own[1], others[0] * others[1]);
    let product = (first * second).sqrt();
    let middle = 4.0 * product + EPS;
    let ratio = det / middle + EPS;
    let unclamped = apart + 0.5 * ratio.ln();
    let distance = unclamped.clamp(EPS, 100.0);
    let hellinger = (1.0 - (-distance).exp() + EPS).sqrt();
    if unclamped != distance {
        return (1.0 - hellinger, [0.0; 5]);
    }
    // d distance / d (xx, yy, xy), directly and through the determinant.
    let d_det = -apart / guarded + 0.5 / (ratio * middle);
    let d_xx = dy * dy / (4.0 * guarded) + d_det * yy;
    let d_yy = dx * dx / (4.0 * guarded) + d_det * xx;
    let d_xy = -dx * dy / (2.0 * guarded) - 2.0 * d_det * xy;
    // Through the determinant of the first box alone, which its angle does not change.
    let d_first = if product > 0.0 { -det / (ratio * middle * middle) * second / product } else { 0.0 };
    let (sin, cos) = a[4].sin_cos();
    let d_own = [
        d_xx * cos * cos + d_yy * sin * sin + d_xy * sin * cos + d_first * own[1],
        d_xx * sin * sin + d_yy * cos * cos - d_xy * sin * cos + d_first * own[0],
    ];
    let d_angle = (own[0] - own[1]) * ((d_yy - d_xx) * 2.0 * sin * cos + d_xy * (cos * cos - sin * sin));
    let d_distance = [
        (yy * dx - xy * dy) / (2.0 * guarded),
        (xx * dy - xy * dx) / (2.0 * guarded),
        d_own[0] * a[2] / 6.0,
        d_own[1] * a[3] / 6.0,
        d_angle,
    ];
    let slope = -(-distance).exp() / (2.0 * hellinger);
    (1.0 - hellinger, d_distance.map(|d| slope * d))
}

/// The loss of an angle, `sin(2 dt)^2` weighted with the elongation of the target, and its gradient. Quarter turns do
/// not count.
pub(super) fn angle_loss(angle: f64, target: [f64; 5]) -> (f64, f64) {
    let weight = (-(target[2] / target[3]).ln().powi(2) / ASPECT_SCALE).exp();
    let twice = 2.0 * (angle - target[4]);
    (weight * twice.sin().powi(2), weight * 2.0 * (2.0 * twice).sin())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_of_the_overlap_agrees_with_finite_differences() {
        let target = [3.0, 4.0, 5.0, 2.0, 0.4];
        for bbox in [[3.3, 4.2, 4.0, 2.5, 0.1], [1.0, 5.0, 2.0, 6.0, -0.7], [3.0, 4.0, 3.0, 3.0, 1.2]] {
            for widening in [0.0, WIDENING] {
                let (_, gradient) = overlap_gradient(bbox, target, widening);
                for i in 0..5 {
                    let at = |step: f64| {
                        let mut moved = bbox;
                        moved[i] += step;
                        overlap(moved, target, widening)
                    };
                    let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                    assert!((difference - gradient[i]).abs() < 1e-6, "{bbox:?} {i}: {difference}, {}", gradient[i]);
                }
            }
        }
        // Where one box lies on the other, and far away, there is no direction to go.
        for bbox in [target, [900.0, 4.0, 5.0, 2.0, 0.4]] {
            let (value, gradient) = overlap_gradient(bbox, target, 0.0);
            assert!((-1e-6..=1.0).contains(&value) && gradient.iter().all(|d| d.is_finite()), "{value} {gradient:?}");
        }
    }
}
