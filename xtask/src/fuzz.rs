//! `cargo xtask fuzz`: the fuzzer of the tests (`tests/fuzz`), for as long as somebody likes.

use secateurs::driver::{self, Failure, Workspace};
use std::path::PathBuf;
use std::process::Command;

/// How long, at what, and from which numbers on.
#[derive(clap::Args)]
pub struct Args {
    /// Minutes for all kinds of input together
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    minutes: f64,
    /// One kind of input alone; an unknown one lists those there are
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Seed of the inputs: the same seed gives the same inputs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
    /// Use one file that an earlier run kept (with --target), and show how it ends
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
}

/// Builds the fuzzer and runs it; findings are exit code 1.
pub fn run(workspace: &Workspace, args: &Args) -> Result<(), Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--release", "--package", "secateurs", "--test", "fuzz", "--manifest-path"]);
    command.arg(workspace.root.join("Cargo.toml")).arg("--");
    command.args(["--minutes", &args.minutes.to_string(), "--seed", &args.seed.to_string()]);
    if let Some(target) = &args.target {
        command.args(["--target", target]);
    }
    if let Some(file) = &args.replay {
        // The tests run in the package's folder.
        let file = std::path::absolute(file).map_err(|e| Failure::Workspace(format!("{}: {e}", file.display())))?;
        command.arg("--replay").arg(file);
    }
    if driver::run(&mut command)?.success() { Ok(()) } else { Err(Failure::Worker(1)) }
}
