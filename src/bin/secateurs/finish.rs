//! `secateurs finish`: measures the built bundle on its device and completes the reports.
//!
//! It reads the profile from `profile.toml` among the results, where the job wrote it with every flag applied.

use super::failure::Failure;
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use secateurs::emit::onnx;
use secateurs::model;
use secateurs::pipeline::{Bundle, Evidence, Outcome, PairedLatency, Results, pair_by_command, verdict_runs};
use secateurs::session::{Frames, Session};
use std::path::{Path, PathBuf};

/// The results, and the binary that was built of them.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The inference binary with the model embedded; it joins the results
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// Fail (exit code 7) if latency was not measured on the device itself
    #[arg(long)]
    require_device: bool,
    /// The caller has locked the folder of the results
    #[arg(long)]
    held: bool,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut terminal = Terminal::new(args.terminal);
    let results = Results::open(&args.out, args.held)?;
    let bundle = Bundle::open(&results, &args.binary)?;
    terminal.stage("Measuring", &format!("{} on {}", args.binary.display(), bundle.profile.device.name));
    let (outcome, evidence) = match bundle.profile.bench.command.clone() {
        Some(command) => by_command(&command, &bundle, &args.out)?,
        None => by_binary(&bundle, &args, &mut terminal)?,
    };
    let outcome = match &outcome {
        Ok(against) => Outcome::Measured(against),
        Err(why) => Outcome::Simulated(why),
    };
    let report = bundle.finish(&results, &outcome, &evidence)?;
    terminal.result(&prune::summary(&report), serde_json::json!({ "reason": "finished", "report": report }));
    prune::judge(&report.verdict, args.require_device)
}

/// The latency, or why none is claimed; and what the measurement leaves beside the reports.
type Measured = (Result<PairedLatency, String>, Evidence);

/// Lets the inference binary measure both models on the device.
fn by_binary(bundle: &Bundle, args: &Args, terminal: &mut Terminal) -> Result<Measured, Failure> {
    let profile = &bundle.profile;
    let session = Session::open(profile, &args.binary)?;
    // As plans were measured.
    let runs = verdict_runs(profile.budget.percentile, profile.bench.runs);
    let percentile = profile.budget.latency.map(|_| profile.budget.percentile);
    let frames = Frames { imgsz: bundle.report.imgsz, warmup: profile.bench.warmup, runs, phases: true, percentile };
    let baseline = args.out.join("uncut.safetensors");
    let record = session.measure_paired(None, &baseline, &frames, &mut |done, all| terminal.progress(done, all))?;
    if !record.discarded.is_empty() {
        let (count, why) = (record.discarded.len(), record.discarded.join("; "));
        terminal.note(&format!("{count} windows were taken again: {why}"));
    }
    let (planned, measured) = (bundle.report.threads, record.measured.threads);
    if planned != measured {
        return Err(Failure::Internal(format!("planned for {planned} threads, measured with {measured}")));
    }
    let against = PairedLatency::of_record(&record)
        .ok_or_else(|| Failure::Internal("the binary did not measure the baseline model".into()))?;
    let evidence = Evidence { bench: serde_json::to_vec_pretty(&record)?, onnx: None };
    Ok((record.simulated.map_or(Ok(against), Err), evidence))
}

/// Lets a benchmark command of the user measure both models; the ONNX file ships.
fn by_command(command: &[String], bundle: &Bundle, out: &Path) -> Result<Measured, Failure> {
    let load = |name: &str| model::load(&out.join(name)).map_err(Failure::input);
    let (baseline, pruned) = (load("uncut.safetensors")?, load("model.safetensors")?);
    let side = bundle.report.imgsz;
    let runs = verdict_runs(bundle.profile.budget.percentile, bundle.profile.bench.runs);
    let onnx = onnx::export(&pruned, side, side).map_err(Failure::input)?;
    let against = pair_by_command(command, &baseline, &pruned, side, runs, out)?;
    let evidence = Evidence { bench: serde_json::to_vec_pretty(&against)?, onnx: Some(onnx) };
    Ok((Ok(against), evidence))
}
