//! What keeps a model from being embedded, in lines that cargo shows: each names the file, what is wrong with it, and the
//! last one the command that mends it.

use super::shown;
use crate::bundle::LockError;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why no model was embedded.
pub enum BuildError {
    /// Cargo did not set this variable: no build script is running.
    NoBuildScript(&'static str),
    /// This is not the name of a target.
    Name(String),
    /// There is no bundle.
    Missing {
        /// Name of the target.
        target: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The bundle is not what a run wrote.
    Damaged {
        /// Name of the target.
        target: String,
        /// File by file, what is wrong.
        faults: Vec<String>,
    },
    /// The bundle was made from something else than what stands in the workspace.
    Stale {
        /// Name of the target.
        target: String,
        /// Each file that differs, and how.
        changes: Vec<String>,
    },
    /// `secateurs.lock` cannot be used.
    Lock(LockError),
    /// A file of the bundle is what a run wrote, but not what this version can use.
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
    /// `cargo secateurs prune`, run by the build, did not succeed.
    Prune {
        /// The command.
        command: String,
        /// How it ended.
        problem: String,
    },
    /// The operating system refused.
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl BuildError {
    pub(super) fn unusable(path: &Path, problem: String) -> Self {
        Self::Unusable { path: path.into(), problem }
    }

    /// Whether a new bundle would do.
    pub(super) fn is_mended_by_pruning(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. } | Self::Stale { .. } | Self::Unusable { .. })
    }

    /// The message line by line, as `cargo::error=` takes it.
    pub fn lines(&self) -> Vec<String> {
        let run = |target: &str| {
            format!("run `cargo xtask prune --target {target}`, or set SECATEURS_PRUNE=1 to let the build do that")
        };
        let with_command = |head: String, parts: &[String], target: &str| {
            let parts = parts.iter().map(|part| format!("  {part}"));
            [head].into_iter().chain(parts).chain([run(target)]).collect()
        };
        match self {
            Self::NoBuildScript(name) => vec![format!("{name} is not set: secateurs::build is for build scripts")],
            Self::Name(name) => vec![format!(
                "`{}` is not the name of a target: expected letters, digits, `-`, `_` and `.`",
                name.escape_debug()
            )],
            Self::Missing { target, folder } => {
                with_command(format!("there is no bundle of {target} in {}", shown(folder)), &[], target)
            }
            Self::Damaged { target, faults } => {
                with_command(format!("the bundle of {target} is not what a run of prune wrote:"), faults, target)
            }
            Self::Stale { target, changes } => with_command(
                format!("the bundle of {target} does not belong to what stands in this workspace:"),
                changes,
                target,
            ),
            Self::Lock(error) => vec![one_line(&error.to_string())],
            Self::Unusable { path, problem } => vec![format!("{}: {}", shown(path), one_line(problem))],
            Self::Prune { command, problem } => vec![format!("`{command}` {problem}")],
            Self::Io { path, source } => vec![format!("{}: {source}", shown(path))],
        }
    }
}

/// Text of others without its line breaks and other control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

/// As it is displayed: a `main` that returns it shows it so.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Lock(error) => Some(error),
            _ => None,
        }
    }
}
