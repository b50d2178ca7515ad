//! `cargo xtask check`: what a change should pass while it is made; `--all` is what it must pass before it is merged.

use secateurs::driver::{Failure, Progress, Workspace, run as run_program};
use std::process::Command;

/// How much to check.
#[derive(clap::Args)]
pub struct Args {
    /// Run everything that must hold before a merge: .ci/run
    #[arg(long)]
    all: bool,
}

/// The steps in their order, the fastest first: what each checks, and its arguments for cargo. All take the workspace as a
/// whole, as CI does: of one package alone other features are chosen, and everything is compiled a second time.
const STEPS: [(&str, &str); 6] = [
    ("format", "fmt --all --check"),
    ("lints", "clippy --release --workspace --all-targets -- -D warnings"),
    ("order of the modules", "test --release --workspace --test floors"),
    ("tests of the programs", "test --release --workspace --bins"),
    ("unit tests", "test --release --workspace --lib"),
    ("tests of the commands", "test --release --workspace --test it -- cli profile device output"),
];

/// Runs the steps up to the first that fails.
///
/// # Errors
/// If a step fails: with its command.
fn run_steps(steps: &[(&str, &str)], cargo: &dyn Fn(&str) -> Command) -> Result<(), Failure> {
    for (what, arguments) in steps {
        let shown = format!("cargo {arguments}");
        Progress::Human.stage("Checking", &format!("{what}: {shown}"));
        let status = run_program(&mut cargo(arguments))?;
        if !status.success() {
            return Err(Failure::Program { program: shown, problem: status.to_string() });
        }
    }
    Ok(())
}

/// Runs it.
///
/// # Errors
/// If a step fails: with its command.
pub fn run(workspace: &Workspace, args: &Args) -> Result<(), Failure> {
    let root = &workspace.root;
    if args.all {
        Progress::Human.stage("Checking", "everything: .ci/run");
        let status = run_program(Command::new(root.join(".ci/run")).current_dir(root))?;
        let problem = || Failure::Program { program: ".ci/run".into(), problem: status.to_string() };
        return if status.success() { Ok(()) } else { Err(problem()) };
    }
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run_steps(&STEPS, &|arguments| {
        let mut command = Command::new(&program);
        command.args(arguments.split_whitespace()).current_dir(root);
        command
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_first_step_that_fails_ends_it_with_its_command() {
        let shell = |arguments: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", arguments]);
            command
        };
        assert!(run_steps(&[("one", "true"), ("two", "exit 0")], &shell).is_ok());
        let failed = run_steps(&[("one", "true"), ("two", "exit 3"), ("three", "kill $$")], &shell).unwrap_err();
        assert_eq!(failed.to_string(), "cargo exit 3: exit status: 3");
        assert_eq!(failed.code(), 1);
    }
}
