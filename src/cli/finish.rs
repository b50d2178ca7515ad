//! `secateurs finish`: measures the built bundle on its device and completes the reports.
//!
//! Between the two stages of `cargo xtask prune` the results lie beside their folder; here they are put in their place, and
//! entered into the lock. The profile is read from `profile.toml` among them, where the job wrote it with every flag applied.

use super::cache::scratch;
use super::failure::Failure;
use super::measure::{Request, measure};
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use crate::bundle::{BASELINE, MODEL};
use crate::pipeline::{Bundle, Pending, Results};
use std::path::PathBuf;

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
    /// The lock file, where the bundle is entered
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut terminal = Terminal::new(args.terminal);
    let results = Results::finish(&args.out, args.held)?;
    let bundle = Bundle::open(&results, &args.binary)?;
    let pending = Pending::read(&results)?;
    // Temporary files of a measurement go with this.
    let scratch = scratch()?;
    let set = results.set();
    terminal.stage("Measuring", &format!("{} on {}", args.binary.display(), bundle.profile.device.name));
    let request = Request {
        profile: &bundle.profile,
        report: &bundle.report,
        binary: &args.binary,
        model: &set.join(MODEL),
        other: &set.join(BASELINE),
        folder: scratch.path(),
    };
    let measurement = measure(&request, &mut terminal)?;
    let report = bundle.finish(&results, &measurement)?;
    pending.settle(&results, &report, args.lock.as_deref())?;
    terminal.result(&prune::summary(&report), serde_json::json!({ "reason": "finished", "report": report }));
    prune::judge(&report.verdict, args.require_device)
}
