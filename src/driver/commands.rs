//! The commands, and what runs them: an xtask crate, or the installed `cargo secateurs`.

use super::caller::{Driver, WORKER};
use super::options::Request;
use super::process::{Failure, Progress};
use super::workspace::Workspace;
use super::{devices, doctor, forward, init, options, prune, several};
use crate::{console, output};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// What the help ends with.
pub const EXAMPLES: &str = "\
Examples:
  cargo xtask prune --target host
  cargo xtask prune --target host --model best.pt --data data.yaml --imgsz 320 --latency-ratio 0.7
  cargo xtask doctor --target rpi5
  cargo xtask eval --model dist/host/model.safetensors --data data.yaml

Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 bad profile or lock, 4 no plan meets the budget,
5 measured budget missed, 6 accuracy floor missed, 7 the device cannot be reached, 8 the device was throttled or busy
in every try, 9 an input cannot be used, 10 this machine failed: disk, permission, memory.";

/// What the driver does. `clap` flattens it into the commands of an xtask crate that has more of its own.
#[derive(Subcommand)]
pub enum Command {
    /// Prune a model to the budgets of a device, and build and measure the binary that runs it there
    #[command(disable_help_flag = true)]
    Prune(Arguments),
    /// Set up this workspace: device profiles, the alias `cargo xtask`, ignore rules, a build script and a CI example
    Init(init::Args),
    /// Check what building for a device and running there needs, and how to install what is missing
    Doctor(doctor::Args),
    /// List and show device profiles, and make new ones
    #[command(subcommand)]
    Devices(devices::Action),
    /// Run a program on a device: as CARGO_TARGET_..._RUNNER="cargo xtask runner --target NAME"
    Runner(forward::Runner),
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
    /// Sign a finished bundle with a minisign key
    #[command(disable_help_flag = true)]
    Sign(Arguments),
}

/// Arguments that the worker reads.
#[derive(Args)]
pub struct Arguments {
    /// Options of the worker; --help lists them
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Prunes a trained detector to a measured latency and memory budget of a device.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Driver {
    /// Reads the command line of a program as `C`, whose subcommands may be more than those of the driver, and runs it.
    /// Failures are shown; they become exit codes.
    pub fn start<C: CommandFactory + FromArgMatches>(
        self,
        arguments: impl IntoIterator<Item = OsString>,
        run: impl FnOnce(C) -> Result<(), Failure>,
    ) -> ExitCode {
        let command = C::command().name(self.name()).bin_name(self.name());
        let read = command.try_get_matches_from(arguments).and_then(|found| C::from_arg_matches(&found));
        let done = match read {
            Ok(cli) => run(cli),
            Err(error) => return command_line(&error),
        };
        let show = |failure: &Failure| Progress::Human.failure(failure);
        let done = done.and_then(|()| output::finish().map_err(Failure::Output).inspect_err(show));
        done.map_or_else(|failure| ExitCode::from(failure.code()), |()| ExitCode::SUCCESS)
    }

    /// Runs a command, and shows why it failed.
    ///
    /// # Errors
    /// That failure, for the exit code.
    pub fn run(self, command: Command) -> Result<(), Failure> {
        let mut progress = Progress::Human;
        let done = match command {
            Command::Prune(args) => match options::parse(self.name(), &args.arguments) {
                Ok(Request::Help) => prune::help(self),
                Ok(Request::Run(options)) => {
                    progress = options.progress;
                    several::run(self, &options)
                }
                Err(error) => return Err(shown(&error)),
            },
            Command::Init(args) => init::run(self, &args),
            Command::Doctor(args) => doctor::run(self, &args),
            Command::Devices(action) => devices::run(self, &action),
            Command::Runner(args) => forward::runner(self, &args),
            Command::Eval(args) => forward::run(self, "eval", &args.arguments),
            Command::Bench(args) => forward::run(self, "bench", &args.arguments),
            Command::Compare(args) => forward::run(self, "compare", &args.arguments),
            Command::Detect(args) => forward::run(self, "detect", &args.arguments),
            Command::Inspect(args) => forward::run(self, "inspect", &args.arguments),
            Command::Export(args) => forward::run(self, "export", &args.arguments),
            Command::Quantise(args) => forward::run(self, "quantise", &args.arguments),
            Command::Train(args) => forward::run(self, "train", &args.arguments),
            Command::Verify(args) => forward::run(self, "verify", &args.arguments),
            Command::Sign(args) => forward::run(self, "sign", &args.arguments),
        };
        done.inspect_err(|failure| progress.failure(failure))
    }

    /// Shows why a command of the caller's own failed.
    ///
    /// # Errors
    /// That failure, for the exit code.
    pub fn report(self, done: Result<(), Failure>) -> Result<(), Failure> {
        done.inspect_err(|failure| Progress::Human.failure(failure))
    }

    /// The workspace that the caller stands in.
    ///
    /// # Errors
    /// If cargo finds none.
    pub fn workspace(self) -> Result<Workspace, Failure> {
        Workspace::find(self)
    }
}

/// The whole of an xtask crate that has no commands of its own.
pub fn main() -> ExitCode {
    Driver::Xtask.start(std::env::args_os(), |Cli { command }| Driver::Xtask.run(command))
}

/// The whole of the installed program: `cargo secateurs COMMAND`, and the worker where it starts itself as that.
pub fn plugin(worker: impl FnOnce(Vec<OsString>) -> ExitCode) -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments.get(1).and_then(|first| first.to_str()) {
        Some(WORKER) => {
            arguments.remove(1);
            return worker(arguments);
        }
        // Cargo hands a subcommand its own name.
        Some("secateurs") => drop(arguments.remove(1)),
        _ => {}
    }
    Driver::Plugin.start(arguments, |Cli { command }| Driver::Plugin.run(command))
}

/// Shows what is wrong with the command line, or the help that it asks for.
fn command_line(error: &clap::Error) -> ExitCode {
    let shown = console::show(error).map_err(Failure::Output).inspect_err(|failure| Progress::Human.failure(failure));
    ExitCode::from(shown.unwrap_or_else(|failure| failure.code()))
}

/// The same within a command: the failure that gives its exit code.
fn shown(error: &clap::Error) -> Failure {
    console::show(error).map_or_else(Failure::Output, Failure::Worker)
}
