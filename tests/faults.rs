//! File operations that fail: each one of a short job, one per run, by a shim that is loaded before the worker.
//!
//! Whatever fails, the folder of the results holds the old files as a set or the new ones as a set. An input that
//! cannot be read is exit code 9 or 10, results that cannot be written are 10, each naming the file; a cache that
//! cannot be read or written only costs time. Nothing ends in a panic or in an internal error.
#![cfg(all(feature = "toolkit", target_os = "linux"))]
#![allow(missing_docs)]

mod harness;

use harness::{Bench, Fault, Results, ended, listing, results, shim};
use std::fs;
use std::path::{Path, PathBuf};

/// Shares of the memory: the budgets of the results that are there, and of the job that fails.
const OLD: f64 = 0.6;
const NEW: f64 = 0.3;

struct House {
    bench: Bench,
    library: PathBuf,
    old: Results,
    new: Results,
    /// Names in the folder of the results, which both jobs write.
    names: Vec<String>,
}

impl House {
    fn new() -> Self {
        let bench = Bench::new();
        let library = shim(&bench.path(""));
        let run = |budget, name: &str| {
            let (out, cache) = (format!("{name}-out"), format!("{name}-cache"));
            let (code, text) = ended(&bench.prune(budget, &out, &cache).output().unwrap());
            assert_eq!(code, 0, "{text}");
            results(&bench.path(&out)).unwrap()
        };
        let (old, new) = (run(OLD, "old"), run(NEW, "new"));
        assert!(old.wrong.is_empty() && new.wrong.is_empty() && old.files != new.files, "{old:?} {new:?}");
        let names = listing(&bench.path("old-out"));
        Self { bench, library, old, new, names }
    }

    /// The job in a folder of its own, with the old results there; `warm` gives it the cache of an earlier run.
    fn lay(&self, case: &Path, warm: bool) {
        let _ = fs::remove_dir_all(case);
        let copy = |from: PathBuf, to: PathBuf| {
            fs::create_dir_all(&to).unwrap();
            for name in listing(&from) {
                fs::copy(from.join(&name), to.join(&name)).unwrap();
            }
        };
        copy(self.bench.path("old-out"), case.join("out"));
        if warm {
            copy(self.bench.path("new-cache"), case.join("cache"));
        }
    }

    /// What is wrong with how a job ended that one file operation was taken from.
    fn judge(&self, site: &str, sticky: bool, code: i32, text: &str, case: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        let path = site.rsplit(' ').next().unwrap_or_default();
        let (cache, out) = (case.join("cache"), case.join("out"));
        let below = |folder: &Path| Path::new(path).starts_with(folder);
        let expected: &[i32] = if below(&cache) {
            // On a disk that is full already while the cache is written, the results cannot be written either.
            if sticky { &[10] } else { &[0] }
        } else if below(&self.bench.path("in")) {
            &[3, 9, 10]
        } else if site.starts_with("open-read") {
            &[0, 9, 10]
        } else {
            // What fails after the new files are in place may be let pass.
            &[0, 10]
        };
        if !expected.contains(&code) {
            wrong.push(format!("ends with {code}, expected one of {expected:?}"));
        }
        if ["panicked", "fault of secateurs", "internal error"].iter().any(|word| text.contains(word)) {
            wrong.push(format!("says: {}", text.lines().rev().take(3).collect::<Vec<_>>().join(" / ")));
        }
        let named = path.rsplit('/').next().unwrap_or_default();
        let stem = named.trim_start_matches('.').split('.').next().unwrap_or_default();
        let folder = out.display().to_string();
        if code != 0 && !text.contains(stem) && !text.contains(&folder) {
            wrong.push(format!("does not name `{named}`: {}", text.lines().last().unwrap_or_default()));
        }
        let found = results(&out);
        let whole = found.as_ref().is_some_and(|found| *found == self.new || (code != 0 && *found == self.old));
        if !whole {
            let found = found.map(|found| found.wrong);
            wrong.push(format!("the results are neither all old nor all new ({found:?})"));
        }
        // What could not be taken away goes with the next run.
        if listing(&out) != self.names {
            let (code, text) = ended(&self.bench.prune(NEW, "case/out", "case/cache").output().unwrap());
            if code != 0 || listing(&out) != self.names {
                wrong.push(format!("after the next run ({code}) there are {:?}: {text}", listing(&out)));
            }
        }
        wrong
    }

    /// Every site of some kinds, failing with an error.
    fn all(&self, ops: &[&str], errno: &str, sticky: bool, warm: bool) -> (usize, Vec<String>) {
        let (mut sites, mut problems) = (0, Vec::new());
        for op in ops {
            let mut number = 1;
            loop {
                // The folder that a job writes to is below it, and the log beside it.
                let case = self.bench.path("case");
                self.lay(&case, warm);
                let (out, cache) = ("case/out", "case/cache");
                let log = self.bench.path("log");
                let root = self.bench.path("");
                let fault = Fault { library: &self.library, root: &root, op, number, errno, sticky, log: &log };
                let (code, text, seen) = fault.run(self.bench.prune(NEW, out, cache));
                let Some(site) = seen.iter().find_map(|line| line.strip_prefix("FAULT ")) else { break };
                sites += 1;
                let short = site.replace(&*self.bench.path("").to_string_lossy(), "");
                let wrong = self.judge(site, sticky, code, &text, &case);
                problems.extend(wrong.iter().map(|wrong| format!("{op} {number} {errno} ({short}): {wrong}")));
                number += 1;
            }
        }
        (sites, problems)
    }
}

fn report(house: &House, cases: &[(&[&str], &str, bool, bool)], least: usize) {
    let (mut sites, mut problems) = (0, Vec::new());
    for (ops, errno, sticky, warm) in cases {
        let (more, wrong) = house.all(ops, errno, *sticky, *warm);
        sites += more;
        problems.extend(wrong);
    }
    println!("{sites} file operations failed, one per run");
    assert!(sites >= least, "only {sites} sites");
    assert!(problems.is_empty(), "{} problems at {sites} sites:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn whatever_cannot_be_written_old_or_new_results_are_whole() {
    let house = House::new();
    report(
        &house,
        &[
            (&["write"], "ENOSPC", false, false),
            (&["fsync", "rename"], "EIO", false, false),
            (&["open-write", "mkdir"], "EACCES", false, false),
        ],
        20,
    );
}

#[test]
fn whatever_cannot_be_read_is_named() {
    let house = House::new();
    report(&house, &[(&["open-read"], "EACCES", false, true)], 8);
}

/// A disk that is full remains full: what undoes a failure cannot write either.
#[test]
fn a_disk_that_becomes_full_costs_the_job_and_not_the_old_results() {
    let house = House::new();
    report(&house, &[(&["write"], "ENOSPC", true, true)], 5);
}
