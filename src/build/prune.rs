//! Makes a bundle anew from within a build: `cargo secateurs prune --target NAME`.
//!
//! The outer cargo holds the lock of its target folder while a build script runs, so that the inner one gets a folder of
//! its own. It also must not see what the outer one set for this script: flags of the compiler for another triple, or the
//! features of the caller's package.

use super::error::BuildError;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// What cargo sets for build scripts, by how the names begin.
const SET: [&str; 6] = ["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "DEP_"];

/// What cargo sets for build scripts, by whole names.
const SET_WHOLE: [&str; 20] = [
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_CRATE_NAME",
    "CARGO_TARGET_TMPDIR",
    "DEBUG",
    "HOST",
    "MAKEFLAGS",
    "MFLAGS",
    "NUM_JOBS",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTC",
    "RUSTC_LINKER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "SECATEURS_PRUNE",
    "TARGET",
];

/// Prunes for a target in the workspace at `root`, into `dist` where that is given. What it prints goes to the standard
/// error output, which cargo shows with `-vv` and where the build fails.
///
/// # Errors
/// If it cannot be started, or does not succeed.
pub fn run(target: &str, root: &Path, dist: Option<&Path>) -> Result<(), BuildError> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
    let mut command = command(&cargo, target, root, &folder.join("secateurs"), env::vars_os());
    if let Some(dist) = dist {
        command.arg("--out").arg(dist);
    }
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let fail = |problem| BuildError::Prune { command: format!("cargo {}", arguments.join(" ")), problem };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(fail(format!(
            "ended with {status}: `cargo build -vv` shows why; `cargo install secateurs` brings the command if it is not \
             there"
        ))),
        Err(error) => Err(fail(format!("cannot be started: {error}"))),
    }
}

/// The command, given the variables that stand in the environment.
fn command(
    cargo: &OsStr,
    target: &str,
    root: &Path,
    folder: &Path,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Command {
    let mut command = Command::new(cargo);
    command.args(["secateurs", "prune", "--target", target]).current_dir(root);
    for (name, _) in variables {
        let text = name.to_string_lossy();
        if SET.iter().any(|start| text.starts_with(start)) || SET_WHOLE.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    // What it prints must not reach cargo, which would read it as instructions.
    command.env("CARGO_TARGET_DIR", folder).stdin(Stdio::null()).stdout(io::stderr());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_inner_cargo_has_a_folder_of_its_own_and_sees_nothing_of_the_outer_one() {
        let outer =
            ["CARGO_CFG_UNIX", "CARGO_FEATURE_A", "CARGO_ENCODED_RUSTFLAGS", "TARGET", "OUT_DIR", "SECATEURS_PRUNE"];
        let users =
            ["PATH", "CARGO_HOME", "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "CARGO_NET_OFFLINE", "RUSTFLAGS"];
        let variables = outer.into_iter().chain(users).map(|name| (name.into(), "x".into()));
        let command = command("cargo".as_ref(), "jetson", Path::new("/root"), Path::new("/root/target/own"), variables);
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, ["secateurs", "prune", "--target", "jetson"]);
        assert_eq!(command.get_current_dir(), Some(Path::new("/root")));
        let changed: BTreeMap<_, _> = command.get_envs().collect();
        assert_eq!(changed.get(OsStr::new("CARGO_TARGET_DIR")), Some(&Some("/root/target/own".as_ref())));
        assert!(outer.iter().all(|name| changed.get(OsStr::new(name)) == Some(&None)), "{changed:?}");
        assert_eq!(changed.len(), outer.len() + 1, "{changed:?}");
    }
}
