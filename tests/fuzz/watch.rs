//! Watches a child that uses inputs: that it lives, how long each takes, how much memory it holds.

use crate::target::Target;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Memory over what the seeds take, KiB.
const ROOM_KIB: u64 = 1 << 20;

/// Address space of products of matrices in the threads of a job, in sizes of the last cache: `gemm` sets two of them aside
/// for each thread, however small the matrices are.
const LAST_CACHES: u64 = 8;

/// The size of this machine's last cache, KiB.
fn last_cache_kib() -> u64 {
    let text = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").unwrap_or_default();
    text.trim().trim_end_matches('K').parse().unwrap_or(0)
}
/// CPU seconds for an input, and seconds by the clock for one that waits.
const LIMIT: f64 = 5.0;
const LIMIT_WAITING: Duration = Duration::from_secs(60);
/// So many findings of a kind are enough.
const ENOUGH: usize = 300;
/// Inputs that are kept of findings at the same place.
const KEPT: usize = 3;

/// What came of a kind of input.
pub struct Tally {
    name: &'static str,
    pub inputs: u64,
    took: Duration,
    peak_mib: u64,
    found: Vec<Finding>,
}

/// Findings at the same place.
struct Finding {
    what: String,
    count: usize,
    kept: Vec<PathBuf>,
}

impl Tally {
    pub fn line(&self) -> String {
        let rate = self.inputs as f64 / self.took.as_secs_f64().max(1e-3);
        let count: usize = self.found.iter().map(|finding| finding.count).sum();
        let found = if count > 0 { format!(", {count} FINDINGS") } else { String::new() };
        format!("  {:<18}{:>9} inputs {rate:>7.0}/s {:>6} MiB at most{found}", self.name, self.inputs, self.peak_mib)
    }

    pub fn findings(&self) -> impl Iterator<Item = String> + '_ {
        self.found.iter().map(|finding| {
            let kept: Vec<String> = finding.kept.iter().map(|path| path.display().to_string()).collect();
            format!("{}: {} ({} times)\n  {}", self.name, finding.what, finding.count, kept.join("\n  "))
        })
    }
}

/// The inputs of a kind for some time.
pub fn run(target: &Target, seed: u64, share: Duration, folder: &Path) -> Tally {
    let start = Instant::now();
    let mut tally = Tally { name: target.name, inputs: 0, took: share, peak_mib: 0, found: Vec::new() };
    fs::create_dir_all(folder).unwrap();
    let seeds = (target.seeds)();
    let limit = match probe(target) {
        Ok(peak) => peak + ROOM_KIB + LAST_CACHES * last_cache_kib(),
        Err(text) => {
            tally.found.push(Finding { what: format!("a seed: {text}"), count: 1, kept: Vec::new() });
            return tally;
        }
    };
    let mut next = 0;
    let end = start + share;
    while Instant::now() < end && tally.found.iter().map(|finding| finding.count).sum::<usize>() < ENOUGH {
        let errors = folder.join(format!("{}-{seed}.stderr", target.name));
        let mut child = spawn(target, seed, next, limit, &errors);
        let (last, how) = watch(&mut child, next, end, &mut tally.peak_mib);
        tally.inputs += last.map_or(0, |last| last + 1 - next);
        next = last.map_or(next, |last| last + 1);
        let Some(how) = how else { continue };
        let Some(input) = last else {
            tally.found.push(Finding { what: format!("the child does not start: {how}"), count: 1, kept: Vec::new() });
            break;
        };
        let what = describe(&how, &fs::read(&errors).unwrap_or_default());
        let at = tally.found.iter().position(|finding| finding.what == what).unwrap_or_else(|| {
            tally.found.push(Finding { what, count: 0, kept: Vec::new() });
            tally.found.len() - 1
        });
        let finding = &mut tally.found[at];
        finding.count += 1;
        if finding.kept.len() < KEPT {
            let path = folder.join(format!("{}-{seed}-{input}", target.name));
            fs::write(&path, target.input(&seeds, seed, input)).unwrap();
            finding.kept.push(path);
        }
    }
    let _ = fs::remove_file(folder.join(format!("{}-{seed}.stderr", target.name)));
    tally.took = start.elapsed();
    tally
}

fn command(target: &Target, arguments: &[String]) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg("ulimit -v \"$1\"; ulimit -c 0; shift; exec \"$@\"").arg("sh");
    command.arg(&arguments[0]).arg(exe).args(["--target", target.name]).args(&arguments[1..]);
    // One arena and no threads beside: address space is then what is used.
    command.env("MALLOC_ARENA_MAX", "1").env("RAYON_NUM_THREADS", "1").env("RUST_BACKTRACE", "0").env_remove("CI");
    command.stdin(Stdio::null());
    command
}

/// Address space that the seeds take, KiB.
fn probe(target: &Target) -> Result<u64, String> {
    let arguments = ["unlimited", "--worker", "0", "--probe"].map(str::to_owned);
    let output = command(target, &arguments).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| describe(&output.status.to_string(), &output.stderr))
}

fn spawn(target: &Target, seed: u64, first: u64, limit: u64, errors: &Path) -> Child {
    let arguments = [limit.to_string(), "--seed".into(), seed.to_string(), "--worker".into(), first.to_string()];
    let errors = fs::File::create(errors).unwrap();
    command(target, &arguments).stdout(Stdio::piped()).stderr(errors).spawn().unwrap()
}

/// Until the child ends, spends too long on an input, or the time is over: the last input, and what happened to it.
fn watch(child: &mut Child, first: u64, end: Instant, peak_mib: &mut u64) -> (Option<u64>, Option<String>) {
    const NONE: u64 = u64::MAX;
    let at = Arc::new(AtomicU64::new(NONE));
    let (told, mut pipe) = (at.clone(), child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut word = [0; 8];
        while pipe.read_exact(&mut word).is_ok() {
            told.store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
    });
    let (mut last, mut since, mut spent) = (NONE, Instant::now(), cpu_seconds(child.id()));
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(how(status));
        }
        *peak_mib = resident_mib(child.id()).unwrap_or(0).max(*peak_mib);
        let now = at.load(Ordering::Relaxed);
        if now != last {
            (last, since, spent) = (now, Instant::now(), cpu_seconds(child.id()));
        } else if cpu_seconds(child.id()) - spent > LIMIT || since.elapsed() > LIMIT_WAITING {
            let _ = child.kill();
            break Some(format!("takes more than {LIMIT} s"));
        }
        // An input that is being used when the time is over may still turn out to be endless.
        if Instant::now() > end && since.elapsed() < Duration::from_millis(500) {
            let _ = child.kill();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let _ = child.wait();
    let _ = reader.join();
    let last = Some(at.load(Ordering::Relaxed)).filter(|last| *last != NONE && *last >= first);
    (last, ended)
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(signal) => format!("ended by signal {signal}"),
        None => format!("ended with {}", status.code().unwrap_or(-1)),
    }
}

/// The end and the place of a panic; messages often hold a part of the input, so that places are what is counted.
fn describe(how: &str, errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    let lines: Vec<&str> = text.lines().collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let place = panic.map(|at| lines[at].rsplit("panicked at ").next().unwrap_or_default().to_owned());
    let message = panic.and_then(|at| lines.get(at + 1)).or(lines.last()).copied().unwrap_or_default();
    let message: String = message.chars().filter(|c| !c.is_ascii_digit() && !c.is_control()).take(100).collect();
    format!("{how}, {} {message}", place.unwrap_or_default())
}

/// CPU seconds of a process and of the programs that it waited for.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    (11..15).filter_map(|i| fields.get(i)?.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn resident_mib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib >> 10)
}
