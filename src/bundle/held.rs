//! What a bundle does not share with the lock of its workspace.
//!
//! The lock says what the reviewed run made. A bundle of another run, with other inputs or on another machine, is whole
//! by itself; only here it is noticed that it is not the one that was reviewed.

use super::digest::sha256;
use super::lock::{Difference, LockedGroup, LockedTarget, Measured};
use super::locked::{measured, profile_values};
use super::verify::Verified;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use toml::Value;

/// The value of a profile that the board can lower.
const THREADS: &str = "device.threads";

/// What is read of `plan.toml`.
#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    group: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    before: usize,
    width: usize,
    kept: Vec<usize>,
}

/// Everything in which a bundle is not what is locked: its files, what it was made from, its plan, and how it measured.
///
/// # Errors
/// If `plan.toml` is no plan: says what is wrong with it.
pub fn differences(locked: &LockedTarget, bundle: &Verified) -> Result<Vec<Difference>, String> {
    let mut found = Found::default();
    let listed = &bundle.listed;
    for (name, hash) in &locked.files {
        found.compare(&format!("file {name}"), Some(hash), listed.files.get(name));
    }
    inputs(locked, bundle, &mut found);
    let plan: Plan = toml::from_str(&bundle.plan_text).map_err(|e| e.message().to_owned())?;
    let plan: BTreeMap<String, LockedGroup> = plan
        .group
        .into_iter()
        .map(|Group { name, before, width, kept }| (name, LockedGroup { before, width, kept }))
        .collect();
    let names: BTreeSet<&String> = locked.plan.keys().chain(plan.keys()).collect();
    for name in names {
        found.group(name, locked.plan.get(name), plan.get(name));
    }
    let report = &bundle.report;
    found.compare("image size", Some(&locked.imgsz), Some(&report.imgsz));
    found.compare("device that measured", Some(&locked.board), Some(&report.device));
    figures(&locked.measured, &measured(report), &mut found);
    found.compare("manifest.json", Some(&locked.manifest), Some(&sha256(&bundle.manifest)));
    Ok(found.0)
}

/// Versions, seed, hashes of model and data, and the values of the profile.
fn inputs(locked: &LockedTarget, bundle: &Verified, found: &mut Found) {
    let (inputs, report, listed) = (&locked.inputs, &bundle.report, &bundle.listed);
    found.compare("version of secateurs", Some(&inputs.version), Some(&report.version));
    found.compare("seed", Some(&inputs.seed), Some(&report.seed));
    found.compare("model", Some(&inputs.model.sha256), listed.inputs.get("model"));
    if let (Some(data), Some(now)) = (&inputs.data, listed.inputs.get("data")) {
        found.compare("data (pictures, labels, classes)", Some(&data.sha256), Some(now));
    }
    let profile = profile_values(&bundle.profile);
    let names: BTreeSet<&String> = inputs.profile.keys().chain(profile.keys()).collect();
    for name in names {
        // What was asked for is locked; a bundle has what the board gave, where it has fewer CPUs.
        let threads = |values: &BTreeMap<String, Value>| values.get(name).and_then(Value::as_integer);
        if name == THREADS && threads(&profile) < threads(&inputs.profile) {
            continue;
        }
        let of = |values: &BTreeMap<String, Value>| values.get(name).map(ToString::to_string);
        found.compare(&format!("profile {name}"), of(&inputs.profile).as_ref(), of(&profile).as_ref());
    }
}

fn figures(locked: &Measured, now: &Measured, found: &mut Found) {
    found.compare("simulated", locked.simulated.as_ref(), now.simulated.as_ref());
    for (what, locked, now) in [
        ("p50-ms", locked.p50_ms, now.p50_ms),
        ("p50-bound-ms", locked.p50_bound_ms, now.p50_bound_ms),
        ("p99-ms", locked.p99_ms, now.p99_ms),
        ("p99-bound-ms", locked.p99_bound_ms, now.p99_bound_ms),
        ("latency-ratio", locked.latency_ratio, now.latency_ratio),
        ("map50-95", locked.map50_95, now.map50_95),
        ("accuracy", locked.accuracy, now.accuracy),
    ] {
        found.compare(what, locked.as_ref(), now.as_ref());
    }
    found.compare("peak-memory-bytes", Some(&locked.peak_memory_bytes), Some(&now.peak_memory_bytes));
    found.compare("params", Some(&locked.params), Some(&now.params));
}

/// The differences that were found so far.
#[derive(Default)]
struct Found(Vec<Difference>);

impl Found {
    fn compare<T: PartialEq + Debug>(&mut self, what: &str, locked: Option<&T>, now: Option<&T>) {
        if locked != now {
            let text = |value: Option<&T>| value.map_or("nothing".to_owned(), |value| format!("{value:?}"));
            self.0.push(Difference { what: what.to_owned(), locked: text(locked), now: text(now) });
        }
    }

    /// Widths of a group, or which of its channels are kept.
    fn group(&mut self, name: &str, locked: Option<&LockedGroup>, now: Option<&LockedGroup>) {
        let widths = |group: Option<&LockedGroup>| group.map(|group| (group.width, group.before));
        let (before, after) = (widths(locked), widths(now));
        self.compare(&format!("plan {name} (width, channels before)"), before.as_ref(), after.as_ref());
        if let (Some(locked), Some(now)) = (locked, now)
            && before == after
        {
            self.compare(&format!("plan {name} (kept channels)"), Some(&locked.kept), Some(&now.kept));
        }
    }
}

#[cfg(test)]
mod tests;
