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
        Driver::Xtask => Workspace::find(driver)?.worker(asks_for_cuda(arguments))?,
    };
    run_worker(worker.command(command).args(arguments))
}

/// Whether arguments ask for a CUDA device, for which the worker must be built: `--cuda`, or `--device` with it.
fn asks_for_cuda(arguments: &[OsString]) -> bool {
    let mut named = false;
    arguments.iter().map(|argument| argument.to_string_lossy()).any(|argument| {
        let value = if std::mem::take(&mut named) { Some(&*argument) } else { argument.strip_prefix("--device=") };
        named = argument == "--device";
        argument == "--cuda" || value.is_some_and(|value| value.starts_with("cuda"))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_cuda_is_built_where_the_arguments_ask_for_it() {
        let asks = |line: &str| asks_for_cuda(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        assert!(asks("--epochs 2 --cuda") && asks("--device cuda --amp") && asks("--device=cuda:1"));
        assert!(!asks("--device cpu") && !asks("--device auto -o cuda") && !asks("--data cuda --device"));
    }
}
