//! Percentiles of frame times.

use serde::{Deserialize, Serialize};

/// Confidence of the upper bounds.
const CONFIDENCE: f64 = 0.95;

/// The distribution of a network's time per frame, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Median of the wall times.
    pub p50_ms: f64,
    /// 95th percentile of the wall times, nearest rank.
    pub p95_ms: f64,
    /// 99th percentile of the wall times, nearest rank.
    pub p99_ms: f64,
    /// With 95 % confidence the true 95th percentile is at most this; absent when there were too few runs to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_bound_ms: Option<f64>,
    /// The same for the 99th percentile (needs 299 runs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_bound_ms: Option<f64>,
    /// Median of the processor times: all threads together.
    pub cpu_p50_ms: f64,
    /// Frames on the clock.
    pub runs: usize,
}

impl Distribution {
    /// The distribution of wall and processor times, milliseconds per frame. Without frames everything is 0.
    pub fn of(wall: &[f64], cpu: &[f64]) -> Self {
        let (wall, cpu) = (sorted(wall), sorted(cpu));
        let at = |times: &[f64], percentile| nearest_rank(times.len(), percentile).map_or(0.0, |rank| times[rank - 1]);
        let bound = |percentile| bound_rank(wall.len(), percentile).map(|rank| wall[rank - 1]);
        Self {
            p50_ms: at(&wall, 50),
            p95_ms: at(&wall, 95),
            p99_ms: at(&wall, 99),
            p95_bound_ms: bound(95),
            p99_bound_ms: bound(99),
            cpu_p50_ms: at(&cpu, 50),
            runs: wall.len(),
        }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The median by nearest rank; 0 of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    nearest_rank(values.len(), 50).map_or(0.0, |rank| sorted(values)[rank - 1])
}

/// The rank (from 1) of a percentile among `count` ascending values: the least that `percentile` per cent do
/// not exceed. None of nothing.
pub fn nearest_rank(count: usize, percentile: usize) -> Option<usize> {
    (count > 0).then(|| (count * percentile).div_ceil(100).clamp(1, count))
}

/// The rank (from 1) of the value that, with 95 % confidence, the true percentile does not exceed; none when even the
/// largest value cannot promise that. The number of samples below the true percentile is binomial, whatever
/// the distribution of the samples.
pub fn bound_rank(count: usize, percentile: usize) -> Option<usize> {
    let (p, n) = (percentile as f64 / 100.0, count as f64);
    let (mut log_term, mut below) = (n * (1.0 - p).ln(), 0.0);
    for k in 0..count {
        // `below` becomes P(at most k samples lie below the percentile): then sample k + 1 is above it.
        below += log_term.exp();
        if below >= CONFIDENCE {
            return Some(k + 1);
        }
        log_term += ((n - k as f64) / (k as f64 + 1.0)).ln() + p.ln() - (1.0 - p).ln();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_tables() {
        let cases = [
            (1000, 99, Some(996)),
            (1000, 95, Some(962)),
            (299, 99, Some(299)),
            (298, 99, None),
            (59, 95, Some(59)),
            (58, 95, None),
            (0, 50, None),
        ];
        for (count, percentile, expected) in cases {
            assert_eq!(bound_rank(count, percentile), expected, "{count} samples, p{percentile}");
        }
        let cases = [
            (1, 99, Some(1)),
            (100, 50, Some(50)),
            (101, 50, Some(51)),
            (10, 95, Some(10)),
            (1000, 99, Some(990)),
            (0, 50, None),
        ];
        for (count, percentile, expected) in cases {
            assert_eq!(nearest_rank(count, percentile), expected, "{count} samples, p{percentile}");
        }
    }

    #[test]
    fn a_distribution_has_the_keys_that_scripts_rely_on() {
        let wall: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        let found = Distribution::of(&wall, &[3.0, 1.0, 2.0]);
        let expected = serde_json::json!({
            "p50_ms": 500.0, "p95_ms": 950.0, "p99_ms": 990.0, "p95_bound_ms": 962.0, "p99_bound_ms": 996.0,
            "cpu_p50_ms": 2.0, "runs": 1000
        });
        assert_eq!(serde_json::to_value(&found).unwrap(), expected);
        assert_eq!(Distribution::of(&[], &[]), Distribution::default());
    }
}
