//! Bootstrap: how much a figure would vary with other images, by resampling with replacement.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Spread of a figure over resampled image sets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Standard deviation.
    pub deviation: f64,
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// Evaluates `figure` on `rounds` resamples of `0..images`; the same seed always draws the same samples, so that two
/// models can be compared pair by pair.
pub fn bootstrap(images: usize, rounds: usize, seed: u64, mut figure: impl FnMut(&[usize]) -> f64) -> Interval {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut values: Vec<f64> = (0..rounds.max(1))
        .map(|_| {
            let sample: Vec<usize> = (0..images).map(|_| rng.random_range(0..images)).collect();
            figure(&sample)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    Interval { deviation: spread.sqrt(), low: at(0.025), high: at(0.975) }
}
