//! Runs programs on the device of a profile.
//!
//! A [`Runner`] takes a program, copies what it reads to where the device can see it, runs it there and gives back what
//! it printed. Only the machine itself is served yet.

use crate::profile::Connect;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thiserror::Error;

/// A program that could not be run on the device.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The connection is described in the profile, but cannot be made yet.
    #[error("[connect] kind = \"{0}\" is not supported yet; expected kind = \"local\"")]
    NotYet(&'static str),
    /// The program could not be started.
    #[error("{program}: cannot be started: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The program ran and failed.
    #[error("{program}: ended with {status}")]
    Failed {
        /// The program.
        program: PathBuf,
        /// Exit code or signal.
        status: std::process::ExitStatus,
    },
}

/// A word of the command line.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    /// Passed as it is.
    Text(String),
    /// A file of this machine, that the program finds at its place on the device.
    File(PathBuf),
}

impl AsRef<OsStr> for Word {
    fn as_ref(&self) -> &OsStr {
        match self {
            Self::Text(text) => text.as_ref(),
            Self::File(path) => path.as_ref(),
        }
    }
}

/// A way to run programs on a device.
pub trait Runner {
    /// Runs a program and gives what it wrote to its standard output; what it writes to standard error is shown.
    ///
    /// # Errors
    /// If it cannot be started or does not succeed.
    fn run(&self, program: &Path, words: &[Word]) -> Result<Vec<u8>, DeviceError>;
}

/// The runner of a connection.
///
/// # Errors
/// If there is none yet.
pub fn runner(connect: &Connect) -> Result<Box<dyn Runner>, DeviceError> {
    match connect {
        Connect::Local => Ok(Box::new(Local)),
        Connect::Ssh { .. } => Err(DeviceError::NotYet("ssh")),
        Connect::Qemu => Err(DeviceError::NotYet("qemu")),
        Connect::Command { .. } => Err(DeviceError::NotYet("command")),
    }
}

/// The device is this machine.
struct Local;

impl Runner for Local {
    fn run(&self, program: &Path, words: &[Word]) -> Result<Vec<u8>, DeviceError> {
        // A bare name would be looked up in PATH.
        let place = if program.components().count() == 1 { Path::new(".").join(program) } else { program.to_owned() };
        let command = Command::new(place).args(words).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = command.map_err(|source| DeviceError::Start { program: program.into(), source })?;
        if !output.status.success() {
            return Err(DeviceError::Failed { program: program.into(), status: output.status });
        }
        Ok(output.stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_itself_runs_programs_and_reports_failures() {
        let local = runner(&Connect::Local).unwrap();
        let words = [Word::Text("-c".into()), Word::Text("printf '%s' \"$0\"".into()), Word::File("a b".into())];
        assert_eq!(local.run(Path::new("/bin/sh"), &words).unwrap(), b"a b");
        let fail = [Word::Text("-c".into()), Word::Text("exit 7".into())];
        assert!(
            matches!(local.run(Path::new("/bin/sh"), &fail), Err(DeviceError::Failed { status, .. }) if status.code() == Some(7))
        );
        assert!(matches!(local.run(Path::new("/bin/none"), &[]), Err(DeviceError::Start { .. })));
    }

    #[test]
    fn other_connections_say_that_they_are_not_there_yet() {
        for connect in [Connect::Qemu, Connect::Command { command: vec!["run".into()] }] {
            assert!(runner(&connect).err().unwrap().to_string().contains("not supported yet"));
        }
    }
}
