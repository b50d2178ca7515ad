//! `cargo xtask`: the driver of the pruning pipeline, as every workspace can have it, and what only this repository needs.

mod check;
mod fuzz;
mod readme;

use clap::{Parser, Subcommand};
use secateurs::driver::{self, Driver};
use std::process::ExitCode;

/// Prunes a trained detector to a measured latency and memory budget of a device.
#[derive(Parser)]
#[command(version, arg_required_else_help = true, after_help = driver::EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Driver(driver::Command),
    /// Check a change: format, lints, the order of the modules, and the tests that matter while working
    Check(check::Args),
    Readme(readme::Args),
    /// Fuzz everything that is read with damaged and hostile inputs, and keep those that break something
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let driver = Driver::Xtask;
    driver.start(std::env::args_os(), |Cli { command }| match command {
        Command::Driver(command) => driver.run(command),
        Command::Check(args) => driver.report(driver.workspace().and_then(|place| check::run(&place, &args))),
        Command::Readme(args) => driver.report(driver.workspace().and_then(|place| readme::run(&place, &args))),
        Command::Fuzz(args) => driver.report(driver.workspace().and_then(|place| fuzz::run(&place, &args))),
    })
}
