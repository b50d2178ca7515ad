//! Commands that the worker does alone.

use super::caller::Driver;
use super::process::Failure;
use super::target;
use super::worker::{Worker, run_worker};
use super::workspace::Workspace;
use std::ffi::OsString;

/// Hands the worker the command.
///
/// # Errors
/// If it cannot be built, or does not succeed.
pub fn run(driver: Driver, command: &str, arguments: &[OsString]) -> Result<(), Failure> {
    // The installed program needs no workspace: a release pipeline verifies bundles where no source is.
    let worker = match driver {
        Driver::Plugin => Worker::itself()?,
        Driver::Xtask => Workspace::find(driver)?.worker(false)?,
    };
    run_worker(worker.command(command).args(arguments))
}

/// A program for a device.
#[derive(clap::Args)]
pub struct Runner {
    /// Device profile: NAME stands for targets/NAME.toml
    #[arg(long, value_name = "NAME")]
    target: String,
    /// Program and its arguments
    #[arg(value_name = "PROGRAM", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<OsString>,
}

/// Runs a program on a device; its exit code becomes ours.
///
/// # Errors
/// If there is no such profile, or the worker cannot be built or does not succeed.
pub fn runner(driver: Driver, args: &Runner) -> Result<(), Failure> {
    let workspace = Workspace::find(driver)?;
    let profile = target::find(&workspace.targets(), &args.target)?;
    let worker = workspace.worker(false)?;
    run_worker(worker.command("runner").arg("--profile").arg(profile).args(&args.arguments))
}
