//! Commands that the worker does alone.

use crate::process::{self, Failure};
use crate::workspace::Workspace;
use std::ffi::OsString;
use std::process::Command;

/// Builds the worker and hands it the command.
pub fn run(command: &str, words: &[OsString]) -> Result<(), Failure> {
    let worker = Workspace::find()?.build_worker(false)?;
    process::run_worker(Command::new(worker).arg(command).args(words))
}
