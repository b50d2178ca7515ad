//! Running other programs, and telling about it.

use std::io::{self, IsTerminal};
use std::path::Path;
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
    /// The workspace cannot be read or written.
    #[error("{0}")]
    Workspace(String),
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
            Self::Machine(_) => 10,
            Self::Build(_) | Self::Program { .. } | Self::Toolchain(_) | Self::Workspace(_) => 1,
        }
    }
}

/// How progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// In cargo's style on standard error.
    Human,
    /// One JSON object a line on standard output.
    Json,
}

impl Tell {
    /// A stage begins.
    pub fn stage(self, verb: &str, what: &str) {
        let (green, plain) = colours("\x1b[1;32m");
        match self {
            Self::Human => eprintln!("{green}{verb:>12}{plain} {what}"),
            Self::Json => println!("{}", serde_json::json!({ "reason": "stage", "stage": verb, "detail": what })),
        }
    }

    /// The end, unless the worker has already said why.
    pub fn failure(self, failure: &Failure) {
        let (red, plain) = colours("\x1b[1;31m");
        match (self, failure) {
            (_, Failure::Worker(_)) => {}
            (Self::Human, _) => eprintln!("{red}error{plain}: {failure}"),
            (Self::Json, _) => {
                let value = serde_json::json!({
                    "reason": "error", "code": failure.code(), "messages": [failure.to_string()],
                });
                println!("{value}");
            }
        }
    }
}

fn colours(on: &'static str) -> (&'static str, &'static str) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colour { (on, "\x1b[0m") } else { ("", "") }
}

/// Runs a program that shares our terminal.
pub fn run(command: &mut Command) -> Result<ExitStatus, Failure> {
    let status = command.stdin(Stdio::inherit()).status();
    status.map_err(|e| Failure::Program { program: name(command), problem: format!("cannot be started: {e}") })
}

/// Runs the worker; its exit code becomes ours.
pub fn run_worker(command: &mut Command) -> Result<(), Failure> {
    // Training has threads of its own; candle's would wait for each other busily beside them.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        command.env("CANDLE_NUM_THREADS", "1");
    }
    let status = run(command)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Worker(u8::try_from(code).unwrap_or(1))),
        None => Err(killed(&name(command), status)),
    }
}

/// A program that a signal ended: where the system did it itself, memory was short.
#[cfg(unix)]
fn killed(program: &str, status: ExitStatus) -> Failure {
    use std::os::unix::process::ExitStatusExt;
    const ABORT: i32 = 6;
    const KILL: i32 = 9;
    match status.signal() {
        Some(ABORT | KILL) => Failure::Machine(format!(
            "{program}: {status}: most often this machine has too little memory; fewer --calibration-images or a smaller \
             [finetune] batch take less"
        )),
        _ => Failure::Program { program: program.into(), problem: status.to_string() },
    }
}

#[cfg(not(unix))]
fn killed(program: &str, status: ExitStatus) -> Failure {
    Failure::Program { program: program.into(), problem: status.to_string() }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
