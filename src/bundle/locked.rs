//! What a lock holds of a profile and of a report: the same values whoever writes the lock and whoever holds a bundle
//! against it.

use super::lock::{Measured, flatten};
use crate::profile::{self, Profile};
use crate::report::Report;
use std::collections::BTreeMap;
use toml::Value;

/// The values of a profile by section and key, as they are locked: without the connection, which may name a private
/// machine, and without the seed and the paths of model and data, which are locked by themselves.
pub fn profile_values(profile: &Profile) -> BTreeMap<String, Value> {
    let mut values = flatten(&profile::values(profile));
    let left_out = ["search.seed", "model.path", "data.path"];
    values.retain(|name, _| !name.starts_with("connect.") && !left_out.contains(&name.as_str()));
    values
}

/// The figures of a report, as they are locked.
pub fn measured(report: &Report) -> Measured {
    let last = report.last();
    let latency = last.latency.as_ref();
    let map = Some(last.map50_95).filter(|map| last.accuracy.is_none() && *map >= 0.0);
    Measured {
        simulated: report.verdict.simulated.clone(),
        p50_ms: latency.map(|latency| latency.p50_ms),
        p50_bound_ms: latency.and_then(|latency| latency.p50_bound_ms),
        p99_ms: latency.map(|latency| latency.p99_ms),
        p99_bound_ms: latency.and_then(|latency| latency.p99_bound_ms),
        latency_ratio: latency.map(|_| report.verdict.latency_ratio),
        peak_memory_bytes: last.peak_memory_bytes as u64,
        params: last.params as u64,
        map50_95: map,
        accuracy: last.accuracy,
    }
}
