//! Jobs that are killed: the next run gives what an undisturbed one gives, and nothing that was left stands in its way.
//! What lies in the folder of the results meanwhile is the old set of files or the new one, never parts of both.
//!
//! `SECATEURS_KILLS=60` kills as often; without it a job twenty times, and a whole bundle six times.
#![cfg(all(feature = "toolkit", target_os = "linux"))]
#![allow(missing_docs)]

mod harness;

use harness::{Bench, Fault, Results, ended, listing, results, shim};
use secateurs::bundle;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Shares of the memory: the budgets of the results that are there, and of the job that is killed.
const OLD: f64 = 0.6;
const NEW: f64 = 0.3;

/// The file operations at which a job is killed.
const OPERATIONS: [&str; 5] = ["open-write", "write", "rename", "mkdir", "unlink"];

fn kills(default: usize) -> usize {
    std::env::var("SECATEURS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Random numbers from 0 to 1, the same in every run (Knuth's linear congruential generator).
fn random() -> impl FnMut() -> f64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 24) as f64
    }
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
    if !whole {
        let files = found.map(|found| (found.files.into_keys().collect::<Vec<_>>(), found.wrong));
        problems.push(format!("{case}: neither the old files nor the new ones: {files:?}"));
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
    let beside = std::fs::read_dir(bench.path(out).parent().unwrap()).unwrap().flatten();
    let beside: Vec<_> =
        beside.map(|entry| entry.file_name()).filter(|name| name.as_encoded_bytes()[0] == b'.').collect();
    if !beside.is_empty() {
        problems.push(format!("{case}: beside the results lies {beside:?}"));
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
    let mut random = random();
    for kill in 0..kills(20) {
        let after = new.took.mul_f64(1.05 * random());
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
    let (root, log) = (bench.path("at/"), bench.path("log"));
    let fault =
        |op, number| Fault { library: &library, root: &root, op, number, errno: "KILL", sticky: false, log: &log };
    // With everything in the cache, and with what the job of the other budget kept.
    let mut sites = Vec::new();
    for (kept, op) in
        ["new-cache", "old-cache"].into_iter().flat_map(|kept| OPERATIONS.map(|operation| (kept, operation)))
    {
        let _ = std::fs::remove_dir_all(bench.path("at"));
        lay(&bench, "old-out", "at/out");
        lay(&bench, kept, "at/cache");
        let (code, text, ops) = fault(op, 0).run(bench.prune(NEW, "at/out", "at/cache"));
        assert_eq!(code, 0, "{text}");
        assert!(!ops.is_empty(), "{op}: none");
        sites.extend((1..=ops.len()).map(|number| (kept, op, number)));
    }
    assert!(sites.len() > 30, "{sites:?}");
    let mut problems = Vec::new();
    for (kept, op, number) in sites {
        let _ = std::fs::remove_dir_all(bench.path("at"));
        lay(&bench, "old-out", "at/out");
        lay(&bench, kept, "at/cache");
        let (code, _, ops) = fault(op, number).run(bench.prune(NEW, "at/out", "at/cache"));
        let case = format!("{kept}, killed at {op} {number} ({:?})", ops.last());
        if code != 128 + 9 {
            problems.push(format!("{case}: ended with {code}"));
        }
        problems.extend(check(&bench, Some(&old), &new, &case, "at/out", "at/cache"));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// What the driver does, as a script: the first stage, a binary that carries its model, and the second stage. The device
/// is emulated by a program that runs its arguments.
const DRIVER: &str = "\
set -e
\"$@\" --first-stage --lock lock.toml > log 2>&1
{ printf '#!/bin/sh\\nif [ \"$1\" = window ]; then exec %s \"$@\" --model %s; fi\\nexec %s \"$@\"\\nexit\\n' \
    \"$INFER\" \"$PWD/.$OUT.new/model.safetensors\" \"$INFER\"; cat .$OUT.new/model.safetensors; } > built.$OUT
chmod 755 built.$OUT
\"$1\" finish --held --out $OUT --binary built.$OUT --lock lock.toml >> log 2>&1
";

/// Starts the driver in a process group of its own.
fn drive(bench: &Bench, budget: f64, out: &str) -> Command {
    use std::os::unix::process::CommandExt;
    let prune = bench.prune(budget, out, "cache");
    let mut command = Command::new("sh");
    command.arg("-c").arg(DRIVER).arg("driver").arg(prune.get_program()).args(prune.get_args());
    let path = std::env::join_paths(
        std::iter::once(bench.path("bin")).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    command.env("PATH", path.unwrap()).env("OUT", out).env("INFER", env!("CARGO_BIN_EXE_secateurs-infer"));
    command.env("CANDLE_NUM_THREADS", "1").env_remove("CI").current_dir(bench.path("")).process_group(0);
    command
}

/// The hash of the model in a whole bundle; none where there is no folder.
fn whole(out: &Path) -> Result<Option<String>, String> {
    if !out.exists() {
        return Ok(None);
    }
    match bundle::verify(out) {
        Ok(whole) => Ok(Some(whole.listed.files[bundle::MODEL].clone())),
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

#[test]
fn a_bundle_is_the_old_one_or_the_new_one_whenever_its_run_is_killed() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    std::fs::create_dir(bench.path("bin")).unwrap();
    std::fs::write(bench.path("bin/qemu-x"), "#!/bin/sh\nexec \"$@\"\n").unwrap();
    std::fs::set_permissions(bench.path("bin/qemu-x"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let profile = std::fs::read_to_string(bench.path("in/board.toml")).unwrap();
    let few = "[bench]\nruns = 4\nwarmup = 0\nquiet = false\n";
    std::fs::write(bench.path("in/board.toml"), profile + few).unwrap();
    let log = || std::fs::read_to_string(bench.path("log")).unwrap_or_default();
    let run = |budget: f64, out: &str| {
        let start = Instant::now();
        assert!(drive(&bench, budget, out).status().unwrap().success(), "{}", log());
        (whole(&bench.path(out)).unwrap().unwrap(), start.elapsed())
    };
    let ((old, _), (new, took)) = (run(OLD, "old"), run(NEW, "new"));
    assert_ne!(old, new);
    let mut problems = Vec::new();
    let mut random = random();
    for kill in 0..kills(6) {
        let (fresh, after) = (kill % 3 == 2, took.mul_f64(1.05 * random()));
        let _ = std::fs::remove_dir_all(bench.path("case"));
        if !fresh {
            lay(&bench, "old", "case");
            std::fs::write(bench.path("case/notes.txt"), "mine").unwrap();
        }
        let mut child = drive(&bench, NEW, "case").spawn().unwrap();
        std::thread::sleep(after);
        // The worker, too.
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", child.id())]).status();
        child.wait().unwrap();
        let found = whole(&bench.path("case"));
        let before = (!fresh).then(|| old.clone());
        if found != Ok(before) && found != Ok(Some(new.clone())) {
            problems.push(format!("kill {kill} after {after:?}: {found:?}"));
        }
        if !drive(&bench, NEW, "case").status().unwrap().success() {
            problems.push(format!("kill {kill} after {after:?}: the next run fails: {}", log()));
        }
        let found = whole(&bench.path("case"));
        if found != Ok(Some(new.clone())) {
            problems.push(format!("kill {kill} after {after:?}: the next run gives {found:?}"));
        }
        if !fresh && std::fs::read_to_string(bench.path("case/notes.txt")).ok().as_deref() != Some("mine") {
            problems.push(format!("kill {kill} after {after:?}: what is the owner's is gone"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
