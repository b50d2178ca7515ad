//! Percentiles of frame times with upper confidence bounds, for any distribution and for correlated frames.

use super::dependence::effective_size;
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
    /// With 95 % confidence the true median is at most this; absent when there were too few runs to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_bound_ms: Option<f64>,
    /// The same for the 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_bound_ms: Option<f64>,
    /// The same for the 99th percentile (needs an effective sample size of 299).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_bound_ms: Option<f64>,
    /// Median of the CPU times: all threads together.
    pub cpu_p50_ms: f64,
    /// Frames on the clock.
    pub runs: usize,
    /// Effective sample size: the number of independent frames that give the same bounds; 0 where it was not computed.
    #[serde(default)]
    pub independent_runs: usize,
}

impl Distribution {
    /// The distribution of wall and CPU times, milliseconds per frame, in the order they ran: the order says how far
    /// frames depend on each other. Without frames everything is 0.
    pub fn of(wall: &[f64], cpu: &[f64]) -> Self {
        let (order, wall, cpu) = (wall, sorted(wall), sorted(cpu));
        let at = |times: &[f64], percentile| nearest_rank(times.len(), percentile).map_or(0.0, |rank| times[rank - 1]);
        let bound = |percentile| bound(order, &wall, percentile);
        Self {
            p50_ms: at(&wall, 50),
            p95_ms: at(&wall, 95),
            p99_ms: at(&wall, 99),
            p50_bound_ms: bound(50),
            p95_bound_ms: bound(95),
            p99_bound_ms: bound(99),
            independent_runs: effective_size(order, &wall, 99),
            cpu_p50_ms: at(&cpu, 50),
            runs: wall.len(),
        }
    }
}

/// What a percentile of a series is at most with 95 % confidence; none when its effective sample size is too
/// small.
pub fn upper_bound(series: &[f64], percentile: usize) -> Option<f64> {
    bound(series, &sorted(series), percentile)
}

/// The share of the values that as many independent ones would need below the bound is that of these.
fn bound(series: &[f64], sorted: &[f64], percentile: usize) -> Option<f64> {
    let independent = effective_size(series, sorted, percentile);
    let rank = bound_rank(independent, percentile)?;
    let at = (rank * sorted.len()).div_ceil(independent);
    sorted.get(at.clamp(1, sorted.len()) - 1).copied()
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

    /// xorshift64 (Marsaglia, 2003).
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (-2.0 * self.uniform().max(1e-300).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
        }
    }

    /// Frames of about 10 ms.
    type Machine = fn(&mut Random, usize) -> Vec<f64>;

    fn smooth(random: &mut Random, count: usize, memory: f64) -> Vec<f64> {
        let mut state = random.normal();
        let mut frame = |_| {
            state = memory * state + (1.0 - memory * memory).sqrt() * random.normal();
            10.0 * (0.05 * state).exp()
        };
        (0..count).map(&mut frame).collect()
    }

    /// Every so many frames the machine is a little slower or faster.
    fn phases(random: &mut Random, count: usize, length: usize) -> Vec<f64> {
        let mut shift = 0.0;
        let mut frame = |i: usize| {
            if i.is_multiple_of(length) {
                shift = random.normal();
            }
            10.0 * (0.05 * (shift + random.normal())).exp()
        };
        (0..count).map(&mut frame).collect()
    }

    /// A disturbance begins now and then and lasts for five frames or so.
    fn stalls(random: &mut Random, count: usize) -> Vec<f64> {
        let mut stalled = random.uniform() < 0.2;
        let mut frame = |_| {
            let turn = random.uniform();
            stalled = if stalled { turn >= 0.2 } else { turn < 0.05 };
            10.0 * (0.05 * random.normal()).exp() + if stalled { 4.0 } else { 0.0 }
        };
        (0..count).map(&mut frame).collect()
    }

    /// On machines whose frames depend on each other the bounds hold as often as they say, where they say anything;
    /// counting frames as independent they do not.
    #[test]
    fn bounds_hold_with_their_confidence_though_frames_depend_on_each_other() {
        const TRIALS: usize = 400;
        let machines: [(&str, Machine); 6] = [
            ("independent", |r, n| smooth(r, n, 0.0)),
            ("memory of 0.5", |r, n| smooth(r, n, 0.5)),
            ("memory of 0.8", |r, n| smooth(r, n, 0.8)),
            ("memory of 0.95", |r, n| smooth(r, n, 0.95)),
            ("phases of 20", |r, n| phases(r, n, 20)),
            ("stalls", stalls),
        ];
        let (mut naive, mut claims) = (1.0f64, 0);
        for (name, machine) in machines {
            let mut random = Random(0x9e37_79b9);
            let truth = sorted(&machine(&mut random, 400_000));
            let windows: Vec<Vec<f64>> = (0..TRIALS).map(|_| machine(&mut random, 1000)).collect();
            for percentile in [50, 95, 99] {
                let truth = truth[truth.len() * percentile / 100];
                let bounds: Vec<f64> = windows.iter().filter_map(|w| upper_bound(w, percentile)).collect();
                let share = |held: usize, of: usize| held as f64 / of.max(1) as f64;
                let held = share(bounds.iter().filter(|b| **b >= truth).count(), bounds.len());
                if bounds.len() > TRIALS / 10 {
                    claims += 1;
                    // Three standard errors of the count below 95 %.
                    let least = 0.95 - 3.0 * (0.95 * 0.05 / bounds.len() as f64).sqrt();
                    assert!(held >= least, "{name}, p{percentile}: {held:.3} of {} bounds hold", bounds.len());
                }
                let rank = bound_rank(1000, percentile).unwrap();
                naive = naive.min(share(windows.iter().filter(|w| sorted(w)[rank - 1] >= truth).count(), TRIALS));
            }
        }
        assert!(naive < 0.85 && claims >= 12, "{naive}, {claims}");
        // A machine that gets slower all the time gives no bound at all.
        let drift: Vec<f64> = (0..1000).map(|i| 10.0 + f64::from(i)).collect();
        assert_eq!(upper_bound(&drift, 99), None);
    }

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
        let mut wall: Vec<f64> = (1..=1000).map(f64::from).collect();
        let mut random = Random(5);
        (1..1000).rev().for_each(|i| wall.swap(i, (random.uniform() * (i + 1) as f64) as usize));
        let found = Distribution::of(&wall, &[3.0, 1.0, 2.0]);
        let mut value = serde_json::to_value(&found).unwrap();
        // Independent frames, of which some are given away because nobody knows that they are.
        let keys = ["p50_bound_ms", "p95_bound_ms", "p99_bound_ms", "independent_runs"];
        let [p50, p95, p99, runs] = keys.map(|key| value[key].as_f64().unwrap());
        assert!((526.0..=540.0).contains(&p50) && (962.0..=968.0).contains(&p95), "{p50}, {p95}");
        assert!((996.0..=999.0).contains(&p99) && (500.0..=1000.0).contains(&runs), "{p99}, {runs}");
        keys.iter().for_each(|key| assert!(value.as_object_mut().unwrap().remove(*key).is_some()));
        let expected = serde_json::json!({
            "p50_ms": 500.0, "p95_ms": 950.0, "p99_ms": 990.0, "cpu_p50_ms": 2.0, "runs": 1000
        });
        assert_eq!(value, expected);
        assert_eq!(Distribution::of(&[], &[]), Distribution::default());
    }
}
