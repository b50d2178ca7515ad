//! Running other programs, and reporting progress and failures.

use crate::{console, output};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use thiserror::Error;

/// Why the driver ended early.
#[derive(Debug, Error)]
pub enum Failure {
    /// The worker ended with a code of its own and has said why.
    #[error("the worker ended with code {0}")]
    Worker(u8),
    /// There is no such device profile.
    #[error("{0}")]
    Profile(String),
    /// Cargo could not build something and has said why.
    #[error("{0} could not be built")]
    Build(&'static str),
    /// A program cannot be started, or was killed.
    #[error("{program}: {problem}")]
    Program {
        /// The program.
        program: String,
        /// What happened.
        problem: String,
    },
    /// What building for the device takes is not installed.
    #[error("{0}")]
    Toolchain(String),
    /// Something that the user named cannot be used.
    #[error("{0}")]
    Input(String),
    /// This machine failed: disk, permission, memory.
    #[error("{0}")]
    Machine(String),
    /// The workspace cannot be read.
    #[error("{0}")]
    Workspace(String),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Standard output takes nothing: its disk is full, say.
    #[error(transparent)]
    Output(io::Error),
}

impl Failure {
    /// Of a file or folder that could not be written: the name is wrong, or the machine failed.
    pub fn writing(path: &Path, error: &io::Error) -> Self {
        use io::ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound};
        let text = format!("{}: {error}", path.display());
        match error.kind() {
            AlreadyExists | InvalidFilename | InvalidInput | IsADirectory | NotADirectory | NotFound => {
                Self::Input(text)
            }
            _ => Self::Machine(text),
        }
    }

    /// The exit code: that of the worker where it has spoken.
    pub fn code(&self) -> u8 {
        match self {
            Self::Worker(code) => *code,
            Self::Profile(_) => 3,
            Self::Input(_) => 9,
            Self::Machine(_) | Self::Write { .. } | Self::Output(_) => 10,
            Self::Build(_) | Self::Program { .. } | Self::Toolchain(_) | Self::Workspace(_) => 1,
        }
    }
}

/// How progress is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// In cargo's style on standard error.
    Human,
    /// One JSON object a line on standard output.
    Json,
}

impl Progress {
    /// A stage begins.
    pub fn stage(self, verb: &str, what: &str) {
        match self {
            Self::Human => output::message(colour("\x1b[1;32m"), &format!("{verb:>12}"), &format!(" {what}")),
            Self::Json => line(&serde_json::json!({ "reason": "stage", "stage": verb, "detail": what })),
        }
    }

    /// The end, unless the worker has already said why.
    pub fn failure(self, failure: &Failure) {
        match (self, failure) {
            (_, Failure::Worker(_)) => {}
            (Self::Human, _) => output::message(colour("\x1b[1;31m"), "error", &format!(": {failure}")),
            (Self::Json, _) => {
                let value = serde_json::json!({
                    "reason": "error", "code": failure.code(), "messages": [failure.to_string()],
                });
                line(&value);
            }
        }
    }
}

fn line(value: &serde_json::Value) {
    // A value is JSON already: nothing can be wrong with it.
    let _ = output::print_json(value);
}

fn colour(on: &'static str) -> &'static str {
    if console::has_colour() { on } else { "" }
}

/// Writes a file, which may be a program, under a fresh temporary name first, so that nobody ever sees half of it.
///
/// # Errors
/// If it cannot be written.
pub fn write_file(path: &Path, content: &mut dyn Read, program: bool) -> Result<(), Failure> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut write = || {
        let mut file = tempfile::Builder::new().prefix(".secateurs-").suffix(".tmp").tempfile_in(folder)?;
        io::copy(content, &mut file)?;
        #[cfg(unix)]
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(if program {
            0o755
        } else {
            0o644
        }))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)
    };
    write().map(drop).map_err(|source| Failure::Write { path: path.into(), source })
}

/// Runs a program that shares our terminal.
pub fn run(command: &mut Command) -> Result<ExitStatus, Failure> {
    let status = command.stdin(Stdio::inherit()).status();
    status.map_err(|e| Failure::Program { program: name(command), problem: format!("cannot be started: {e}") })
}

/// The name of a program, for messages.
pub fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
