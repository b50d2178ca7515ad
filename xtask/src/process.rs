//! Running other programs, and telling about it.

use std::io::{self, IsTerminal};
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
    /// The workspace cannot be read or written.
    #[error("{0}")]
    Workspace(String),
}

impl Failure {
    /// The exit code: that of the worker where it has spoken.
    pub fn code(&self) -> u8 {
        match self {
            Self::Worker(code) => *code,
            Self::Profile(_) => 3,
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
        None => Err(Failure::Program { program: name(command), problem: status.to_string() }),
    }
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
