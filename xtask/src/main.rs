//! `cargo xtask`: the thin driver of the pruning pipeline.
//!
//! It knows cargo: where things are, what to build with which features, and in which order to run it. What the
//! profile means, and whether it is right, is known to the worker alone.

mod cross;
mod cuda;
mod devices;
mod doctor;
mod forward;
mod fuzz;
mod locked;
mod on_device;
#[path = "../../src/bin/infer/output.rs"]
#[allow(dead_code)]
mod output;
mod process;
mod prune;
mod readme;
mod target;
mod workspace;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use process::{Failure, Tell};
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
5 measured budget missed, 6 accuracy floor missed, 7 the device cannot be reached, 8 the device was never quiet enough
to measure, 9 an input cannot be used, 10 this machine failed: disk, permission, memory.";

#[derive(Subcommand)]
enum Command {
    /// Prune a model to the budgets of a device, and build and measure the binary that runs it there
    Prune(Box<prune::Args>),
    /// Say what building for a device and running there takes, and what of it is missing
    Doctor(doctor::Args),
    /// The device profiles that are there, and new ones
    #[command(subcommand)]
    Devices(devices::Action),
    /// Run a program on a device: as CARGO_TARGET_..._RUNNER="cargo xtask runner --target NAME"
    Runner(forward::Runner),
    Readme(readme::Args),
    /// Try damaged and hostile inputs of every kind, in processes of bounded memory, and keep those that break something
    Fuzz(fuzz::Args),
    /// Mean average precision of a model on a dataset
    #[command(disable_help_flag = true)]
    Eval(Words),
    /// Time per frame and peak memory of a model on this machine
    #[command(disable_help_flag = true)]
    Bench(Words),
    /// Prune a model in several ways to the same latency, and compare their accuracy
    #[command(disable_help_flag = true)]
    Compare(Words),
    /// Find objects in images
    #[command(disable_help_flag = true)]
    Detect(Words),
    /// Layers, channel groups, parameters, arithmetic and peak memory of a model
    #[command(disable_help_flag = true)]
    Inspect(Words),
    /// Write a model in a format of others
    #[command(disable_help_flag = true)]
    Export(Words),
    /// Write a model in 8-bit whole numbers or in half precision: smaller, and faster
    #[command(disable_help_flag = true, alias = "quantize")]
    Quantise(Words),
    /// Train a network from nothing, or a model further
    #[command(disable_help_flag = true)]
    Train(Words),
}

/// Words that the worker understands.
#[derive(clap::Args)]
struct Words {
    /// Options of the worker; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// The command line. A negative number is a value, so that what reads it can say which are allowed.
fn command() -> clap::Command {
    let numbers = |arg: clap::Arg| {
        let takes_value = arg.get_action().takes_values() && !arg.is_trailing_var_arg_set();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    };
    Cli::command().mut_subcommand("prune", |command| command.mut_args(numbers))
}

fn main() -> ExitCode {
    let cli = match command().try_get_matches().and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(process::command_line(&error)),
    };
    let tell = match &cli.command {
        Command::Prune(args) => args.tell(),
        _ => Tell::Human,
    };
    let done = match cli.command {
        Command::Prune(args) => prune::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Devices(action) => devices::run(&action),
        Command::Runner(args) => forward::runner(&args),
        Command::Readme(args) => readme::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Eval(words) => forward::run("eval", &words.words),
        Command::Bench(words) => forward::run("bench", &words.words),
        Command::Compare(words) => forward::run("compare", &words.words),
        Command::Detect(words) => forward::run("detect", &words.words),
        Command::Inspect(words) => forward::run("inspect", &words.words),
        Command::Export(words) => forward::run("export", &words.words),
        Command::Quantise(words) => forward::run("quantise", &words.words),
        Command::Train(words) => forward::run("train", &words.words),
    };
    let done = done.inspect_err(|failure| tell.failure(failure));
    let show = |failure: &Failure| Tell::Human.failure(failure);
    let done = done.and_then(|()| output::finish().map_err(Failure::Output).inspect_err(show));
    done.map_or_else(|failure| ExitCode::from(failure.code()), |()| ExitCode::SUCCESS)
}
