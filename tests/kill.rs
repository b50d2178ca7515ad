//! Jobs that are killed: the next run gives what an undisturbed one gives, and nothing that was left stands in its way.
//! What lies in the folder of the results meanwhile is the old set of files or the new one; a kill between the renames
//! of the swap itself leaves parts of both, and then a journal with the rest of the old set, from which the next run
//! repairs it.
//!
//! `SECATEURS_KILLS=60` kills as often; without it twenty times.
#![cfg(all(feature = "toolkit", target_os = "linux"))]
#![allow(missing_docs)]

mod harness;

use harness::{Bench, Fault, Results, ended, listing, results, shim};
use std::time::{Duration, Instant};

/// The budgets of the results that are there, and of the job that is killed.
const OLD: f64 = 0.42;
const NEW: f64 = 0.36;

fn kills() -> usize {
    std::env::var("SECATEURS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// A job that nothing disturbs: its results, the names of its files and of its cache, how long it took.
struct Undisturbed {
    results: Results,
    out: Vec<String>,
    cache: Vec<String>,
    took: Duration,
}

fn undisturbed(bench: &Bench, budget: f64, name: &str) -> Undisturbed {
    let (out, cache) = (format!("{name}-out"), format!("{name}-cache"));
    let start = Instant::now();
    let (code, text) = ended(&bench.prune(budget, &out, &cache).output().unwrap());
    let took = start.elapsed();
    assert_eq!(code, 0, "{text}");
    let results = results(&bench.path(&out)).unwrap();
    assert!(results.wrong.is_empty() && results.files.len() == 4, "{results:?}");
    Undisturbed { results, out: listing(&bench.path(&out)), cache: listing(&bench.path(&cache)), took }
}

/// The folder after a kill, and after another run.
fn check(
    bench: &Bench,
    old: Option<&Undisturbed>,
    new: &Undisturbed,
    case: &str,
    out: &str,
    cache: &str,
) -> Vec<String> {
    let mut problems = Vec::new();
    let found = results(&bench.path(out));
    let whole = match (&found, old) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some(found), old) => *found == new.results || old.is_some_and(|old| *found == old.results),
    };
    let swapping = listing(&bench.path(out)).iter().any(|name| name.ends_with("journal.json"));
    if !whole && !swapping {
        let files = found.map(|found| (found.files.into_keys().collect::<Vec<_>>(), found.wrong));
        problems.push(format!("{case}: neither the old files nor the new ones, and no journal: {files:?}"));
    }
    let (code, text) = ended(&bench.prune(NEW, out, cache).output().unwrap());
    if code != 0 {
        problems.push(format!("{case}: the next run ends with {code}: {text}"));
    }
    if results(&bench.path(out)).as_ref() != Some(&new.results) {
        problems.push(format!("{case}: the next run gives other results"));
    }
    if listing(&bench.path(out)) != new.out {
        problems.push(format!("{case}: after the next run there are {:?}", listing(&bench.path(out))));
    }
    let left: Vec<String> = listing(&bench.path(cache)).into_iter().filter(|name| !new.cache.contains(name)).collect();
    // What the job of the other budget kept is no litter.
    let litter: Vec<String> =
        left.into_iter().filter(|name| !old.is_some_and(|old| old.cache.contains(name))).collect();
    if !litter.is_empty() {
        problems.push(format!("{case}: the cache keeps {litter:?}"));
    }
    problems
}

/// Copies what an earlier job left, so that every case begins the same.
fn lay(bench: &Bench, from: &str, to: &str) {
    let (from, to) = (bench.path(from), bench.path(to));
    std::fs::create_dir_all(&to).unwrap();
    for name in listing(&from) {
        let (a, b) = (from.join(&name), to.join(&name));
        if a.is_dir() {
            std::fs::create_dir_all(b).unwrap();
        } else {
            std::fs::copy(a, b).unwrap();
        }
    }
}

#[test]
fn after_a_kill_at_any_moment_the_next_run_gives_the_undisturbed_results() {
    let bench = Bench::new();
    let (old, new) = (undisturbed(&bench, OLD, "old"), undisturbed(&bench, NEW, "new"));
    assert_ne!(old.results.files["model.safetensors"], new.results.files["model.safetensors"]);
    let mut problems = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for kill in 0..kills() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = new.took.mul_f64(1.05 * (state >> 40) as f64 / (1 << 24) as f64);
        let (out, cache) = (format!("{kill}-out"), format!("{kill}-cache"));
        // Half of the jobs replace the results of another one.
        let fresh = kill % 2 == 0;
        if !fresh {
            lay(&bench, "old-out", &out);
            lay(&bench, "old-cache", &cache);
        }
        let mut child = bench.prune(NEW, &out, &cache).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap();
        let case =
            format!("kill {kill} after {after:?}, {}", if fresh { "nothing there" } else { "old results there" });
        problems.extend(check(&bench, (!fresh).then_some(&old), &new, &case, &out, &cache));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn after_a_kill_at_any_file_operation_the_next_run_gives_the_undisturbed_results() {
    let bench = Bench::new();
    let (old, new) = (undisturbed(&bench, OLD, "old"), undisturbed(&bench, NEW, "new"));
    let library = shim(&bench.path(""));
    let (root, log) = (bench.path("at-"), bench.path("log"));
    let fault =
        |op, number| Fault { library: &library, root: &root, op, number, errno: "KILL", sticky: false, log: &log };
    let mut sites = Vec::new();
    for op in ["open-write", "write", "rename", "mkdir"] {
        lay(&bench, "old-out", "at-out");
        lay(&bench, "new-cache", "at-cache");
        let (code, text, ops) = fault(op, 0).run(bench.prune(NEW, "at-out", "at-cache"));
        assert_eq!(code, 0, "{text}");
        sites.extend((1..=ops.len()).map(|number| (op, number)));
    }
    assert!(sites.len() > 15, "{sites:?}");
    let mut problems = Vec::new();
    for (op, number) in sites {
        for name in ["at-out", "at-cache"] {
            let _ = std::fs::remove_dir_all(bench.path(name));
        }
        lay(&bench, "old-out", "at-out");
        lay(&bench, "new-cache", "at-cache");
        let (code, _, ops) = fault(op, number).run(bench.prune(NEW, "at-out", "at-cache"));
        let case = format!("killed at {op} {number} ({:?})", ops.last());
        if code != 128 + 9 {
            problems.push(format!("{case}: ended with {code}"));
        }
        problems.extend(check(&bench, Some(&old), &new, &case, "at-out", "at-cache"));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
