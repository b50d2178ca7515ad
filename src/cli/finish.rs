//! `secateurs finish`: measures the built bundle on its device and completes the reports.
//!
//! It reads the profile from `profile.toml` among the results, where the job wrote it with every flag applied.

use super::failure::Failure;
use super::measure::{Request, measure};
use super::prune;
use super::terminal::{Terminal, TerminalArgs};
use crate::bundle::{BASELINE, MODEL};
use crate::pipeline::{Bundle, Results};
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
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut terminal = Terminal::new(args.terminal);
    let results = Results::open(&args.out, args.held)?;
    let bundle = Bundle::open(&results, &args.binary)?;
    terminal.stage("Measuring", &format!("{} on {}", args.binary.display(), bundle.profile.device.name));
    let request = Request {
        profile: &bundle.profile,
        report: &bundle.report,
        binary: &args.binary,
        model: &args.out.join(MODEL),
        other: &args.out.join(BASELINE),
        folder: &args.out,
    };
    let measurement = measure(&request, &mut terminal)?;
    let report = bundle.finish(&results, &measurement)?;
    terminal.result(&prune::summary(&report), serde_json::json!({ "reason": "finished", "report": report }));
    prune::judge(&report.verdict, args.require_device)
}
