//! Effective sample size: to how many independent frames a series of frames is equivalent.
//!
//! Frames that follow each other resemble each other: a disturbance lasts for several, a machine is slower for a while.
//! The share of frames above a threshold then varies more than a binomial one, by the design effect: the integrated
//! autocorrelation time of the marks "above the threshold" (initial monotone sequence: Geyer, "Practical Markov chain
//! Monte Carlo", Statistical Science 7, 1992). `n` frames bound a quantile as `n` over the design effect independent
//! ones would (Heidelberger and Lewis, "Quantile estimation in dependent sequences", Operations Research 32, 1984;
//! Vehtari et al., "Rank-normalization, folding, and localization: an improved R-hat", Bayesian Analysis 16, 2021, for
//! quantiles).
//!
//! Assumes that the series is stationary: the machine will behave in use as it did while it was measured, and each
//! disturbance comes and goes several times within the series. No series shows what happens once, or never, within it.

/// Blocks of frames that are looked at; longer series have longer blocks.
const BLOCKS: usize = 4000;

/// Thresholds beside the quantile itself at which dependence is looked for, as percentiles: frames on one side of the
/// quantile alone show little of it.
const LEVELS: [usize; 5] = [50, 75, 90, 95, 97];

/// The number of independent frames that bound the percentile as well as this series, at most its length.
pub(super) fn effective_size(wall: &[f64], sorted: &[f64], percentile: usize) -> usize {
    let count = wall.len();
    let level = |percentile: usize| sorted.get((count * percentile).div_ceil(100).saturating_sub(1));
    let effect = |threshold: &f64| design_effect(&wall.iter().map(|ms| ms > threshold).collect::<Vec<_>>());
    let effects = LEVELS.iter().chain([&percentile]).filter_map(|l| level(*l)).map(effect);
    let most = effects.fold(1.0, f64::max);
    (count as f64 / most) as usize
}

/// The variance of the share of marks over that of independent ones; at least 1.
fn design_effect(marks: &[bool]) -> f64 {
    let length = marks.len().div_ceil(BLOCKS).max(1);
    let blocks: Vec<f64> =
        marks.chunks_exact(length).map(|block| block.iter().filter(|mark| **mark).count() as f64).collect();
    let count = blocks.len() as f64;
    let mean = blocks.iter().sum::<f64>() / count.max(1.0);
    let share = mean / length as f64;
    let alone = share * (1.0 - share) * length as f64;
    if blocks.len() < 4 || alone <= 0.0 {
        return 1.0;
    }
    let covariance =
        |lag: usize| blocks.iter().zip(&blocks[lag..]).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / count;
    let (mut sum, mut least, mut lags) = (0.0, f64::INFINITY, 0.0);
    for lag in (0..blocks.len() / 4).step_by(2) {
        let pair = covariance(lag) + covariance(lag + 1);
        if pair <= 0.0 {
            break;
        }
        least = pair.min(least);
        sum += least;
        lags += 2.0;
    }
    // The sum is itself uncertain, by this share (Sokal, "Monte Carlo methods in statistical mechanics", 1997).
    let uncertain = (2.0 * (2.0 * lags + 1.0) / count).sqrt();
    let effect = (2.0 * sum - covariance(0)) / alone * (1.0 + uncertain);
    // The mean was taken from the same frames, which hides some of what varies slowly.
    (effect / (1.0 - effect / marks.len() as f64).max(0.1)).max(1.0)
}
