//! Latencies of two networks that ran interleaved, and the figures that budgets are about.

use crate::bench::{Distribution, Measured, PairedEnergy, PairedTimes};
use crate::session::Record;
use serde::{Deserialize, Serialize};

/// Frames that a claim about the 99th percentile rests on at least.
const P99_RUNS: usize = 1000;

/// Frames that a verdict rests on, and every measurement of a plan for it.
pub fn verdict_runs(percentile: u8, runs: usize) -> usize {
    runs.max(if percentile == 99 { P99_RUNS } else { 1 })
}

/// Two networks measured interleaved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedLatency {
    /// The baseline network.
    #[serde(rename = "uncut")]
    pub baseline: Distribution,
    /// The other one.
    #[serde(rename = "cut")]
    pub pruned: Distribution,
    /// The other one's time over the baseline one's.
    pub ratio: f64,
    /// What that is at most with 95 % confidence, where there are frames enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_bound: Option<f64>,
    /// The other one in all windows, those too that were discarded for what the machine did; none without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_windows: Option<Distribution>,
    /// Energy of both, where the machine shows its power rails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<PairedEnergy>,
}

impl From<PairedTimes> for PairedLatency {
    /// Interleaved frames, the baseline network's first.
    fn from(pair: PairedTimes) -> Self {
        let (ratio, ratio_bound) = (pair.pair_ratio, pair.pair_ratio_bound);
        Self { baseline: pair.a, pruned: pair.b, ratio, ratio_bound, all_windows: None, energy: None }
    }
}

impl PairedLatency {
    /// What an interleaved measurement says; none if there was only one network.
    pub fn of(measured: &Measured) -> Option<Self> {
        let baseline = measured.against.as_ref()?;
        Some(Self {
            baseline: baseline.latency.clone(),
            pruned: measured.latency.clone(),
            ratio: baseline.pair_ratio,
            ratio_bound: baseline.pair_ratio_bound,
            all_windows: None,
            energy: measured.rails.clone().and_then(|rails| {
                let (baseline, pruned) = (baseline.energy?, measured.energy?);
                Some(PairedEnergy { rails, baseline, pruned })
            }),
        })
    }

    /// What a session says; none if there was only one network.
    pub fn of_record(record: &Record) -> Option<Self> {
        Some(Self { all_windows: record.all_windows.clone(), ..Self::of(&record.measured)? })
    }
}

/// The milliseconds of a percentile: 50, 95 or 99.
pub fn percentile(distribution: &Distribution, percentile: u8) -> f64 {
    match percentile {
        99 => distribution.p99_ms,
        95 => distribution.p95_ms,
        _ => distribution.p50_ms,
    }
}

/// What a percentile is at most with 95 % confidence; none without frames enough.
pub fn bound(distribution: &Distribution, percentile: u8) -> Option<f64> {
    match percentile {
        99 => distribution.p99_bound_ms,
        95 => distribution.p95_bound_ms,
        _ => distribution.p50_bound_ms,
    }
}
