//! Programs on a device that the system's OpenSSH reaches.
//!
//! 1. A session gets a folder on the device; files are copied there once, under the hash of their content.
//! 2. A program is run while a byte goes over every few seconds; without them the device kills it.
//! 3. What breaks is tried again, with growing pauses, until the device has been silent for too long; a program is
//!    then run from its start. Callers keep programs short.
//! 4. At the end the folder is removed. Where that is impossible, a keeper on the device does it.
//!
//! Configuration, agent, known hosts and jump hosts are OpenSSH's business.

use super::shown::{Shown, stderr};
use super::{AnswerLimits, Argument, DeviceError, Runner, collect, script};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Pause between the bytes that say that somebody is still there.
const BEAT: Duration = Duration::from_secs(2);

/// Pauses between attempts, and how often one program is tried on a device that always answers and always drops.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const MOST_ATTEMPTS: usize = 100;

/// Exit codes of the scripts: the session's folder was removed; a file did not arrive whole.
const GONE: i32 = 250;
const TORN: i32 = 251;

/// How a device is reached, and how patiently.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `user@host`, or a name of the SSH configuration.
    pub host: String,
    /// Folder on the device, relative to the home folder there.
    pub folder: String,
    /// Further arguments of `ssh`.
    pub options: Vec<String>,
    /// Whether files stay on the device.
    pub keep: bool,
    /// How long a device that was reached before may be silent.
    pub patience: Duration,
    /// How long a device may be silent at the first contact.
    pub first_patience: Duration,
    /// How long the device keeps the session's files when it hears nothing.
    pub lease: Duration,
    /// How long the device lets a program run when it hears nothing.
    pub silence: Duration,
}

impl Settings {
    /// The usual patience: enough for a reboot.
    pub fn new(host: &str, folder: &str) -> Self {
        Self {
            host: host.into(),
            folder: folder.into(),
            options: Vec::new(),
            keep: false,
            patience: Duration::from_secs(180),
            first_patience: Duration::from_secs(5),
            lease: Duration::from_secs(300),
            silence: Duration::from_secs(20),
        }
    }
}

/// A session on a device.
pub(super) struct Ssh {
    settings: Settings,
    session: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether the folder was made, and files are known to be there.
    open: bool,
    /// When the device last did what it was asked to; never before the first contact.
    contact: Option<Instant>,
    /// Hash of every file that was sent, by path, length and time of change.
    hashes: BTreeMap<(PathBuf, u64, Option<SystemTime>), String>,
}

/// Why an attempt failed.
enum Broken {
    /// The connection dropped: it is tried again.
    Dropped(String),
    /// The session's folder does not exist any more: everything is tried again from the beginning.
    Gone,
    /// Something else.
    Final(DeviceError),
}

impl Ssh {
    pub(super) fn new(settings: Settings) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let session = if settings.keep { "kept".into() } else { format!("s-{}-{nanos:x}-{count}", std::process::id()) };
        Self { settings, session, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One attempt: files are brought there unless they are known to be, then the program is run.
    fn attempt(
        &self,
        state: &mut State,
        files: &[(String, PathBuf)],
        line: &str,
        limits: &AnswerLimits,
    ) -> Result<(Vec<u8>, i32), Broken> {
        let Settings { folder, lease, silence, .. } = &self.settings;
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        if !state.open {
            let lease = if self.settings.keep { 0 } else { lease.as_secs().max(1) };
            let text = script::open(folder, &self.session, lease) + &script::missing(folder, &self.session, &names);
            let missing = self.ask(&text, None)?;
            state.contact = Some(Instant::now());
            let missing = String::from_utf8_lossy(&missing).into_owned();
            for (name, path) in files.iter().filter(|(name, _)| missing.lines().any(|line| line == name)) {
                self.ask(&script::receive(folder, &self.session, name), Some(path))?;
                state.contact = Some(Instant::now());
            }
            state.open = true;
        }
        let done = self.execute(&script::run(folder, &self.session, line, silence.as_secs().max(4)), limits);
        if !matches!(done, Err(Broken::Dropped(_))) {
            state.contact = Some(Instant::now());
        }
        done
    }

    /// Runs a short script, with a file on its standard input, and gives what it printed.
    fn ask(&self, text: &str, input: Option<&Path>) -> Result<Vec<u8>, Broken> {
        let source = |path: &Path, source| Broken::Final(DeviceError::File { path: path.into(), source });
        let file = input.map(|path| File::open(path).map_err(|e| source(path, e))).transpose()?;
        let stdin = file.map_or_else(Stdio::null, Stdio::from);
        let child = self.ssh(text).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        // A large file takes its time on a slow line.
        let limits = if input.is_some() { AnswerLimits::LONG } else { AnswerLimits::SHORT };
        let output = collect(child.map_err(cannot_start)?, Path::new(&self.settings.host), &limits);
        let output = output.map_err(Broken::Final)?;
        if output.status.success() {
            return Ok(output.output);
        }
        let said = String::from_utf8_lossy(&output.complaint).trim().to_owned();
        let last = said.lines().last().map(|line| line.trim().to_owned());
        match output.status.code() {
            Some(255 | GONE | TORN) | None => {
                Err(Broken::Dropped(last.unwrap_or_else(|| "the connection ended".into())))
            }
            Some(code) => Err(Broken::Final(DeviceError::Unreachable {
                host: self.settings.host.clone(),
                problem: format!("the device's shell ended with code {code}: {}", last.unwrap_or_default()),
            })),
        }
    }

    /// Runs the script of a program, and says all the while that somebody is there.
    fn execute(&self, text: &str, limits: &AnswerLimits) -> Result<(Vec<u8>, i32), Broken> {
        let mut command = self.ssh(text);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr(limits));
        let mut child = command.spawn().map_err(cannot_start)?;
        let shown = Shown::of(&mut child);
        let (stop, stopped) = mpsc::channel::<()>();
        let stdin = child.stdin.take();
        let beat = thread::spawn(move || {
            let Some(mut stdin) = stdin else { return };
            while stdin.write_all(b".").and_then(|()| stdin.flush()).is_ok() {
                if stopped.recv_timeout(BEAT) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let answer = collect(child, Path::new(&self.settings.host), limits);
        shown.finish();
        drop(stop);
        let _ = beat.join();
        let dropped = |problem: &dyn std::fmt::Display| Broken::Dropped(problem.to_string());
        let (mut output, status) = match answer {
            Ok(answer) => (answer.output, answer.status),
            Err(DeviceError::File { source, .. }) => return Err(dropped(&source)),
            Err(error) => return Err(Broken::Final(error)),
        };
        if status.code() == Some(GONE) {
            return Err(Broken::Gone);
        }
        match split_end(&output) {
            Some((length, code)) => {
                output.truncate(length);
                Ok((output, code))
            }
            None => Err(dropped(&format!("the connection ended ({status})"))),
        }
    }

    fn ssh(&self, text: &str) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
        command.args(["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]);
        command.args(&self.settings.options).arg("--").arg(&self.settings.host);
        // Whatever the login shell is, POSIX's reads the script.
        command.arg(format!("exec sh -c {}", script::quote(text)));
        command
    }

    /// The name of a file on the device: the hash of its content.
    fn name(&self, state: &mut State, path: &Path) -> Result<String, DeviceError> {
        let io = |source| DeviceError::File { path: path.into(), source };
        let mut file = File::open(path).map_err(io)?;
        let about = file.metadata().map_err(io)?;
        let key = (path.to_path_buf(), about.len(), about.modified().ok());
        if let Some(known) = state.hashes.get(&key) {
            return Ok(known.clone());
        }
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut buffer).map_err(io)? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
        let name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        state.hashes.insert(key, name.clone());
        state.open = false;
        Ok(name)
    }
}

impl Runner for Ssh {
    fn reach(&self) -> Result<(), DeviceError> {
        self.answers()
    }

    fn run_within(
        &self,
        program: &Path,
        arguments: &[Argument],
        limits: &AnswerLimits,
    ) -> Result<Vec<u8>, DeviceError> {
        let mut state = self.state();
        let mut files = vec![(self.name(&mut state, program)?, program.to_path_buf())];
        let mut line = format!("./{}", files[0].0);
        for argument in arguments {
            match argument {
                Argument::Text(text) => line += &format!(" {}", script::quote(text)),
                Argument::File(path) => {
                    let name = self.name(&mut state, path)?;
                    line += &format!(" ./{name}");
                    files.push((name, path.clone()));
                }
            }
        }
        let (start, mut pause) = (Instant::now(), FIRST_PAUSE);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let before = state.contact;
            let problem = match self.attempt(&mut state, &files, &line, limits) {
                Ok((output, 0)) => return Ok(output),
                Ok((output, code)) => {
                    return Err(DeviceError::Failed { program: program.into(), code: Some(code), output });
                }
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Dropped(problem)) => problem,
                Err(Broken::Gone) => "its folder there is removed again and again".into(),
            };
            state.open = false;
            let silent = state.contact.map_or(start, |contact| contact.max(start)).elapsed();
            let patience = if state.contact.is_some() { self.settings.patience } else { self.settings.first_patience };
            pause = if state.contact == before { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
            if silent + pause > patience || attempt == MOST_ATTEMPTS {
                return Err(DeviceError::Unreachable { host: self.settings.host.clone(), problem });
            }
            thread::sleep(pause);
        }
    }
}

impl Ssh {
    /// Asks for nothing, to see whether the device answers.
    fn answers(&self) -> Result<(), DeviceError> {
        match self.ask("true", None) {
            Ok(_) => Ok(()),
            Err(Broken::Final(error)) => Err(error),
            Err(Broken::Dropped(problem)) => {
                Err(DeviceError::Unreachable { host: self.settings.host.clone(), problem })
            }
            Err(Broken::Gone) => Ok(()),
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let (reached, keep) = (self.state().contact.is_some(), self.settings.keep);
        // The keeper on the device does it where these attempts fail.
        if reached && !keep {
            let text = script::close(&self.settings.folder, &self.session);
            let _ = (0..2).find(|_| self.ask(&text, None).is_ok());
        }
    }
}

fn cannot_start(source: std::io::Error) -> Broken {
    Broken::Final(if source.kind() == std::io::ErrorKind::NotFound {
        DeviceError::Missing { program: "ssh".into(), help: "sudo apt-get install openssh-client" }
    } else {
        DeviceError::Start { program: "ssh".into(), source }
    })
}

/// Length of what the program printed, and its exit code; none if the script did not come to its end.
fn split_end(output: &[u8]) -> Option<(usize, i32)> {
    let end = script::END.as_bytes();
    let at = output.windows(end.len()).rposition(|window| window == end)?;
    let code = std::str::from_utf8(&output[at + end.len()..]).ok()?;
    code.ends_with('\n').then(|| Some((at, code.trim().parse().ok()?))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_end_counts() {
        assert_eq!(split_end(b"out\nsecateurs-end 0\n"), Some((3, 0)));
        assert_eq!(split_end(b"\nsecateurs-end 1\nx\nsecateurs-end 12\n"), Some((18, 12)));
        for torn in [&b""[..], b"out", b"out\nsecateurs-e", b"out\nsecateurs-end ", b"out\nsecateurs-end 1"] {
            assert_eq!(split_end(torn), None);
        }
    }
}
