//! `secateurs prune`: the whole job, up to the bundle; `cargo xtask prune` builds its binary and measures it.

mod job;
mod lock;
mod text;

pub use job::{budget, job};
pub use text::summary;

use super::cache::{Cache, scratch};
use super::device::DeviceArgs;
use super::failure::Failure;
use super::interrupt;
use super::sign::KeyArgs;
use super::terminal::{Terminal, TerminalArgs};
use super::together::together;
use crate::board::Board;
use crate::device;
use crate::kernels::available;
use crate::latency::{Gpu, Speed};
use crate::pipeline::{self, Done, Event, Job, Results, Timing, Tune};
use crate::profile::{self, Connect, Device, Overrides, Profile, Resolved, RuntimeKind, heading};
use crate::ranks::Ranks;
use crate::report::Verdict;
use crate::runtimes::{self, Runtime};
use crate::session::{self, Session};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use text::steps;

/// A profile, the flags that replace its values, and how this one run is done.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    overrides: Overrides,
    /// Device profile [default: this machine, with the budgets of the flags]
    #[arg(long, value_name = "TOML")]
    profile: Option<PathBuf>,
    /// Check everything that can be checked and print the steps, without doing them
    #[arg(long)]
    dry_run: bool,
    /// Leave out images that cannot be read and report how many, instead of ending at the first
    #[arg(long, help_heading = heading::MODEL)]
    skip_bad_images: bool,
    #[command(flatten, next_help_heading = heading::SEARCH)]
    pub device: DeviceArgs,
    /// Write event files for TensorBoard into this folder while training
    #[arg(long, value_name = "DIR", help_heading = heading::FINETUNE)]
    tensorboard: Option<PathBuf>,
    /// The inference binary built for the profile's device, which times networks there (`cargo xtask prune` builds it)
    #[arg(long, value_name = "FILE", help_heading = heading::MEASURING)]
    binary: Option<PathBuf>,
    /// Fail (exit code 7) if latency cannot be measured on the device itself, instead of claiming no latency
    #[arg(long, help_heading = heading::MEASURING)]
    require_device: bool,
    /// Folder of the results [default: dist/NAME of the device]
    #[arg(long, value_name = "DIR", help_heading = heading::OUTPUT)]
    out: Option<PathBuf>,
    /// Folder that keeps measurements for the next run [default: .cache in the folder of the results]
    #[arg(long, value_name = "DIR", help_heading = heading::OUTPUT)]
    cache: Option<PathBuf>,
    /// Apply the plan of secateurs.lock without a search, and fail (exit code 3) if any input is another than there
    #[arg(long, requires = "lock", help_heading = heading::SEARCH)]
    locked: bool,
    /// The lock file; what a run is made from and what comes out is entered there
    #[arg(long, value_name = "FILE", requires = "profile", hide = true)]
    lock: Option<PathBuf>,
    /// The compiler of the inference binary, as `rustc --version` prints it
    #[arg(long, value_name = "TEXT", hide = true)]
    compiler: Option<String>,
    #[command(flatten)]
    pub key: KeyArgs,
    /// The caller has locked the folder of the results, and judges with `finish`
    #[arg(long, hide = true)]
    first_stage: bool,
    #[command(flatten, next_help_heading = heading::OUTPUT)]
    pub terminal: TerminalArgs,
}

impl Args {
    /// The profile with the flags in place of its values, checked.
    pub fn resolve(&self) -> Result<Resolved, Failure> {
        let resolved = Resolved::new(self.profile.as_deref(), self.overrides.clone())?;
        refuse_contradictions(&resolved.profile)?;
        Ok(resolved)
    }
}

/// Runs it, on all ranks that were started.
pub fn run(args: &Args) -> Result<(), Failure> {
    // A budget that is missed is no error of a rank.
    let verdict = together(args.terminal.is_json(), Some(&args.device), |ranks| run_on(ranks, args))?;
    verdict.map_or(Ok(()), |verdict| judge(&verdict, args.require_device))
}

/// The verdict, where this run is to judge.
fn run_on(ranks: &Ranks, args: &Args) -> Result<Option<Verdict>, Failure> {
    let mut resolved = args.resolve()?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("dist").join(&resolved.profile.device.name));
    if args.key.is_given() && !args.first_stage && !args.dry_run {
        let problem = "--sign is for the finished bundle, with its binary: `cargo xtask prune` makes it, and `secateurs \
                       sign` signs it later";
        return Err(Failure::Usage(problem.into()));
    }
    let mut terminal = Terminal::of_rank(args.terminal, ranks);
    if args.dry_run {
        let looked = ranks.is_first().then(|| dry_run(args, &resolved.profile, &out, &mut terminal));
        return looked.transpose().map(|_| None);
    }
    let opened = args.device.open_first(ranks, &mut terminal)?;
    let device = opened.device;
    let locking = lock::locking(args, &resolved.profile, device)?;
    let open = || if ranks.is_first() { Results::open(&out, args.first_stage) } else { Results::look(&out) };
    let results = ranks.in_turn(open)?;
    let timing = if ranks.is_first() { timing(&resolved.profile, args, &mut terminal)? } else { Timing::Here };
    if ranks.is_first() {
        refuse_without_rails(&resolved.profile, &timing)?;
    }
    let threads = threads(&resolved.profile, &timing, &mut terminal);
    resolved.cap_threads(threads);
    let cache = Cache::shared(&args.cache.clone().unwrap_or_else(|| out.join(".cache")), ranks, &mut terminal)?;
    let job = job(&resolved.profile, &out, &cache.folder);
    let tune = Tune { tensorboard: args.tensorboard.clone(), stop: interrupt::stop(), ..job.tune.clone() };
    let (skip_bad_images, locking) = (args.skip_bad_images, Some(locking));
    let job = Job { device, skip_bad_images, timing, locking, tune, ranks: ranks.clone(), ..job };
    let done = execute(&job, &resolved, &results, args.first_stage, &mut terminal)?;
    let Some(done) = done.filter(|_| !args.first_stage) else { return Ok(None) };
    done.pending.settle(&results, &done.report, args.lock.as_deref())?;
    Ok(Some(done.report.verdict))
}

/// Checks everything that can be checked before the work begins, and prints what would be done.
fn dry_run(args: &Args, profile: &Profile, out: &Path, terminal: &mut Terminal) -> Result<(), Failure> {
    let results = Results::look(out)?;
    let device = args.device.open_first(&Ranks::default(), terminal)?.device;
    let timing = match args.binary {
        // `cargo xtask prune` builds it only for a run that is one.
        None if profile.connect != Connect::Local && profile.bench.runtime == RuntimeKind::Engine => {
            let runner = device::runner(profile)?;
            if runner.emulates() { timing(profile, args, terminal)? } else { runner.reach().map(|()| Timing::Here)? }
        }
        _ => timing(profile, args, terminal)?,
    };
    refuse_without_rails(profile, &timing)?;
    // Drawn pictures of the demo, for as long as they are looked at.
    let scratch = scratch()?;
    let (skip_bad_images, locking) = (args.skip_bad_images, Some(lock::locking(args, profile, device)?));
    let job = Job { device, skip_bad_images, timing, locking, ..job(profile, out, scratch.path()) };
    let listener = RefCell::new(listener(terminal));
    pipeline::check(&job, &results, &listener)?;
    pipeline::check_locked(&job, &listener)?;
    drop(listener);
    let steps = steps(profile, out);
    let value = serde_json::json!({ "reason": "plan", "profile": profile, "out": out, "steps": steps });
    let text: Vec<String> = steps.iter().enumerate().map(|(i, step)| format!("{:>2}. {step}", i + 1)).collect();
    terminal.result(&text.join("\n"), value);
    Ok(())
}

/// Refuses what no job could do, and what only the profile and the flags together get wrong.
fn refuse_contradictions(profile: &Profile) -> Result<(), Failure> {
    let budget = &profile.budget;
    let sizes = budget.memory.is_some() || budget.params.is_some() || budget.file.is_some();
    if budget.latency.is_none() && budget.latency_ratio.is_none() && !sizes {
        return Err(Failure::Usage(
            "no budget: give --latency-ms, --latency-ratio or --memory-mib, or set one in the profile".into(),
        ));
    }
    refuse_model_without_data(profile)?;
    let (dtype, runtime) = (profile.model.dtype, profile.bench.runtime);
    runtimes::check_dtype(runtime, dtype).map_err(Failure::Usage)?;
    if profile.model.batch > 1 && runtime.is_driven() {
        let (batch, name) = (profile.model.batch, runtime.name());
        return Err(Failure::Usage(format!("batch = {batch}: in {name} one image is timed at a time, expected 1")));
    }
    if let (Some(asked), Some(whole)) = (budget.memory, profile.device.memory)
        && asked > whole
    {
        return Err(Failure::Usage(format!("--memory-mib: {asked} is more than the device has ({whole})")));
    }
    // `finish` judges by this text.
    profile::parse(Path::new("the profile with its flags"), &profile::write(profile))?;
    Ok(())
}

/// Refuses a model whose dataset is not named.
pub fn refuse_model_without_data(profile: &Profile) -> Result<(), Failure> {
    if profile.model.path.as_ref().is_some_and(|path| profile::demo_task(path).is_none()) && profile.data.is_none() {
        return Err(Failure::Usage("a model without data: name its dataset with --data data.yaml".into()));
    }
    Ok(())
}

/// Refuses a budget of energy where the machine that would be measured shows no power rails: it could only be missed.
fn refuse_without_rails(profile: &Profile, timing: &Timing) -> Result<(), Failure> {
    if profile.budget.energy.is_none() {
        return Ok(());
    }
    let rails = match timing {
        Timing::Device(session) => session.board().rails.clone(),
        Timing::Here if profile.connect == Connect::Local => Board::read(Path::new("/")).rails,
        Timing::Command(..) | Timing::Runtime(..) => None,
        // Another machine will be asked, or nothing is claimed.
        _ => return Ok(()),
    };
    let problem = "energy-mj: the device shows no power rails (INA3221 through hwmon, RAPL through powercap) that the \
                   user may read, or is measured by a command";
    rails.map(|_| ()).ok_or_else(|| Failure::Usage(problem.into()))
}

/// Where networks are timed while plans are made: on the device, or nowhere if it is only emulated or another machine.
fn timing(profile: &Profile, args: &Args, terminal: &mut Terminal) -> Result<Timing, Failure> {
    if let Some(command) = &profile.bench.command {
        return Ok(Timing::Command(command.clone(), proportions(profile)));
    }
    if profile.bench.runtime.is_driven() {
        let runtime = Runtime::open(profile, args.binary.as_deref())?;
        let Some(why) = runtime.simulated().map(str::to_owned) else {
            return Ok(Timing::Runtime(Arc::new(runtime), proportions(profile)));
        };
        return instead(profile, &why, args.require_device, terminal);
    }
    let runner = device::runner(profile)?;
    let why = match args.binary.as_deref() {
        _ if runner.emulates() => "it is emulated".to_owned(),
        None if profile.connect == Connect::Local => {
            // What is measured here only serves for planning where the device is another machine.
            let other = session::simulated(profile, &Board::read(Path::new("/")), false);
            return match other.filter(|_| args.require_device) {
                None => Ok(Timing::Here),
                Some(why) => Err(no_device(&why)),
            };
        }
        None => {
            let problem = "the device needs the inference binary built for it: `cargo xtask prune` builds and gives it";
            return Err(Failure::Usage(problem.into()));
        }
        Some(binary) => {
            let session = Session::with_runner(runner, profile, binary)?;
            match session.simulated() {
                None => return Ok(Timing::Device(Arc::new(session))),
                Some(why) => why.to_owned(),
            }
        }
    };
    instead(profile, &why, args.require_device, terminal)
}

/// Two figures of a CPU of which only the proportions of layers matter; those of a small core where there are none.
fn proportions(profile: &Profile) -> Speed {
    let gflops = profile.device.core_gflops.unwrap_or(8.0) * profile.device.threads as f64;
    Speed { gflops, bandwidth: profile.device.bandwidth.unwrap_or(8.0) }
}

/// The estimate that stands in for a device on which nothing can be timed: why.
fn instead(profile: &Profile, why: &str, require_device: bool, terminal: &mut Terminal) -> Result<Timing, Failure> {
    if require_device {
        return Err(no_device(why));
    }
    let name = &profile.device.name;
    let estimate = estimate(profile).map_err(|problem| {
        let text = format!("{name} cannot be timed ({why}): {problem}, or a [connect] that reaches it");
        Failure::Usage(text)
    })?;
    let of = if matches!(estimate, Timing::EstimateGpu(..)) { "of the GPU" } else { "of the CPU" };
    let note = format!("{name}: {why}; latency is estimated from the profile's figures {of}, and none is claimed");
    terminal.note(&note);
    Ok(estimate)
}

/// The estimate that stands in for a device: of its GPU, where the profile names one, else of its CPU.
fn estimate(profile: &Profile) -> Result<Timing, String> {
    if profile.device.cuda.is_some() {
        return Ok(Timing::EstimateGpu(Gpu::of(&profile.device)?, profile.model.dtype));
    }
    match profile.device {
        Device { core_gflops: Some(gflops), bandwidth: Some(bandwidth), threads, .. } => {
            Ok(Timing::Estimate(Speed { gflops: gflops * threads as f64, bandwidth }))
        }
        _ => Err("give [device] core-gflops and bandwidth-gb-s for an estimate".into()),
    }
}

/// The failure where `--require-device` was given and nothing can be claimed about the device.
fn no_device(why: &str) -> Failure {
    Failure::Device(format!("--require-device: latency cannot be measured on the device ({why})"))
}

/// Threads of the network: the profile's, at most one for each CPU of the device on which networks are timed.
fn threads(profile: &Profile, timing: &Timing, terminal: &mut Terminal) -> usize {
    let asked = profile.device.threads;
    let threads = match timing {
        Timing::Here => asked.min(available()),
        Timing::Device(session) => session.threads(),
        Timing::Runtime(runtime, _) => runtime.session().map_or(asked, Session::threads),
        _ => asked,
    };
    if threads < asked {
        terminal.note(&format!("{asked} threads asked for, but the device has {threads} CPUs: {threads} are used"));
    }
    threads
}

/// Passes progress on to the terminal.
fn listener(terminal: &mut Terminal) -> impl FnMut(Event) {
    |event: Event| match event {
        Event::Stage(verb, what) => terminal.stage(verb, &what),
        Event::Progress(done, all) => terminal.progress(done, all),
        Event::Message(text) => terminal.note(&text),
    }
}

/// Does the job, and writes what it found; nothing on ranks other than the first.
fn execute(
    job: &Job,
    resolved: &Resolved,
    results: &Results,
    first_stage: bool,
    terminal: &mut Terminal,
) -> Result<Option<Done>, Failure> {
    let out = results.folder();
    let Some(done) = pipeline::run(job, results, &RefCell::new(listener(terminal)))? else { return Ok(None) };
    pipeline::write(results, resolved, &done)?;
    terminal.stage("Writing", &out.display().to_string());
    // One table of figures a run: the caller of a first stage measures again, with the binary that ships.
    let text = if first_stage { String::new() } else { summary(&done.report) };
    let value = serde_json::json!({ "reason": "pruned", "out": out.to_string_lossy(), "report": done.report });
    terminal.result(&text, value);
    Ok(Some(done))
}

/// The exit code of a verdict.
pub fn judge(verdict: &Verdict, require_device: bool) -> Result<(), Failure> {
    let missed: Vec<&str> =
        verdict.sentences.iter().map(String::as_str).filter(|text| text.contains("missed")).collect();
    let missed = missed.join("; ");
    if !verdict.latency_ok || !verdict.memory_ok {
        return Err(Failure::Budget(missed));
    }
    if !verdict.accuracy_ok {
        return Err(Failure::Accuracy(missed));
    }
    if let Some(why) = &verdict.diverged {
        return Err(Failure::Diverged(why.clone()));
    }
    match &verdict.simulated {
        Some(why) if require_device => Err(no_device(why)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
