//! Commands that the worker does alone.

use crate::process::Failure;
use crate::target;
use crate::worker::run_worker;
use crate::workspace::Workspace;
use std::ffi::OsString;
use std::process::Command;

/// Builds the worker and hands it the command.
///
/// # Errors
/// If it cannot be built, or does not succeed.
pub fn run(command: &str, arguments: &[OsString]) -> Result<(), Failure> {
    let worker = Workspace::find()?.build_worker(false)?;
    run_worker(Command::new(worker).arg(command).args(arguments))
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
pub fn runner(args: &Runner) -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    let profile = target::find(&workspace.root.join("targets"), &args.target)?;
    let worker = workspace.build_worker(false)?;
    run_worker(Command::new(worker).arg("runner").arg("--profile").arg(profile).args(&args.arguments))
}
