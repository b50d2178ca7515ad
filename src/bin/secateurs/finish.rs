//! `secateurs finish`: measures the built bundle on its device and completes the reports.

use super::failure::Failure;
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use secateurs::bench::Measured;
use secateurs::device::{self, Word};
use secateurs::files;
use secateurs::pipeline::{self, Against};
use std::path::PathBuf;

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
    let runner = device::runner(&profile.connect)?;
    let text = |value: &dyn ToString| Word::Text(value.to_string());
    let words = [
        text(&"bench"),
        text(&"--json"),
        text(&"--runs"),
        text(&profile.bench.runs),
        text(&"--warmup"),
        text(&profile.bench.warmup),
        text(&"--threads"),
        text(&args.threads.unwrap_or(profile.device.threads)),
        text(&"--against"),
        Word::File(args.out.join("uncut.safetensors")),
    ];
    let output = runner.run(&args.binary, &words)?;
    let measured: Measured = serde_json::from_slice(&output)
        .map_err(|e| Failure::Internal(format!("{}: its measurement cannot be read: {e}", args.binary.display())))?;
    let path = args.out.join(BENCH);
    files::write_atomic(&path, &output).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    complete(&args.out, &measured, &mut terminal)
}

/// Enters the measurement into the reports and judges the budgets by it.
fn complete(out: &std::path::Path, measured: &Measured, terminal: &mut Terminal) -> Result<(), Failure> {
    let Some(uncut) = &measured.against else {
        return Err(Failure::Internal("the binary did not measure the uncut model".into()));
    };
    let against = Against { uncut: uncut.latency.clone(), cut: measured.latency.clone(), ratio: uncut.pair_ratio };
    let report = pipeline::finish(out, &against)?;
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
