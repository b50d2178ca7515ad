//! `secateurs verify`: whether a bundle is whole, holds its budgets, and is no worse than an earlier one.
//!
//! 1. The signature of the manifest is one of the key, where a key is given. Every file is held against the manifest,
//!    and the binary against the model (exit code 9).
//! 2. The bundle is the one that `secateurs.lock` is about, where there is one (9).
//! 3. The budgets are those of the profile, the verdict follows from the figures (9), and they hold by the figures of
//!    the run, or by a new measurement on the device (5, 6); a latency that was only simulated is refused (7).
//! 4. Where an earlier bundle is named, both are measured interleaved, and their accuracy is compared (5, 6).

use super::failure::Failure;
use super::measure::{Request, measure};
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use crate::bench::PairedEnergy;
use crate::bundle::sign::PublicKey;
use crate::bundle::{self, BASELINE, BINARY, Fault, LOCK, Lock, MODEL, PLAN, REPORT_JSON, Verified};
use crate::pipeline::{self, Outcome, PairedLatency};
use crate::report::{Report, Verdict};
use std::path::{Path, PathBuf};

/// Which bundle, and what it is held against.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the bundle, such as dist/host
    #[arg(value_name = "DIR")]
    bundle: PathBuf,
    /// Fail unless the bundle is signed with this minisign key: a public key file, or its base64
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The lock that the bundle must agree with [default: secateurs.lock in a folder above the bundle, if there is one]
    #[arg(long, value_name = "FILE", conflicts_with = "no_lock")]
    lock: Option<PathBuf>,
    /// Hold the bundle against no lock
    #[arg(long)]
    no_lock: bool,
    /// Accept a bundle whose latency was not measured on its device
    #[arg(long)]
    allow_simulated: bool,
    /// Measure it on its device again, and judge the budgets by that
    #[arg(long)]
    measure: bool,
    /// Fail if the bundle is slower or less accurate than this earlier one; both are measured interleaved on the device
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// How much slower than --against it may be, percent of the time per frame
    #[arg(long, value_name = "PERCENT", default_value = "2", value_parser = percent, requires = "against")]
    max_slower: f64,
    /// How much mAP50-95 (of a classifier: accuracy) it may lose against --against
    #[arg(long, value_name = "X", default_value = "0.005", value_parser = share, requires = "against")]
    max_map_drop: f64,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// Reads `2` or `2%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse().ok();
    number.filter(|n| (0.0..=1000.0).contains(n)).ok_or_else(|| "expected percent from 0 to 1000, such as 2%".into())
}

/// Reads a share.
fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number.filter(|n| (0.0..=1.0).contains(n)).ok_or_else(|| "expected a number from 0 to 1, such as 0.005".into())
}

/// Runs it.
///
/// # Errors
/// Everything that is wrong with the files; a budget that is missed; a bundle that is worse than the earlier one.
pub fn run(args: &Args) -> Result<(), Failure> {
    let mut terminal = Terminal::new(args.terminal);
    let key = args.key.as_deref().map(PublicKey::open).transpose()?;
    let whole = open(&args.bundle, key.as_ref(), &mut terminal)?;
    match (&key, &whole.signature) {
        (Some(key), _) => terminal.note(&format!("signed with key {}", key.id())),
        (None, Some(signature)) => {
            terminal.note(&format!("its signature claims key {}, and is not checked without --key", signature.id()));
        }
        (None, None) => {}
    }
    if !args.no_lock {
        hold(args, &whole, &mut terminal)?;
    }
    judged_by_its_profile(&args.bundle, &whole)?;
    let mut report = whole.report.clone();
    if args.measure {
        terminal.stage("Measuring", &format!("{} on {}", args.bundle.display(), whole.profile.device.name));
        pair(&args.bundle, &whole, &args.bundle.join(BASELINE), &mut terminal)?.enter(&mut report);
    }
    let value = serde_json::json!({ "reason": "verified", "report": report });
    terminal.result(&prune::summary(&report), value);
    prune::judge(&report.verdict, !args.allow_simulated)?;
    match &args.against {
        Some(old) => compare(args, &whole, old, &mut terminal),
        None => Ok(()),
    }
}

/// A bundle, if it is whole, and signed where a key is given.
fn open(folder: &Path, key: Option<&PublicKey>, terminal: &mut Terminal) -> Result<Verified, Failure> {
    terminal.stage("Verifying", &folder.display().to_string());
    let whole = key.map_or_else(|| bundle::verify(folder), |key| bundle::verify_signed(folder, key));
    let whole = whole.map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
        Failure::Input(lines.join("\n"))
    })?;
    let files = whole.listed.files.len() + 1 + usize::from(whole.signature.is_some());
    terminal.note(&format!("{files} files, {:.1} MB: whole", whole.bytes as f64 / 1e6));
    Ok(whole)
}

/// Refuses a bundle that is not the one that a lock is about.
fn hold(args: &Args, whole: &Verified, terminal: &mut Terminal) -> Result<(), Failure> {
    let above = || {
        let folder = std::fs::canonicalize(&args.bundle).ok()?;
        folder.ancestors().map(|above| above.join(LOCK)).find(|path| path.symlink_metadata().is_ok())
    };
    let Some(path) = args.lock.clone().or_else(above) else {
        terminal.note(&format!("there is no {LOCK} above it to hold it against"));
        return Ok(());
    };
    let fail = |problem: &str| Failure::Input(format!("{}: {problem}", path.display()));
    let lock = Lock::read(&path).map_err(Failure::input)?.ok_or_else(|| fail("is missing"))?;
    let name = &whole.report.target;
    // A profile may name its device otherwise than its file, after which lock and folder are named.
    let folder = std::fs::canonicalize(&args.bundle).unwrap_or_default();
    let by_folder = || lock.target(&folder.file_name()?.to_string_lossy());
    let locked = lock.target(name).or_else(by_folder);
    let locked = locked.ok_or_else(|| fail(&format!("has no target `{}`", name.escape_debug())))?;
    let found = bundle::differences(locked, whole)
        .map_err(|problem| Failure::Input(format!("{}: {problem}", args.bundle.join(PLAN).display())))?;
    if found.is_empty() {
        terminal.note(&format!("as {} says", path.display()));
        return Ok(());
    }
    let lines: Vec<String> = found.iter().map(|one| format!("{}: {one}", path.display())).collect();
    Err(Failure::Input(lines.join("\n")))
}

/// Refuses a report that was judged by other budgets than those of the profile, or whose verdict its own figures
/// refute.
fn judged_by_its_profile(folder: &Path, whole: &Verified) -> Result<(), Failure> {
    let fail = |problem: &str| Err(Failure::Input(format!("{}: {problem}", folder.join(REPORT_JSON).display())));
    let floors = whole.profile.budget.floors.iter().map(|(name, share)| (name.clone(), share.get())).collect();
    if prune::budget(&whole.profile) != whole.report.budget || whole.report.floors != floors {
        return fail("was judged by other budgets than those of profile.toml");
    }
    let (said, follows) = (&whole.report.verdict, verdict_of(&whole.report));
    let holds = |verdict: &Verdict| (verdict.latency_ok, verdict.memory_ok, verdict.accuracy_ok);
    if holds(said) != holds(&follows) {
        return fail("has a verdict that does not follow from its figures");
    }
    Ok(())
}

/// The verdict that the figures of a report give.
fn verdict_of(report: &Report) -> Verdict {
    let (ratio, simulated) = (report.verdict.latency_ratio, report.verdict.simulated.as_deref());
    match (&report.baseline.latency, &report.last().latency, simulated) {
        (Some(baseline), Some(pruned), None) => {
            let (baseline, pruned) = (baseline.clone(), pruned.clone());
            let energies = report.baseline.energy.zip(report.last().energy);
            let energy = energies.map(|(baseline, pruned)| PairedEnergy { rails: String::new(), baseline, pruned });
            let pair = PairedLatency { baseline, pruned, ratio, ratio_bound: None, all_windows: None, energy };
            pipeline::judge(report, &pair)
        }
        (_, _, why) => pipeline::judge_simulated(report, why.unwrap_or("no latency")),
    }
}

/// Measures a bundle interleaved with another model on its device; or why no latency is claimed.
fn pair(folder: &Path, whole: &Verified, other: &Path, terminal: &mut Terminal) -> Result<Outcome, Failure> {
    let scratch = tempfile::tempdir().map_err(|e| Failure::writing(&std::env::temp_dir(), &e))?;
    let request = Request {
        profile: &whole.profile,
        report: &whole.report,
        binary: &folder.join(BINARY),
        model: &folder.join(MODEL),
        other,
        folder: scratch.path(),
    };
    measure(&request, terminal).map(|measurement| measurement.outcome)
}

/// Refuses a bundle that is worse than an earlier one.
fn compare(args: &Args, new: &Verified, folder: &Path, terminal: &mut Terminal) -> Result<(), Failure> {
    let old = open(folder, None, terminal)?;
    let (before, after) = (old.report.last(), new.report.last());
    if (&old.report.data, before.accuracy.is_some()) != (&new.report.data, after.accuracy.is_some()) {
        let problem = "was evaluated on other data, so that accuracies cannot be compared";
        return Err(Failure::Input(format!("{}: {problem}", folder.display())));
    }
    terminal.stage("Measuring", &format!("interleaved with {}", folder.display()));
    let mut verdict = Verdict { latency_ok: true, memory_ok: true, accuracy_ok: true, ..Verdict::default() };
    let mut check = |slot: fn(&mut Verdict) -> &mut bool, what: String, ok: bool| {
        *slot(&mut verdict) &= ok;
        verdict.sentences.push(format!("{what}: {}", if ok { "holds" } else { "is missed" }));
    };
    match pair(&args.bundle, new, &folder.join(MODEL), terminal)? {
        Outcome::Measured(pair) => {
            let most = 1.0 + args.max_slower / 100.0;
            let what = format!("{:.3}x the latency of {}, {most:.3}x allowed", pair.ratio, folder.display());
            check(|verdict| &mut verdict.latency_ok, what, pair.ratio <= most);
        }
        Outcome::Simulated(why) if !args.allow_simulated => {
            return Err(Failure::Device(format!("the two bundles cannot be measured on the device ({why})")));
        }
        Outcome::Simulated(why) => {
            terminal.note(&format!("latency is not compared: nothing was measured on the device ({why})"))
        }
    }
    if let Some((before, now)) = before.defined_score().zip(after.defined_score()) {
        let name = after.score_name();
        let what = format!("{name} {now:.4}, {before:.4} before, {} less allowed", args.max_map_drop);
        check(|verdict| &mut verdict.accuracy_ok, what, before - now <= args.max_map_drop);
    }
    let lines: Vec<String> = verdict.sentences.iter().map(|text| format!("  {:<12}{text}", "against")).collect();
    terminal.result(&lines.join("\n"), serde_json::json!({ "reason": "compared", "verdict": verdict }));
    prune::judge(&verdict, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_and_shares_are_read_with_their_bounds() {
        assert_eq!((percent("2%"), percent("0.5"), share("0.005")), (Ok(2.0), Ok(0.5), Ok(0.005)));
        for wrong in ["", "%", "-1", "nan", "1001", "2 %%x"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "1.5", "-0.1", "inf"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
