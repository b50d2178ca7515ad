//! Rotated boxes as normal distributions, and how much two of them overlap (Llerena et al., "Gaussian Bounding Boxes
//! and Probabilistic Intersection-over-Union", 2021).

use serde::{Deserialize, Serialize};

/// Guards logarithm and root; with it two equal boxes overlap by 0.9997, as in ultralytics.
const EPS: f64 = 1e-7;

/// The normal distribution with the mean and the covariance of a uniformly filled rotated box.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gaussian {
    centre: [f64; 2],
    /// Variance along x, along y, and covariance of both.
    covariance: [f64; 3],
    /// Variance along the longer side: the largest in any direction.
    largest: f64,
}

impl Gaussian {
    /// Of a box with this centre and these sides (width, height) before it is turned by `angle` radians. Any unit.
    pub fn new(centre: [f64; 2], size: [f64; 2], angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        let [a, b] = size.map(|side| side * side / 12.0);
        let covariance = [a * cos * cos + b * sin * sin, a * sin * sin + b * cos * cos, (a - b) * sin * cos];
        Self { centre, covariance, largest: a.max(b) }
    }

    /// Probabilistic intersection over union: 1 less the Hellinger distance, 0 to 1.
    pub fn iou(&self, other: &Self) -> f64 {
        let determinant = |[a, b, c]: [f64; 3]| a * b - c * c;
        let sum: [f64; 3] = std::array::from_fn(|i| self.covariance[i] + other.covariance[i]);
        let [dx, dy] = [0, 1].map(|i| self.centre[i] - other.centre[i]);
        let det = determinant(sum);
        let apart = (sum[0] * dy * dy + sum[1] * dx * dx - 2.0 * sum[2] * dx * dy) / (4.0 * (det + EPS));
        let own = (determinant(self.covariance).max(0.0) * determinant(other.covariance).max(0.0)).sqrt();
        let unlike = 0.5 * (det / (4.0 * own + EPS) + EPS).ln();
        let distance = (apart + unlike).clamp(EPS, 100.0);
        (1.0 - (1.0 - (-distance).exp() + EPS).sqrt()).max(0.0)
    }

    /// Whether the centres lie so far apart that [`Gaussian::iou`] is below `least`, which costs no logarithm to see.
    pub fn is_beyond(&self, other: &Self, least: f64) -> bool {
        // The Bhattacharyya distance is at least (d^2 / 4) / (sum of the largest variances).
        let bound = -(1.0 - (1.0 - least).clamp(0.0, 1.0 - 1e-9).powi(2)).ln() + 1e-3;
        let apart: f64 = [0, 1].map(|i| (self.centre[i] - other.centre[i]).powi(2)).iter().sum();
        apart > 4.0 * bound * (self.largest + other.largest) + EPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_overlaps_less() {
        let mut far = 0;
        for i in 0..4000u32 {
            let value = |k: u32| f64::from((i * 2_654_435_761u32.wrapping_add(k * 40_503)) >> 8 & 0xffff) / 65536.0;
            let one = |k: u32| {
                let size = [1.0 + 40.0 * value(k + 2), 1.0 + 40.0 * value(k + 3)];
                Gaussian::new([80.0 * value(k), 80.0 * value(k + 1)], size, 3.0 * value(k + 4))
            };
            let (a, b) = (one(1), one(9));
            for least in [0.05, 0.45, 0.7] {
                if a.is_beyond(&b, least) {
                    far += 1;
                    assert!(a.iou(&b) < least, "{a:?} {b:?} {least}");
                }
            }
        }
        assert!(far > 100, "{far}");
    }
}
