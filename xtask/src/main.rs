//! `cargo xtask`: the thin driver of the pruning pipeline.
//!
//! It knows cargo: where things are, what to build with which features, and in which order to run it. What the
//! profile means, and whether it is right, is known to the worker alone.

mod builder;
mod check;
#[path = "../../src/bin/secateurs/console.rs"]
mod console;
mod cross;
mod cuda;
mod devices;
mod doctor;
mod forward;
mod fuzz;
mod glibc;
mod locked;
mod on_device;
mod options;
#[path = "../../src/bin/infer/output.rs"]
#[allow(dead_code)]
mod output;
mod process;
mod prune;
mod readme;
mod target;
mod worker;
mod workspace;

use clap::{Parser, Subcommand};
use options::Request;
use process::{Failure, Progress};
use std::ffi::OsString;
use std::process::ExitCode;

/// Prunes a trained detector to a measured latency and memory budget of a device.
#[derive(Parser)]
#[command(name = "cargo xtask", version, arg_required_else_help = true, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask prune --target host
  cargo xtask prune --target host --model best.pt --data data.yaml --imgsz 320 --latency-ratio 0.7
  cargo xtask doctor --target rpi5
  cargo xtask eval --model dist/host/model.safetensors --data data.yaml

Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 bad profile, 4 no plan meets the budget,
5 measured budget missed, 6 accuracy floor missed, 7 the device cannot be reached, 8 the device was throttled or busy
in every try, 9 an input cannot be used, 10 this machine failed: disk, permission, memory.";

#[derive(Subcommand)]
enum Command {
    /// Prune a model to the budgets of a device, and build and measure the binary that runs it there
    #[command(disable_help_flag = true)]
    Prune(Arguments),
    /// Check what building for a device and running there needs, and how to install what is missing
    Doctor(doctor::Args),
    /// List and show device profiles, and make new ones
    #[command(subcommand)]
    Devices(devices::Action),
    /// Run a program on a device: as CARGO_TARGET_..._RUNNER="cargo xtask runner --target NAME"
    Runner(forward::Runner),
    /// Check a change: format, lints, the order of the modules, and the tests that matter while working
    Check(check::Args),
    Readme(readme::Args),
    /// Fuzz everything that is read with damaged and hostile inputs, and keep those that break something
    Fuzz(fuzz::Args),
    /// Evaluate a model on a dataset: mean average precision, or accuracy
    #[command(disable_help_flag = true)]
    Eval(Arguments),
    /// Measure the time per frame and the peak memory of a model on this machine
    #[command(disable_help_flag = true)]
    Bench(Arguments),
    /// Prune a model in several ways to the same latency, and compare their accuracy
    #[command(disable_help_flag = true)]
    Compare(Arguments),
    /// Find objects in images
    #[command(disable_help_flag = true)]
    Detect(Arguments),
    /// Show layers, channel groups, parameters, MACs and peak memory of a model
    #[command(disable_help_flag = true)]
    Inspect(Arguments),
    /// Write a model as safetensors or ONNX
    #[command(disable_help_flag = true)]
    Export(Arguments),
    /// Quantize a model to int8 or f16: smaller and faster
    #[command(disable_help_flag = true, alias = "quantize")]
    Quantise(Arguments),
    /// Train a network from scratch, or a model further
    #[command(disable_help_flag = true)]
    Train(Arguments),
    /// Check that a bundle is whole, holds its budgets, and is no worse than an earlier one
    #[command(disable_help_flag = true)]
    Verify(Arguments),
}

/// Arguments that the worker reads.
#[derive(clap::Args)]
struct Arguments {
    /// Options of the worker; --help lists them
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return command_line(&error),
    };
    let mut progress = Progress::Human;
    let done = match cli.command {
        Command::Prune(args) => match options::parse(&args.arguments) {
            Ok(Request::Help) => prune::help(),
            Ok(Request::Run(options)) => {
                progress = options.progress;
                prune::run(&options)
            }
            Err(error) => return command_line(&error),
        },
        Command::Doctor(args) => doctor::run(&args),
        Command::Devices(action) => devices::run(&action),
        Command::Runner(args) => forward::runner(&args),
        Command::Check(args) => check::check(&args),
        Command::Readme(args) => readme::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Eval(args) => forward::run("eval", &args.arguments),
        Command::Bench(args) => forward::run("bench", &args.arguments),
        Command::Compare(args) => forward::run("compare", &args.arguments),
        Command::Detect(args) => forward::run("detect", &args.arguments),
        Command::Inspect(args) => forward::run("inspect", &args.arguments),
        Command::Export(args) => forward::run("export", &args.arguments),
        Command::Quantise(args) => forward::run("quantise", &args.arguments),
        Command::Train(args) => forward::run("train", &args.arguments),
        Command::Verify(args) => forward::run("verify", &args.arguments),
    };
    let done = done.inspect_err(|failure| progress.failure(failure));
    let show = |failure: &Failure| Progress::Human.failure(failure);
    let done = done.and_then(|()| output::finish().map_err(Failure::Output).inspect_err(show));
    done.map_or_else(|failure| ExitCode::from(failure.code()), |()| ExitCode::SUCCESS)
}

/// Shows what is wrong with the command line, or the help that it asks for.
fn command_line(error: &clap::Error) -> ExitCode {
    let shown = console::show(error).map_err(Failure::Output).inspect_err(|failure| Progress::Human.failure(failure));
    ExitCode::from(shown.unwrap_or_else(|failure| failure.code()))
}
