//! Commands that the worker does alone.

use crate::process::{self, Failure};
use crate::target;
use crate::workspace::Workspace;
use std::ffi::OsString;
use std::process::Command;

/// Builds the worker and hands it the command.
pub fn run(command: &str, words: &[OsString]) -> Result<(), Failure> {
    let worker = Workspace::find()?.build_worker(false)?;
    process::run_worker(Command::new(worker).arg(command).args(words))
}

/// A program for a device.
#[derive(clap::Args)]
pub struct Runner {
    /// Device profile: NAME stands for targets/NAME.toml
    #[arg(long, value_name = "NAME")]
    target: String,
    /// Program and its words
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<OsString>,
}

/// Runs a program on a device; its exit code becomes ours.
pub fn runner(args: &Runner) -> Result<(), Failure> {
    let workspace = Workspace::find()?;
    let target = target::find(&workspace.root.join("targets"), &args.target)?;
    let worker = workspace.build_worker(false)?;
    process::run_worker(Command::new(worker).arg("runner").arg("--profile").arg(target.path).args(&args.words))
}
