//! Reads what a program of a device answers, within limits of bytes and of time. A program that prints for ever or
//! hangs is killed.

use super::DeviceError;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks whether a program that closed its output has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The most that is kept of what a program says to its standard error, where that is not shown.
const MAX_COMPLAINT: u64 = 64 << 10;

/// Limits of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnswerLimits {
    /// Bytes on standard output.
    pub bytes: u64,
    /// Time from start to end; without one it is waited for without end, as a user can interrupt it.
    pub time: Option<Duration>,
}

impl AnswerLimits {
    /// Of a program that runs networks: the slowest window of the largest network under emulation takes minutes.
    pub const LONG: Self = Self { bytes: 64 << 20, time: Some(Duration::from_secs(1800)) };

    /// Of a question that takes no computation.
    pub const SHORT: Self = Self { bytes: 1 << 20, time: Some(Duration::from_secs(120)) };

    /// Of a program of the user.
    pub const ATTENDED: Self = Self { bytes: 64 << 20, time: None };
}

/// What a program printed, and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: Vec<u8>,
    /// The beginning of its standard error, where that is not shown.
    pub complaint: Vec<u8>,
}

/// Starts a command and takes its answer. Its standard output is read here, whatever the command says.
///
/// # Errors
/// If it cannot be started, prints more than it may, or takes longer. `program` names it in messages.
pub fn answer(command: &mut Command, program: &Path, limits: &AnswerLimits) -> Result<Answer, DeviceError> {
    let child = command.stdout(Stdio::piped()).spawn();
    let child = child.map_err(|source| DeviceError::Start { program: program.into(), source })?;
    collect(child, program, limits)
}

/// Takes the answer of a program that runs.
///
/// # Errors
/// As [`answer`].
pub fn collect(mut child: Child, program: &Path, limits: &AnswerLimits) -> Result<Answer, DeviceError> {
    let end = limits.time.map(|time| Instant::now() + time);
    let (output, complaint) = (child.stdout.take(), child.stderr.take());
    let output = read(output, limits.bytes.saturating_add(1), false);
    let complaint = read(complaint, MAX_COMPLAINT, true);
    let result = wait(&mut child, &output, end, program, limits);
    if result.is_err() {
        // What it started may hold the pipes open: nobody waits for those.
        let _ = child.kill();
        let _ = child.wait();
    }
    let (status, output) = result?;
    let complaint = complaint.recv_timeout(Duration::from_secs(1)).ok().and_then(Result::ok).unwrap_or_default();
    Ok(Answer { status, output, complaint })
}

fn wait(
    child: &mut Child,
    output: &Receiver<io::Result<Vec<u8>>>,
    end: Option<Instant>,
    program: &Path,
    limits: &AnswerLimits,
) -> Result<(ExitStatus, Vec<u8>), DeviceError> {
    let hangs = || {
        let seconds = limits.time.map_or(0, |time| time.as_secs());
        DeviceError::Hangs { program: program.into(), seconds }
    };
    let io = |source| DeviceError::File { path: program.into(), source };
    let read = match end {
        None => output.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(end) => output.recv_timeout(end.saturating_duration_since(Instant::now())),
    };
    let bytes = read.map_err(|_| hangs())?.map_err(io)?;
    if bytes.len() as u64 > limits.bytes {
        return Err(DeviceError::Flood { program: program.into(), bytes: limits.bytes });
    }
    loop {
        if end.is_none() {
            return Ok((child.wait().map_err(io)?, bytes));
        }
        if let Some(status) = child.try_wait().map_err(io)? {
            return Ok((status, bytes));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(hangs());
        }
        thread::sleep(LOOK);
    }
}

/// Reads at most so many bytes in a thread of its own; with `drain` the rest is read too, and dropped.
fn read(pipe: Option<impl Read + Send + 'static>, most: u64, drain: bool) -> Receiver<io::Result<Vec<u8>>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let done = match pipe {
            None => Ok(0),
            Some(mut pipe) => {
                let done = pipe.by_ref().take(most).read_to_end(&mut bytes);
                if drain {
                    let _ = io::copy(&mut pipe, &mut io::sink());
                }
                done
            }
        };
        let _ = send.send(done.map(|_| bytes));
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str, bytes: u64, millis: u64) -> Result<(Option<i32>, Vec<u8>), DeviceError> {
        let limits = AnswerLimits { bytes, time: Some(Duration::from_millis(millis)) };
        let mut command = Command::new("/bin/sh");
        let answer = answer(command.args(["-c", script]).stdin(Stdio::null()), Path::new("device"), &limits)?;
        Ok((answer.status.code(), answer.output))
    }

    #[test]
    fn answers_within_bounds_come_through_whole() {
        assert_eq!(of("printf 12345678; exit 3", 8, 20_000).unwrap(), (Some(3), b"12345678".to_vec()));
        let mut complains = Command::new("/bin/sh");
        complains.args(["-c", "yes | head -c 300000 >&2; echo x"]).stderr(Stdio::piped());
        let answer = answer(&mut complains, Path::new("device"), &AnswerLimits::SHORT).unwrap();
        assert_eq!((answer.output.as_slice(), answer.complaint.len() as u64), (&b"x\n"[..], MAX_COMPLAINT));
    }

    #[test]
    fn a_flood_is_refused() {
        for script in ["printf 123456789", "yes", "yes & sleep 60"] {
            let error = of(script, 8, 20_000).unwrap_err();
            assert!(matches!(error, DeviceError::Flood { bytes: 8, .. }), "{script}: {error}");
        }
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let start = Instant::now();
        // Silent, silent with a child that holds the pipe, after its output, and while it prints slowly.
        let hanging = ["exec sleep 60", "sleep 60; true", "exec >&-; sleep 60", "while :; do echo; sleep 0.05; done"];
        for script in hanging {
            let error = of(script, 1 << 20, 300).unwrap_err();
            assert!(matches!(error, DeviceError::Hangs { .. }), "{script}: {error}");
        }
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
