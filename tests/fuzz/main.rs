//! A deterministic mutation fuzzer over everything that is read: `cargo xtask fuzz`, and some seconds of it in every
//! run of the tests.
//!
//! Each kind of input is used in a child process of bounded memory, one input after the other; before each, the child
//! says its number. The parent watches: a child that ends, or spends more than five seconds on one input, has made a
//! finding. The input is written to a folder, and the child is started again behind it. Input N of a kind and a seed is
//! the same everywhere, where the data folder is the same.
//!
//!     cargo xtask fuzz --minutes 20
//!     cargo xtask fuzz --target model --seed 7
//!     cargo xtask fuzz --target model --replay target/tmp/fuzz/model-7-1234
#![allow(missing_docs)]

mod devices;
#[path = "../harness/mod.rs"]
mod harness;
mod jobs;
mod json;
mod mutate;
mod pickle;
mod place;
mod seeds;
mod target;
mod targets;
mod tokens;
mod watch;

use place::Place;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;
use target::Target;
use targets::TARGETS;
use watch::Tally;

/// What the command line asks for.
struct Asked {
    seconds: f64,
    seed: u64,
    target: Option<String>,
    replay: Option<PathBuf>,
    /// A child's: from which input on.
    worker: Option<u64>,
    /// Whether only the memory of the seeds is asked for.
    probe: bool,
}

/// Seconds for all kinds together, where nobody says something else.
fn default_seconds() -> f64 {
    let asked = std::env::var("SECATEURS_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(if std::env::var_os("CI").is_some() { 60.0 } else { 15.0 })
}

/// The command line; `None` where a filter of the test runner means other tests.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Asked>, String> {
    let mut asked =
        Asked { seconds: default_seconds(), seed: 1, target: None, replay: None, worker: None, probe: false };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<f64>().map_err(|_| format!("`{text}` is not a number"));
        match argument.as_str() {
            "--minutes" => asked.seconds = 60.0 * number(value()?)?,
            "--seconds" => asked.seconds = number(value()?)?,
            "--seed" => asked.seed = number(value()?)? as u64,
            "--target" => asked.target = Some(value()?),
            "--replay" => asked.replay = Some(value()?.into()),
            "--worker" => asked.worker = Some(number(value()?)? as u64),
            "--probe" => asked.probe = true,
            "--list" => {
                println!("fuzz: test");
                return Ok(None);
            }
            // Those of the test runner, which every test binary is given.
            "--test-threads" | "--skip" | "--format" | "--color" | "-Z" => drop(value()?),
            _ if argument.starts_with('-') => {}
            filter if "fuzz".contains(filter) => {}
            _ => return Ok(None),
        }
    }
    if let Some(name) = &asked.target
        && !TARGETS.iter().any(|target| target.name == name)
    {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        return Err(format!("--target {name}: expected one of {}", names.join(", ")));
    }
    Ok(Some(asked))
}

fn main() -> ExitCode {
    let asked = match parse(std::env::args().skip(1)) {
        Ok(Some(asked)) => asked,
        Ok(None) => return ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("fuzz: {problem}");
            return ExitCode::from(2);
        }
    };
    let wanted = |target: &&Target| asked.target.as_ref().is_none_or(|name| name == target.name);
    let chosen: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    if let (Some(path), [target]) = (&asked.replay, &chosen[..]) {
        let folder = tempfile::tempdir().unwrap();
        (target.run)(&mut Place::new(folder.path().into()), &std::fs::read(path).unwrap());
        println!("{}: used without a finding", path.display());
        return ExitCode::SUCCESS;
    }
    match (asked.worker, &chosen[..]) {
        (Some(first), [target]) => work(target, asked.seed, first, asked.probe),
        _ => all(&chosen, &asked),
    }
}

/// A child: uses one input after the other, and says before each which one.
fn work(target: &Target, seed: u64, first: u64, probe: bool) -> ExitCode {
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::new(folder.path().into());
    let seeds = (target.seeds)();
    if probe {
        seeds.iter().for_each(|seed| (target.run)(&mut place, seed));
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:")).unwrap_or_default();
        print!("{}", peak.trim().trim_end_matches(" kB"));
        return ExitCode::SUCCESS;
    }
    let mut out = std::io::stdout();
    for input in first.. {
        let bytes = target.input(&seeds, seed, input);
        // The parent has ended.
        if out.write_all(&input.to_le_bytes()).and_then(|()| out.flush()).is_err() {
            break;
        }
        (target.run)(&mut place, &bytes);
    }
    ExitCode::SUCCESS
}

/// All kinds, some at the same time, each for its share of the time.
fn all(chosen: &[&Target], asked: &Asked) -> ExitCode {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    let lanes = std::thread::available_parallelism().map_or(1, |n| n.get()).min(4).min(chosen.len()).max(1);
    let share = Duration::from_secs_f64(asked.seconds * lanes as f64 / chosen.len().max(1) as f64);
    println!("fuzz: {} kinds of input, {:.0} s in all, seed {}", chosen.len(), asked.seconds, asked.seed);
    let waiting = Mutex::new(chosen.iter().rev());
    let tallies = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                while let Some(target) = { waiting.lock().unwrap().next() } {
                    let tally = watch::run(target, asked.seed, share, &folder);
                    println!("{}", tally.line());
                    tallies.lock().unwrap().push(tally);
                }
            });
        }
    });
    let tallies: Vec<Tally> = tallies.into_inner().unwrap();
    let inputs: u64 = tallies.iter().map(|tally| tally.inputs).sum();
    let findings: Vec<String> = tallies.iter().flat_map(Tally::findings).collect();
    println!("fuzz: {inputs} inputs, {} findings", findings.len());
    findings.iter().for_each(|finding| println!("{finding}"));
    if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
