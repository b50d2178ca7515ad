//! `secateurs verify`: whether a bundle is whole, holds its budgets, and is no worse than an earlier one.
//!
//! 1. Every file is held against the manifest, and the binary against the model (exit code 9).
//! 2. The budgets are those of the profile, and hold by the figures of the run, or by a new measurement on the device
//!    (5, 6); a latency that was only simulated is refused (7).
//! 3. Where an earlier bundle is named, both are measured interleaved, and their accuracy is compared (5, 6).

use super::failure::Failure;
use super::measure::{Request, measure};
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use crate::bundle::{self, BASELINE, BINARY, Fault, MODEL, Verified};
use crate::pipeline::Outcome;
use crate::report::Verdict;
use std::path::{Path, PathBuf};

/// Which bundle, and what it is held against.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the bundle, such as dist/host
    #[arg(value_name = "DIR")]
    bundle: PathBuf,
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
    let whole = open(&args.bundle, &mut terminal)?;
    if prune::budget(&whole.profile) != whole.report.budget {
        let problem = "report.json was judged by other budgets than those of profile.toml";
        return Err(Failure::Input(format!("{}: {problem}", args.bundle.display())));
    }
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

/// A bundle, if it is whole.
fn open(folder: &Path, terminal: &mut Terminal) -> Result<Verified, Failure> {
    terminal.stage("Verifying", &folder.display().to_string());
    let whole = bundle::verify(folder).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
        Failure::Input(lines.join("\n"))
    })?;
    terminal.note(&format!("{} files, {:.1} MB: whole", whole.listed.files.len() + 1, whole.bytes as f64 / 1e6));
    Ok(whole)
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
    let old = open(folder, terminal)?;
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
