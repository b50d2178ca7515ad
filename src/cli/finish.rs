//! `secateurs finish`: measures the built bundle on its device and completes the reports.
//!
//! Between the two stages of `cargo xtask prune` the results lie beside their folder; here they are put in their place,
//! and entered into the lock. The profile is read from `profile.toml` among them, where the job wrote it with every
//! flag applied.

use super::cache::scratch;
use super::failure::Failure;
use super::measure::{Request, measure};
use super::prune;
use super::sign::{KeyArgs, epoch};
use super::terminal::{Terminal, TerminalArgs};
use crate::bundle::sbom::{self, Crates};
use crate::bundle::{BASELINE, MODEL};
use crate::files;
use crate::pipeline::{Bundle, Pending, Release, Results};
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
    /// The crates that the binary was built of, as JSON; with them the bundle gets a bill of materials
    #[arg(long, value_name = "FILE")]
    crates: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
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
    let crates = args.crates.as_deref().map(crates).transpose()?;
    let (signer, epoch) = (args.key.signer()?, epoch()?);
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
    let release = Release { signer: signer.as_ref(), epoch, ..Release::default() };
    let report = bundle.finish(&results, &measurement, crates.as_ref(), release)?;
    pending.settle(&results, &report, args.lock.as_deref())?;
    terminal.result(&prune::summary(&report), serde_json::json!({ "reason": "finished", "report": report }));
    prune::judge(&report.verdict, args.require_device)
}

/// Reads the list of crates that the driver wrote.
fn crates(path: &Path) -> Result<Crates, Failure> {
    let fail = |problem: String| Failure::Input(format!("{}: {problem}", path.display()));
    let json = files::read(path, sbom::MAX_CRATES).map_err(|e| fail(e.to_string()))?;
    Crates::parse(&json).map_err(fail)
}
