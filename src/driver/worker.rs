//! The worker `secateurs`: handing it commands, and asking it what it alone knows.

use super::caller::WORKER;
use super::process::{Failure, name, run};
use super::target::Target;
use crate::output;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// The worker as a program.
#[derive(Clone, Debug)]
pub struct Worker {
    program: PathBuf,
    /// What makes the program the worker, where it is something else besides.
    first: Option<&'static str>,
}

impl Worker {
    /// A program that is the worker.
    pub fn program(program: PathBuf) -> Self {
        Self { program, first: None }
    }

    /// The running program, which is also the worker.
    ///
    /// # Errors
    /// If it does not find itself.
    pub fn itself() -> Result<Self, Failure> {
        let program = std::env::current_exe();
        let program = program.map_err(|e| Failure::Workspace(format!("this program cannot find itself: {e}")))?;
        Ok(Self { program, first: Some(WORKER) })
    }

    /// One of its commands, to be completed.
    pub fn command(&self, command: &str) -> Command {
        let mut call = Command::new(&self.program);
        call.args(self.first).arg(command);
        call
    }

    /// The help of the options that `prune` hands to it.
    ///
    /// # Errors
    /// As [`run_worker`].
    pub fn options(&self) -> Result<String, Failure> {
        let text = ask(self.command("driver").arg("options"))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// What building needs of a profile.
    ///
    /// # Errors
    /// If the profile is wrong: the worker has said so.
    pub fn profile(&self, path: PathBuf) -> Result<Target, Failure> {
        target(self.command("driver").args(["profile", "--profile"]).arg(&path), path.clone())
    }

    /// The runtime of a profile on its device, in words; or why it is not there.
    pub fn runtime(&self, path: &Path) -> Result<String, String> {
        #[derive(serde::Deserialize)]
        struct Answer {
            name: String,
            on: String,
        }
        let mut question = self.command("driver");
        let output = question.args(["runtime", "--profile"]).arg(path).stdin(Stdio::null()).output();
        let output = output.map_err(|e| format!("{}: cannot be started: {e}", name(&question)))?;
        match serde_json::from_slice(&output.stdout) {
            Ok(Answer { name, on }) if output.status.success() => Ok(format!("{name} ({on})")),
            _ => {
                let said = String::from_utf8_lossy(&output.stderr);
                let last = said.lines().find_map(|line| line.split_once("error: ")).map(|(_, text)| text.to_owned());
                Err(last.unwrap_or_else(|| "the worker did not say why".into()))
            }
        }
    }

    /// Checks arguments of its `prune` and the profile with its flags applied; gives what building needs of it.
    ///
    /// # Errors
    /// If arguments or profile are wrong: the worker has said so.
    pub fn check(&self, arguments: &[OsString], path: PathBuf) -> Result<Target, Failure> {
        target(self.command("driver").arg("check").args(arguments), path)
    }
}

/// Runs the worker; its exit code becomes ours.
///
/// # Errors
/// If it cannot be started, or does not succeed.
pub fn run_worker(command: &mut Command) -> Result<(), Failure> {
    // Training has threads of its own; candle's would wait for each other busily beside them.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        command.env("CANDLE_NUM_THREADS", "1");
    }
    let status = run(command)?;
    ended(command, status)
}

fn target(question: &mut Command, path: PathBuf) -> Result<Target, Failure> {
    let answer = ask(question)?;
    Target::of_answer(path, &answer)
        .map_err(|e| Failure::Program { program: name(question), problem: format!("its answer cannot be read: {e}") })
}

/// What the worker prints. If it does not succeed, that is its message and goes on to our standard output.
fn ask(question: &mut Command) -> Result<Vec<u8>, Failure> {
    let output = question.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output =
        output.map_err(|e| Failure::Program { program: name(question), problem: format!("cannot be started: {e}") })?;
    if !output.status.success() {
        output::print_bytes(&output.stdout);
    }
    ended(question, output.status).map(|()| output.stdout)
}

fn ended(command: &Command, status: ExitStatus) -> Result<(), Failure> {
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
