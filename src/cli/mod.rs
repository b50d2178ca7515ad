//! The command line of the worker: prunes, and looks at models before and after.
//!
//! Like the driver it writes to the terminal through `output` alone; exit codes stand in `failure`.

mod bench;
mod cache;
mod compare;
mod detect;
mod device;
mod driver;
mod eval;
mod export;
mod failure;
mod finish;
mod index;
mod input;
mod inspect;
mod interrupt;
mod measure;
mod prune;
mod quantise;
mod runner;
mod sign;
mod terminal;
mod together;
mod train;
mod verify;

use crate::{console, output};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use failure::Failure;
use std::ffi::OsString;
use std::process::ExitCode;

/// Prunes a trained detector to a measured latency and memory budget.
#[derive(Parser)]
#[command(name = "secateurs", version, arg_required_else_help = true, after_help = EXIT_CODES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done                       5  measured latency or memory budget missed
  1  internal error             6  accuracy floor missed
  2  wrong usage                7  the device cannot be reached
  3  bad profile                8  the device was throttled or busy in every try
  4  no plan meets the budget   9  an input cannot be used
                               10  this machine failed: disk, permission, memory";

#[derive(Subcommand)]
enum Command {
    /// Prune a model to the budgets of a device profile
    Prune(Box<prune::Args>),
    /// Evaluate a model on a dataset: mean average precision, or accuracy
    Eval(eval::Args),
    /// Measure the time per frame and the peak memory of a model on this machine
    Bench(bench::Args),
    /// Prune a model in several ways to the same latency, and compare their accuracy
    Compare(compare::Args),
    /// Find objects in images
    Detect(detect::Args),
    /// Show layers, channel groups, parameters, MACs and peak memory of a model
    Inspect(inspect::Args),
    /// Write a model as safetensors or ONNX
    Export(export::Args),
    /// Quantize a model to int8 or f16: smaller and faster
    #[command(alias = "quantize")]
    Quantise(quantise::Args),
    /// Run a program on the device of a profile
    Runner(runner::Args),
    /// Train a network from scratch, or a model further
    Train(train::Args),
    /// Check that a bundle is whole, holds its budgets, and is no worse than an earlier one
    Verify(verify::Args),
    /// Sign a finished bundle with a minisign key
    Sign(sign::Args),
    /// Measure a built bundle on its device and complete its reports (called by `cargo xtask prune`)
    #[command(hide = true)]
    Finish(finish::Args),
    /// Write the page that compares the bundles of several targets (called by `cargo xtask prune`)
    #[command(hide = true)]
    Index(index::Args),
    /// Answer questions of `cargo xtask`
    #[command(hide = true, subcommand)]
    Driver(driver::Question),
}

impl Command {
    /// What trains, of a command that does.
    fn trains_on(&self) -> Option<&device::DeviceArgs> {
        match self {
            Self::Prune(args) => Some(&args.device),
            Self::Train(args) => Some(&args.device),
            _ => None,
        }
    }

    /// Its name on the command line.
    fn name(&self) -> &'static str {
        match self {
            Self::Prune(_) => "prune",
            Self::Eval(_) => "eval",
            Self::Bench(_) => "bench",
            Self::Compare(_) => "compare",
            Self::Detect(_) => "detect",
            Self::Inspect(_) => "inspect",
            Self::Export(_) => "export",
            Self::Quantise(_) => "quantise",
            Self::Runner(_) => "runner",
            Self::Train(_) => "train",
            Self::Verify(_) => "verify",
            Self::Sign(_) => "sign",
            Self::Finish(_) => "finish",
            Self::Index(_) => "index",
            Self::Driver(_) => "driver",
        }
    }
}

/// The whole of the program `secateurs`.
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

/// Runs the command that the arguments name; the first of them is the program.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let cli = match command().try_get_matches_from(arguments).and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        Err(error) => {
            let shown = console::show(&error).map_err(Failure::Output).inspect_err(|failure| failure.show(false));
            return ExitCode::from(shown.unwrap_or_else(|failure| failure.code()));
        }
    };
    let json = match &cli.command {
        Command::Prune(args) => args.terminal.is_json(),
        Command::Compare(args) => args.terminal.is_json(),
        Command::Finish(args) => args.terminal.is_json(),
        Command::Train(args) => args.terminal.is_json(),
        Command::Verify(args) => args.terminal.is_json(),
        Command::Sign(args) => args.terminal.is_json(),
        Command::Driver(driver::Question::Check(args)) => args.terminal.is_json(),
        _ => false,
    };
    if let Some(device) = cli.command.trains_on() {
        let candle = ("CANDLE_NUM_THREADS", "1".to_owned());
        start_with([Some(candle), together::meeting(device)]);
    }
    let shared = matches!(
        cli.command,
        Command::Prune(_)
            | Command::Compare(_)
            | Command::Quantise(_)
            | Command::Train(_)
            | Command::Eval(_)
            | Command::Driver(_)
    );
    let alone = if shared { Ok(()) } else { together::alone(cli.command.name()) };
    let done = alone.and_then(|()| match cli.command {
        Command::Prune(args) => prune::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Detect(args) => detect::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Quantise(args) => quantise::run(&args),
        Command::Runner(args) => runner::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Finish(args) => finish::run(args),
        Command::Index(args) => index::run(&args),
        Command::Driver(question) => driver::run(&question, command),
    });
    let done = done.inspect_err(|failure| failure.show(json));
    // Where the work went wrong, that is what the code says.
    let done = done.and_then(|()| output::finish().map_err(Failure::Output).inspect_err(|failure| failure.show(false)));
    done.map_or_else(|failure| ExitCode::from(failure.code()), |()| ExitCode::SUCCESS)
}

/// The command line. A negative number is a value, so that what reads it can say which are allowed.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(take_negative_numbers)
}

fn take_negative_numbers(command: clap::Command) -> clap::Command {
    let numbers = |arg: clap::Arg| {
        let takes_value = arg.get_action().takes_values() && !arg.is_trailing_var_arg_set();
        if takes_value { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(numbers).mut_subcommands(take_negative_numbers)
}

/// Has the environment say what libraries read there, unless a user says it. Candle gets one thread: beside ours, its
/// threads only wait for each other busily; and NCCL the place where ranks meet. Both read the environment when they
/// start, which no thread may change under another, so this starts the program anew in this process; if that fails, the
/// program goes on as it is.
fn start_with(variables: [Option<(&'static str, String)>; 2]) {
    let missing = variables.into_iter().flatten().filter(|(name, _)| std::env::var_os(name).is_none());
    let missing: Vec<_> = missing.collect();
    #[cfg(unix)]
    if let (false, Ok(program)) = (missing.is_empty(), std::env::current_exe()) {
        use std::os::unix::process::CommandExt;
        let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).envs(missing).exec();
        drop(error);
    }
}
