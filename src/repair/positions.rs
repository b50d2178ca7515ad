//! Where the original and the pruned network are compared: positions of calibration images, with weights.
//!
//! Without a sensitivity all positions have the same weight and a few of each image are drawn. With one, half of the
//! draws are where the outputs depend on the layer most, and weights correct for the probability with which a position
//! is drawn.

use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};

/// The least number of positions, and how many per unknown.
const LEAST: usize = 8192;
const PER_UNKNOWN: usize = 12;

/// The least weight of a position, as a share of the mean: the curvature is a local figure.
const MIN_WEIGHT: f64 = 0.2;

/// A position of an image's output, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Position {
    /// Number of the image among those of all ranks.
    pub image: usize,
    /// Row.
    pub y: usize,
    /// Column.
    pub x: usize,
    /// Weight of its square error.
    pub weight: f64,
}

/// Positions of a convolution's output of `h` x `w` over the images of all ranks, in the order of these. `curvature`
/// holds a value per position and image, with a mean of about one; its square root is used, since single values of it
/// are noisy.
pub(super) fn choose(
    (h, w): (usize, usize),
    images: usize,
    unknowns: usize,
    seed: u64,
    curvature: Option<&[Vec<f32>]>,
) -> Vec<Position> {
    let area = h * w;
    let rows = LEAST.max(PER_UNKNOWN * unknowns);
    let per_image = rows.div_ceil(images.max(1)).min(area);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut all = Vec::with_capacity(per_image * images);
    for image in 0..images {
        let position = |at: usize, weight: f64| Position { image, y: at / w, x: at % w, weight };
        let curvature = curvature.and_then(|all| all.get(image)).filter(|map| map.len() == area);
        let Some(curvature) = curvature else {
            all.extend(sample(&mut rng, area, per_image).into_iter().map(|at| position(at, 1.0)));
            continue;
        };
        let target: Vec<f64> =
            curvature.iter().map(|v| MIN_WEIGHT + (1.0 - MIN_WEIGHT) * f64::from(v.max(0.0)).sqrt()).collect();
        if per_image == area {
            all.extend(target.iter().enumerate().map(|(at, weight)| position(at, *weight)));
            continue;
        }
        let mut total = 0.0;
        let sums: Vec<f64> = target
            .iter()
            .map(|t| {
                total += t;
                total
            })
            .collect();
        for draw in 0..per_image {
            let at = if draw % 2 == 0 {
                rng.random_range(0..area)
            } else {
                let mark = rng.random_range(0.0..total);
                sums.partition_point(|sum| *sum <= mark).min(area - 1)
            };
            let proposal = 0.5 + 0.5 * target[at] * area as f64 / total;
            all.push(position(at, target[at] / proposal));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_draws_have_the_mean_of_the_weighted_whole() {
        let (side, images) = (64, 16);
        // All curvature lies in one corner; a figure that is 1 there and 0 elsewhere.
        let corner = |y: usize, x: usize| y < 8 && x < 8;
        let map: Vec<f32> = (0..side * side).map(|at| if corner(at / side, at % side) { 64.0 } else { 0.0 }).collect();
        let curvature = vec![map; images];
        let truth: f64 = {
            let weight =
                |at: usize| MIN_WEIGHT + (1.0 - MIN_WEIGHT) * if corner(at / side, at % side) { 8.0 } else { 0.0 };
            let inside: f64 = (0..side * side).filter(|at| corner(at / side, at % side)).map(weight).sum();
            inside / (0..side * side).map(weight).sum::<f64>()
        };
        let share = |chosen: &[Position]| {
            let inside: f64 = chosen.iter().filter(|p| corner(p.y, p.x)).map(|p| p.weight).sum();
            inside / chosen.iter().map(|p| p.weight).sum::<f64>()
        };
        let choose = |unknowns, curvature: Option<&[Vec<f32>]>| choose((side, side), images, unknowns, 7, curvature);
        let drawn = choose(1, Some(&curvature));
        assert_eq!(drawn.len(), LEAST);
        assert!((share(&drawn) / truth - 1.0).abs() < 0.1, "{} for {truth}", share(&drawn));
        // With space for all, every position is there once.
        let whole = choose(1 << 20, Some(&curvature));
        assert_eq!(whole.len(), images * side * side);
        assert!((share(&whole) / truth - 1.0).abs() < 1e-9);
        // Without a sensitivity all have the same weight.
        assert!(choose(1, None).iter().all(|p| p.weight == 1.0));
    }
}
