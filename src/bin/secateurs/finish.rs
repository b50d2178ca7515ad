//! `secateurs finish`: measures the built bundle on its device and completes the reports.

use super::failure::Failure;
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use secateurs::emit::onnx;
use secateurs::pipeline::{self, Against, Outcome, external};
use secateurs::session::{Frames, Record, Session};
use secateurs::{files, model};
use std::path::{Path, PathBuf};

/// Where the bundle is, and where it shall run.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile
    #[arg(long, value_name = "TOML")]
    profile: Option<PathBuf>,
    /// Folder of the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The inference binary with the model embedded
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// Threads of the network on the device [default: the profile's]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// What the binary measured.
const BENCH: &str = "bench.json";

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut terminal = Terminal::new(args.terminal);
    let profile = prune::load(args.profile.as_deref())?;
    terminal.stage("Measuring", &format!("{} on {}", args.binary.display(), profile.device.name));
    let imgsz = pipeline::report_of(&args.out)?.imgsz;
    if let Some(command) = &profile.bench.command {
        let against = by_command(command, imgsz, profile.bench.runs, &args.out)?;
        return judge(&args.out, &Outcome::Measured(&against), &mut terminal);
    }
    let session = Session::open(&profile, &args.binary)?;
    // As plans were measured.
    let runs = pipeline::verdict_runs(profile.budget.percentile, profile.bench.runs);
    let percentile = profile.budget.latency.map(|_| profile.budget.percentile);
    let frames = Frames { imgsz, warmup: profile.bench.warmup, runs, phases: true, percentile };
    let uncut = args.out.join("uncut.safetensors");
    let record = session.versus(None, &uncut, &frames, &mut |done, all| terminal.progress(done, all))?;
    if !record.discarded.is_empty() {
        let (count, why) = (record.discarded.len(), record.discarded.join("; "));
        terminal.note(&format!("{count} windows were taken again: {why}"));
    }
    let path = args.out.join(BENCH);
    let bytes = serde_json::to_vec_pretty(&record)?;
    files::write_atomic(&path, &bytes).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    complete(&args.out, &record, &mut terminal)
}

/// Enters the measurement into the reports and judges the budgets by it.
fn complete(out: &std::path::Path, record: &Record, terminal: &mut Terminal) -> Result<(), Failure> {
    let against = Against::of_record(record)
        .ok_or_else(|| Failure::Internal("the binary did not measure the uncut model".into()))?;
    let outcome = match &record.simulated {
        Some(why) => Outcome::Simulated(why),
        None => Outcome::Measured(&against),
    };
    judge(out, &outcome, terminal)
}

/// Lets a benchmark command of the user measure both models, and leaves the ONNX file that ships.
fn by_command(command: &[String], imgsz: usize, runs: usize, out: &Path) -> Result<Against, Failure> {
    let load = |name: &str| model::load(&out.join(name)).map_err(Failure::input);
    let (uncut, cut) = (load("uncut.safetensors")?, load("model.safetensors")?);
    let path = out.join("model.onnx");
    let bytes = onnx::export(&cut, imgsz, imgsz).map_err(Failure::input)?;
    files::write_atomic(&path, &bytes).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    let against = external::versus(command, &uncut, &cut, imgsz, runs, out)?;
    let path = out.join(BENCH);
    let bytes = serde_json::to_vec_pretty(&against)?;
    files::write_atomic(&path, &bytes).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    Ok(against)
}

fn judge(out: &Path, outcome: &Outcome, terminal: &mut Terminal) -> Result<(), Failure> {
    let report = pipeline::finish(out, outcome)?;
    terminal.result(&prune::summary(&report), serde_json::json!({ "reason": "finished", "report": report }));
    let missed = report.verdict.sentences.join("; ");
    if !report.verdict.latency_ok || !report.verdict.memory_ok {
        return Err(Failure::Budget(missed));
    }
    if !report.verdict.accuracy_ok {
        return Err(Failure::Accuracy(missed));
    }
    Ok(())
}
