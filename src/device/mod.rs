//! Runs programs on the device of a profile.
//!
//! A [`Runner`] takes a program, copies what it reads to where the device can see it, runs it there and gives back what
//! it printed. It knows nothing about what the programs do.

mod answer;
mod here;
mod script;
mod shown;
mod ssh;

pub use answer::{Answer, AnswerLimits, answer, collect};
pub use ssh::Settings as SshSettings;

use crate::profile::{Connect, Profile};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A program that could not be run on the device.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// What runs programs for the device is not installed here.
    #[error("{program} is not installed: {help}")]
    Missing {
        /// The program.
        program: String,
        /// What installs it.
        help: &'static str,
    },
    /// The program could not be started.
    #[error("{program}: cannot be started: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The program ran and failed.
    #[error("{program}: ended with {}", .code.map_or("a signal".into(), |code| format!("exit code {code}")))]
    Failed {
        /// The program.
        program: PathBuf,
        /// Exit code; none after a signal.
        code: Option<i32>,
        /// What it wrote to its standard output.
        output: Vec<u8>,
    },
    /// A file of this machine cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The device cannot be reached, or was lost and does not come back.
    #[error("{host}: cannot be reached: {problem}")]
    Unreachable {
        /// The device as the profile names it.
        host: String,
        /// What the last attempt ended with.
        problem: String,
    },
    /// The program prints more than any answer has.
    #[error("{program}: the device printed more than {bytes} bytes, expected a short answer; it was stopped")]
    Flood {
        /// The program.
        program: PathBuf,
        /// The most that is read.
        bytes: u64,
    },
    /// The program does not end.
    #[error("{program}: the device gave no whole answer within {seconds} seconds; it was stopped")]
    Hangs {
        /// The program.
        program: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// An argument of a program.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// Passed as it is.
    Text(String),
    /// A file of this machine, that the program finds at its place on the device.
    File(PathBuf),
}

impl AsRef<OsStr> for Argument {
    fn as_ref(&self) -> &OsStr {
        match self {
            Self::Text(text) => text.as_ref(),
            Self::File(path) => path.as_ref(),
        }
    }
}

/// A way to run programs on a device.
pub trait Runner: Send + Sync {
    /// Runs a program and gives what it wrote to its standard output; what it writes to standard error is shown.
    ///
    /// # Errors
    /// If it cannot be started, does not succeed, or breaks the limits of an answer.
    fn run_within(&self, program: &Path, arguments: &[Argument], limits: &AnswerLimits)
    -> Result<Vec<u8>, DeviceError>;

    /// As [`Runner::run_within`], for a program that runs networks.
    ///
    /// # Errors
    /// As [`Runner::run_within`].
    fn run(&self, program: &Path, arguments: &[Argument]) -> Result<Vec<u8>, DeviceError> {
        self.run_within(program, arguments, &AnswerLimits::LONG)
    }

    /// Whether the device answers, found out without a program built for it.
    ///
    /// # Errors
    /// If it does not.
    fn reach(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Whether the device is emulated: results are right, and no latency is claimed.
    fn emulates(&self) -> bool {
        false
    }
}

impl<R: Runner + ?Sized> Runner for Arc<R> {
    fn run_within(
        &self,
        program: &Path,
        arguments: &[Argument],
        limits: &AnswerLimits,
    ) -> Result<Vec<u8>, DeviceError> {
        (**self).run_within(program, arguments, limits)
    }

    fn reach(&self) -> Result<(), DeviceError> {
        (**self).reach()
    }

    fn emulates(&self) -> bool {
        (**self).emulates()
    }
}

/// The runner of a profile. Cargo's own setting of a runner for the profile's target triple
/// (`CARGO_TARGET_<TRIPLE>_RUNNER`) wins over the profile's connection.
///
/// # Errors
/// If what it needs is not installed here.
pub fn runner(profile: &Profile) -> Result<Box<dyn Runner>, DeviceError> {
    let of_cargo = profile.device.triple.as_deref().map(cargo_variable).and_then(|name| std::env::var(name).ok());
    let arguments: Vec<String> = of_cargo.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    if arguments.is_empty() { connect(profile) } else { Ok(Box::new(here::Prefixed::new(arguments))) }
}

/// The runner of a profile's connection, whatever cargo is told.
///
/// # Errors
/// If what it needs is not installed here.
pub fn connect(profile: &Profile) -> Result<Box<dyn Runner>, DeviceError> {
    Ok(match &profile.connect {
        Connect::Local => Box::new(here::Prefixed::new(Vec::new())),
        Connect::Qemu => Box::new(here::qemu(profile.device.triple.as_deref())?),
        Connect::Command { command } => Box::new(here::Prefixed::new(command.clone())),
        Connect::Ssh { host, folder, options, keep } => {
            let mut settings = SshSettings::new(host, folder);
            settings.options.clone_from(options);
            settings.keep = *keep;
            return Ok(ssh(settings));
        }
    })
}

/// A runner over SSH.
pub fn ssh(settings: SshSettings) -> Box<dyn Runner> {
    Box::new(ssh::Ssh::new(settings))
}

/// The name of cargo's variable for the runner of a target.
fn cargo_variable(triple: &str) -> String {
    format!("CARGO_TARGET_{}_RUNNER", triple.to_uppercase().replace(['-', '.'], "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_has_a_variable_for_each_target() {
        assert_eq!(cargo_variable("aarch64-unknown-linux-gnu"), "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER");
    }
}
