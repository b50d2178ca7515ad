//! `secateurs prune`: the whole job, up to the bundle; `cargo xtask prune` builds its binary and measures it.

use super::failure::Failure;
use super::terminal::{Terminal, TerminalArgs};
use secateurs::device;
use secateurs::profile::{self, IMPORTANCE, Mib, Millis, Overrides, Profile, Ratio};
use std::path::{Path, PathBuf};

/// A profile, and what shall differ from it.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile; without one, this machine with the budgets of the flags
    #[arg(long, value_name = "TOML")]
    profile: Option<PathBuf>,
    /// Model file: an ultralytics .pt, safetensors, or a model file of ours [default: the profile's, else the demo]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The dataset's YAML file [default: the profile's, else the demo's drawn set]
    #[arg(long, value_name = "YAML")]
    data: Option<PathBuf>,
    /// Side of the square input image, pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    imgsz: Option<u16>,
    /// Latency budget per frame, milliseconds
    #[arg(long, value_name = "X", conflicts_with = "latency_ratio")]
    latency_ms: Option<Millis>,
    /// Latency budget as a share of the uncut model's latency
    #[arg(long, value_name = "R")]
    latency_ratio: Option<Ratio>,
    /// Memory budget: weights, peak activations and workspace, MiB
    #[arg(long, value_name = "X")]
    memory_mib: Option<Mib>,
    /// Passes over the training images; 0 skips training
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// How channels are ranked
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(IMPORTANCE))]
    importance: Option<String>,
    /// Threads of the network on the device
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder of the results [default: dist/<target>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder where measurements are kept for the next run [default: .cache in the folder of the results]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Check everything and print what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// The profile of a file, or the default one.
pub fn load(path: Option<&Path>) -> Result<Profile, Failure> {
    path.map_or(Ok(Profile::default()), |path| Ok(profile::read(path)?))
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let overrides = Overrides {
        model: args.model,
        data: args.data,
        imgsz: args.imgsz.map(usize::from),
        latency: args.latency_ms,
        latency_ratio: args.latency_ratio,
        memory: args.memory_mib,
        epochs: args.epochs.map(|n| n as usize),
        importance: args.importance,
        threads: args.threads.map(usize::from),
        seed: args.seed,
    };
    let profile = overrides.apply(load(args.profile.as_deref())?);
    let budget = &profile.budget;
    if budget.latency.is_none() && budget.latency_ratio.is_none() && budget.memory.is_none() {
        return Err(Failure::Usage(
            "no budget: give --latency-ms, --latency-ratio or --memory-mib, or set one in the profile".into(),
        ));
    }
    if profile.model.path.is_some() && profile.data.is_none() {
        return Err(Failure::Usage("a model without data: name its dataset with --data data.yaml".into()));
    }
    let out = args.out.unwrap_or_else(|| Path::new("dist").join(&profile.device.name));
    let cache = args.cache.unwrap_or_else(|| out.join(".cache"));
    let mut terminal = Terminal::new(args.terminal);
    if args.dry_run {
        let value =
            serde_json::json!({ "reason": "plan", "profile": profile, "out": out, "steps": steps(&profile, &out) });
        let steps = steps(&profile, &out);
        let text: Vec<String> = steps.iter().enumerate().map(|(i, step)| format!("{:>2}. {step}", i + 1)).collect();
        terminal.result(&text.join("\n"), value);
        return Ok(());
    }
    device::runner(&profile.connect)?;
    execute(&profile, &out, &cache, &mut terminal)
}

/// What the job will do, in order.
fn steps(profile: &Profile, out: &Path) -> Vec<String> {
    let or = |path: &Option<PathBuf>, other: &str| path.as_ref().map_or(other.to_owned(), |p| p.display().to_string());
    let (budget, search, tune) = (&profile.budget, &profile.search, &profile.finetune);
    let budgets = [
        budget.latency.map(|ms| format!("p{} within {ms}", budget.percentile)),
        budget.latency_ratio.map(|ratio| format!("{ratio} the uncut latency")),
        budget.memory.map(|mib| format!("{mib} of memory")),
    ];
    let size = profile.model.imgsz.map_or("its own size".to_owned(), |side| format!("{side} px"));
    let teacher = if tune.distill > 0.0 { ", the uncut model as teacher" } else { "" };
    let mut steps = vec![
        format!("import {} for images of {size}", or(&profile.model.path, "the embedded demo")),
        format!("read {}", or(&profile.data, "the embedded drawn set")),
        format!("rank the channels ({}, {} images)", search.importance, search.calibration_images),
        format!("measure the latency of every layer, {} thread(s)", profile.device.threads),
        format!(
            "search widths in steps of {} (at least {} stay): {}",
            search.grid,
            search.min_keep,
            budgets.into_iter().flatten().collect::<Vec<_>>().join(", ")
        ),
        "cut, and repair by least squares".to_owned(),
    ];
    if tune.epochs > 0 {
        steps.push(format!("train {} epochs, batches of {}{teacher}", tune.epochs, tune.batch));
    }
    steps.push("evaluate the uncut, the cut, the repaired and the tuned model".to_owned());
    steps.push(format!("measure uncut and pruned model in turn, {} frames each", profile.bench.runs));
    steps.push(format!("write model, plan, reports and manifest to {}", out.display()));
    steps
}

/// Does the job.
fn execute(profile: &Profile, out: &Path, cache: &Path, terminal: &mut Terminal) -> Result<(), Failure> {
    let _ = (profile, out, cache, terminal);
    Err(Failure::Internal("`prune` is not wired to the pipeline yet".into()))
}
