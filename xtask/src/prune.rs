//! `cargo xtask prune`: worker, inference binary, measurement on the device.
//!
//! 1. Build the worker and let it prune: it leaves the model, the plan and the reports in the results' folder.
//! 2. Build the inference binary for the device with that model embedded.
//! 3. Let the worker measure it on the device through the profile's connection, complete the reports and judge.

use crate::process::{Failure, Tell, run_worker};
use crate::target::{self, Target};
use crate::workspace::{Build, Workspace, host_triple};
use clap::ValueEnum;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The binary that ships.
const BINARY: &str = "secateurs-infer";

/// A device, and what shall differ from its profile. Values are checked by the worker.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile: NAME stands for targets/NAME.toml
    #[arg(long, value_name = "NAME")]
    target: String,
    /// Model file: an ultralytics .pt, safetensors, or a model file of ours [default: the profile's, else the demo]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The dataset's YAML file [default: the profile's, else the demo's drawn set]
    #[arg(long, value_name = "YAML")]
    data: Option<PathBuf>,
    /// Side of the square input image, pixels
    #[arg(long, value_name = "N")]
    imgsz: Option<String>,
    /// Latency budget per frame, milliseconds
    #[arg(long, value_name = "X", conflicts_with = "latency_ratio")]
    latency_ms: Option<String>,
    /// Latency budget as a share of the uncut model's latency
    #[arg(long, value_name = "R")]
    latency_ratio: Option<String>,
    /// Memory budget: weights, peak activations and workspace, MiB
    #[arg(long, value_name = "X")]
    memory_mib: Option<String>,
    /// Budget of trained values
    #[arg(long, value_name = "N")]
    params: Option<String>,
    /// Budget of the model's file, MiB
    #[arg(long, value_name = "X")]
    file_mib: Option<String>,
    /// What is taken away: structured, unstructured or 2:4
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Passes over the training images; 0 skips training
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// How channels are ranked: fisher, taylor, l1, l2, ...
    #[arg(long, value_name = "NAME")]
    importance: Option<String>,
    /// Threads of the network on the device
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Folder of the results [default: dist/NAME in the workspace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Train on a CUDA device
    #[arg(long)]
    cuda: bool,
    /// Check everything and print what would be done
    #[arg(long)]
    dry_run: bool,
    /// How progress and results are told
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    message_format: Format,
}

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Stages in cargo's style and progress bars on standard error, results on standard output
    Human,
    /// One JSON object a line on standard output
    Json,
}

impl Args {
    /// How progress is told.
    pub fn tell(&self) -> Tell {
        match self.message_format {
            Format::Human => Tell::Human,
            Format::Json => Tell::Json,
        }
    }

    /// The words that the worker gets as they are.
    fn forwarded(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        let flags = [
            ("--model", path(&self.model)),
            ("--data", path(&self.data)),
            ("--imgsz", self.imgsz.clone()),
            ("--latency-ms", self.latency_ms.clone()),
            ("--latency-ratio", self.latency_ratio.clone()),
            ("--memory-mib", self.memory_mib.clone()),
            ("--params", self.params.clone()),
            ("--file-mib", self.file_mib.clone()),
            ("--strategy", self.strategy.clone()),
            ("--epochs", self.epochs.clone()),
            ("--importance", self.importance.clone()),
            ("--threads", self.threads.clone()),
            ("--seed", self.seed.clone()),
        ];
        flags.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}"))).collect()
    }
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let tell = args.tell();
    let workspace = Workspace::find()?;
    let target = target::find(&workspace.root.join("targets"), &args.target)?;
    let out = args.out.clone().unwrap_or_else(|| workspace.root.join("dist").join(&args.target));
    let format = if tell == Tell::Json { "json" } else { "human" };

    tell.stage("Building", "the worker (secateurs)");
    let worker = workspace.build_worker(args.cuda)?;
    let mut prune = Command::new(&worker);
    prune.arg("prune").arg("--profile").arg(&target.path).arg("--out").arg(&out);
    prune.arg("--cache").arg(workspace.target.join("secateurs-cache"));
    prune.args(args.forwarded()).args(args.cuda.then_some("--cuda")).args(["--message-format", format]);
    if args.dry_run {
        run_worker(prune.arg("--dry-run"))?;
        tell.stage(
            "Would",
            &format!(
                "build {BINARY} for {} with the model embedded",
                target.triple.as_deref().unwrap_or("this machine")
            ),
        );
        tell.stage("Would", "measure it on the device in turn with the uncut model, and complete the reports");
        return Ok(());
    }
    run_worker(&mut prune)?;

    tell.stage("Building", &format!("the inference binary ({BINARY})"));
    let built = build_binary(&workspace, &target, &out)?;
    let binary = out.join(BINARY);
    install(&built, &binary)?;

    let mut finish = Command::new(&worker);
    finish.arg("finish").arg("--profile").arg(&target.path).arg("--out").arg(&out).arg("--binary").arg(&binary);
    finish.args(args.threads.iter().map(|threads| format!("--threads={threads}")));
    run_worker(finish.args(["--message-format", format]))
}

/// Builds the lean runtime with the model embedded, in a target folder of its own: it has other features than the worker,
/// and neither shall make the other compile again.
fn build_binary(workspace: &Workspace, target: &Target, out: &Path) -> Result<PathBuf, Failure> {
    let model = out.join("model.safetensors");
    let model = fs::canonicalize(&model).map_err(|e| Failure::Workspace(format!("{}: {e}", model.display())))?;
    let folder = workspace.target.join("infer");
    let mut words =
        vec!["--no-default-features".to_owned(), "--target-dir".into(), folder.to_string_lossy().into_owned()];
    words.extend(["--config".into(), "profile.release.strip=true".into()]);
    let host = host_triple()?;
    let triple = target.triple.as_deref().unwrap_or(&host);
    if triple != host {
        words.extend(["--target".into(), triple.into()]);
    }
    if let Some(cpu) = &target.cpu {
        words.extend(["--config".into(), format!("target.{triple}.rustflags=[\"-C\", \"target-cpu={cpu}\"]")]);
    }
    workspace.build(&Build { binary: BINARY, words, model: Some(&model) })
}

/// Copies a program under a temporary name first, so that nobody ever sees half of it.
fn install(from: &Path, to: &Path) -> Result<(), Failure> {
    let temporary = to.with_extension("tmp");
    let copied = fs::copy(from, &temporary).and_then(|_| fs::rename(&temporary, to));
    copied.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Failure::Workspace(format!("{}: {e}", to.display()))
    })
}
