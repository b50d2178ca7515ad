//! `secateurs prune`: the whole job, up to the bundle; `cargo xtask prune` builds its binary and measures it.

use super::cache::{Cache, scratch};
use super::failure::Failure;
use super::terminal::{Terminal, TerminalArgs};
use secateurs::board::Board;
use secateurs::device;
use secateurs::graph::Dtype;
use secateurs::importance::{Criterion, Pattern};
use secateurs::kernels::available;
use secateurs::latency::Speed;
use secateurs::pipeline::{self, Event, Job, Results, Timing, Tune};
use secateurs::profile::{
    self, Connect, Device, IMPORTANCE, Mib, Millis, Optimizer, Overrides, Profile, Ratio, Strategy,
};
use secateurs::repair::Method;
use secateurs::report::{Budget, Report, Stage, Verdict};
use secateurs::session::{self, Session};
use secateurs::train::optim::Rule;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A profile, and what shall differ from it.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile; without one, this machine with the budgets of the flags
    #[arg(long, value_name = "TOML")]
    profile: Option<PathBuf>,
    /// Model file: an ultralytics .pt, safetensors, or a model file of ours [default: the profile's, else the demo]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The dataset's YAML file; `demo` or `drawn:N` for pictures that are drawn on the spot [default: the profile's, else the
    /// demo's]
    #[arg(long, value_name = "YAML")]
    data: Option<PathBuf>,
    /// Side of the square input image, pixels
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    imgsz: Option<u16>,
    /// Numbers that the network computes with on the device: int8 is fastest and a quarter of the size, f16 half of it and as
    /// good as f32
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Dtype::ALL.map(|(name, _)| name)))]
    dtype: Option<String>,
    /// Latency budget per frame, milliseconds
    #[arg(long, value_name = "X", conflicts_with = "latency_ratio", allow_negative_numbers = true)]
    latency_ms: Option<Millis>,
    /// Latency budget as a share of the baseline model's latency
    #[arg(long, value_name = "R", value_parser = Ratio::parse_above_zero, allow_negative_numbers = true)]
    latency_ratio: Option<Ratio>,
    /// Memory budget: weights, peak activations and workspace, MiB
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    memory_mib: Option<Mib>,
    /// Budget of trained values
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64),
        allow_negative_numbers = true)]
    params: Option<u64>,
    /// Budget of the model's file, MiB
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    file_mib: Option<Mib>,
    /// A class must still be found at this share of the baseline model's recall: `--floor person=0.95`; may be repeated
    #[arg(long, value_name = "CLASS=R", value_parser = floor)]
    floor: Vec<(String, Ratio)>,
    /// Passes over the training images; 0 skips training
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000_000), allow_negative_numbers = true)]
    epochs: Option<u32>,
    /// What is taken away: whole channels, or single weights, which shrinks the file but not the time
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(["structured", "unstructured", "2:4"]))]
    strategy: Option<String>,
    /// How channels are ranked
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(IMPORTANCE))]
    importance: Option<String>,
    /// Training images that show what the layers do; fewer are faster, and prune worse
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calibration_images: Option<u32>,
    /// Leave out images that cannot be read, and say how many, instead of ending at the first
    #[arg(long)]
    skip_bad_images: bool,
    /// Threads of the network on the device
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of everything random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64),
        allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Folder of the results [default: dist/<target>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The inference binary built for the profile's device, to time networks there (`cargo xtask prune` gives it)
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Folder where measurements are kept for the next run [default: .cache in the folder of the results]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Train on a CUDA device
    #[arg(long)]
    cuda: bool,
    /// Fail (exit code 7) where latency cannot be measured on the device itself, instead of claiming nothing about it
    #[arg(long)]
    require_device: bool,
    /// Check everything and print what would be done
    #[arg(long)]
    dry_run: bool,
    /// The caller has locked the folder of the results, and judges with `finish`
    #[arg(long, hide = true)]
    first_stage: bool,
    #[command(flatten)]
    pub terminal: TerminalArgs,
}

/// The profile of a file, or the default one.
pub fn load(path: Option<&Path>) -> Result<Profile, Failure> {
    path.map_or(Ok(Profile::default()), |path| Ok(profile::read(path)?))
}

/// Reads `CLASS=R`; names may have any character.
fn floor(text: &str) -> Result<(String, Ratio), String> {
    let (name, share) = text.rsplit_once('=').ok_or("expected CLASS=R, such as person=0.95")?;
    let share = share.parse().and_then(|share: Ratio| Ratio::above_zero(share.get()));
    Ok((name.to_owned(), share.map_err(|e| e.to_string())?))
}

impl Args {
    /// What was asked for: the profile, and the flags in place of its values.
    fn resolve(&self) -> Result<Profile, Failure> {
        let overrides = Overrides {
            model: self.model.clone(),
            data: self.data.clone(),
            imgsz: self.imgsz.map(usize::from),
            dtype: self.dtype.as_deref().and_then(Dtype::from_name),
            latency: self.latency_ms,
            latency_ratio: self.latency_ratio,
            memory: self.memory_mib,
            params: self.params.map(|n| n as usize),
            file: self.file_mib,
            floors: self.floor.clone(),
            epochs: self.epochs.map(|n| n as usize),
            strategy: self.strategy.as_deref().and_then(Strategy::from_name),
            importance: self.importance.clone(),
            threads: self.threads.map(usize::from),
            calibration_images: self.calibration_images.map(|n| n as usize),
            seed: self.seed,
        };
        let profile = overrides.apply(load(self.profile.as_deref())?);
        refuse_contradictions(&profile)?;
        Ok(profile)
    }
}

/// Runs it.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut profile = args.resolve()?;
    let out = args.out.clone().unwrap_or_else(|| Path::new("dist").join(&profile.device.name));
    let mut terminal = Terminal::new(args.terminal);
    if args.dry_run {
        return dry_run(&args, &profile, &out, &mut terminal);
    }
    let results = Results::open(&out, args.first_stage)?;
    let timing = timing(&profile, &args, &mut terminal)?;
    profile.device.threads = threads(&profile, &timing, &mut terminal);
    let cache = Cache::open(&args.cache.clone().unwrap_or_else(|| out.join(".cache")), &mut terminal)?;
    let (threads, skip_bad_images) = (threads(&profile, &timing, &mut terminal), args.skip_bad_images);
    let job = Job { cuda: args.cuda, skip_bad_images, timing, threads, ..job(&profile, &out, &cache.folder) };
    let verdict = execute(&job, &profile, &results, args.first_stage, &mut terminal)?;
    if args.first_stage { Ok(()) } else { judge(&verdict, args.require_device) }
}

/// Checks all that can be without doing any of it, and tells what would be done.
fn dry_run(args: &Args, profile: &Profile, out: &Path, terminal: &mut Terminal) -> Result<(), Failure> {
    let results = Results::look(out)?;
    let timing = match args.binary {
        // `cargo xtask prune` builds it only for a run that is one.
        None if profile.connect != Connect::Local && profile.bench.command.is_none() => {
            let runner = device::runner(profile)?;
            if runner.emulates() { timing(profile, args, terminal)? } else { runner.reach().map(|()| Timing::Here)? }
        }
        _ => timing(profile, args, terminal)?,
    };
    // Drawn pictures of the demo, for as long as they are looked at.
    let scratch = scratch()?;
    let job = Job { skip_bad_images: args.skip_bad_images, timing, ..job(profile, out, scratch.path()) };
    pipeline::check(&job, &results, &RefCell::new(listener(terminal)))?;
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
    if profile.model.path.is_some() && profile.data.is_none() {
        return Err(Failure::Usage("a model without data: name its dataset with --data data.yaml".into()));
    }
    if !profile.model.dtype.is_f32() && (profile.device.cuda.is_some() || profile.bench.command.is_some()) {
        let with = if profile.device.cuda.is_some() { "a GPU" } else { "a benchmark command" };
        return Err(Failure::Usage(format!(
            "dtype {} is for our runtime on a processor, and the profile has {with}",
            profile.model.dtype.name()
        )));
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

/// Where networks are timed while plans are made: on the device, or nowhere where it is only simulated.
fn timing(profile: &Profile, args: &Args, terminal: &mut Terminal) -> Result<Timing, Failure> {
    if let Some(command) = &profile.bench.command {
        // Only the proportions of layers come from these figures; those of a small core serve where there are none.
        let gflops = profile.device.core_gflops.unwrap_or(8.0) * profile.device.threads as f64;
        let bandwidth = profile.device.bandwidth.unwrap_or(8.0);
        return Ok(Timing::Command(command.clone(), Speed { gflops, bandwidth }));
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
    if args.require_device {
        return Err(no_device(&why));
    }
    let Device { core_gflops: Some(gflops), bandwidth: Some(bandwidth), threads, .. } = profile.device else {
        let problem = format!(
            "no times can be had of {} ({why}): give [device] core-gflops and bandwidth-gb-s for an estimate, or a \
             [connect] that reaches it",
            profile.device.name
        );
        return Err(Failure::Usage(problem));
    };
    terminal
        .note(&format!("{}: {why}; latency is estimated from the profile, and none is claimed", profile.device.name));
    Ok(Timing::Estimate(Speed { gflops: gflops * threads as f64, bandwidth }))
}

/// Why nothing can be claimed about the device, where that was asked for.
fn no_device(why: &str) -> Failure {
    Failure::Device(format!("--require-device: latency cannot be measured on the device ({why})"))
}

/// Threads of the network: the profile's, at most one for each processor of the device where networks are timed.
fn threads(profile: &Profile, timing: &Timing, terminal: &mut Terminal) -> usize {
    let asked = profile.device.threads;
    let threads = match timing {
        Timing::Here => asked.min(available()),
        Timing::Device(session) => session.threads(),
        _ => asked,
    };
    if threads < asked {
        terminal
            .note(&format!("{asked} threads asked for, but the device has {threads} processors: {threads} are used"));
    }
    threads
}

/// What the job will do, in order.
fn steps(profile: &Profile, out: &Path) -> Vec<String> {
    let or = |path: &Option<PathBuf>, other: &str| path.as_ref().map_or(other.to_owned(), |p| p.display().to_string());
    let (budget, search, tune) = (&profile.budget, &profile.search, &profile.finetune);
    let budgets = [
        budget.latency.map(|ms| format!("p{} within {ms}", budget.percentile)),
        budget.latency_ratio.map(|ratio| format!("{ratio} the baseline latency")),
        budget.memory.map(|mib| format!("{mib} of memory")),
        budget.params.map(|params| format!("{params} parameters")),
        budget.file.map(|mib| format!("a file of {mib}")),
    ];
    let size = profile.model.imgsz.map_or("its own size".to_owned(), |side| format!("{side} px"));
    let teacher = if tune.distill > 0.0 { ", the baseline model as teacher" } else { "" };
    let mut steps = vec![
        format!("import {} for images of {size}", or(&profile.model.path, "the embedded demo")),
        format!("read {}", or(&profile.data, "the embedded drawn set")),
        format!("rank the channels ({}, {} images)", search.importance, search.calibration_images),
        format!("measure the latency of every layer, {} thread(s)", profile.device.threads),
        format!(
            "search widths in steps of {} (at least {} stay): {}",
            search.grid,
            search.min_keep,
            budgets.into_iter().flatten().collect::<Vec<_>>().join(", ")
        ),
        "cut, and repair by least squares".to_owned(),
    ];
    if profile.model.sizes.len() > 1 {
        let sizes: Vec<String> = profile.model.sizes.iter().map(usize::to_string).collect();
        steps.insert(2, format!("do steps 3 to 6 at {} px and keep the size that finds most", sizes.join(", ")));
    }
    if tune.epochs > 0 {
        steps.push(format!("train {} epochs, batches of {}{teacher}", tune.epochs, tune.batch));
    }
    match profile.model.dtype {
        Dtype::F32 => {}
        Dtype::F16 => steps.push("round the weights of the layers to half precision".to_owned()),
        Dtype::Int8 => steps.push("round weights and inputs of the layers to 8-bit whole numbers".to_owned()),
    }
    steps.push("evaluate the baseline, the cut, the repaired and the tuned model".to_owned());
    steps.push(format!("measure baseline and pruned model in turn, {} frames each", profile.bench.runs));
    steps.push(format!("write model, plan, reports and manifest to {}", out.display()));
    steps
}

/// Passes on what happens.
fn listener(terminal: &mut Terminal) -> impl FnMut(Event) {
    |event: Event| match event {
        Event::Stage(verb, what) => terminal.stage(verb, &what),
        Event::Progress(done, all) => terminal.progress(done, all),
        Event::Message(text) => terminal.note(&text),
    }
}

/// Does the job, and gives its verdict.
fn execute(
    job: &Job,
    profile: &Profile,
    results: &Results,
    first_stage: bool,
    terminal: &mut Terminal,
) -> Result<Verdict, Failure> {
    let out = results.folder();
    let done = pipeline::run(job, results, &RefCell::new(listener(terminal)))?;
    pipeline::write(results, profile, &done)?;
    terminal.stage("Writing", &out.display().to_string());
    // One table of figures a run: the caller of a first stage measures again, with the binary that ships.
    let text = if first_stage { String::new() } else { summary(&done.report) };
    let value = serde_json::json!({ "reason": "pruned", "out": out.to_string_lossy(), "report": done.report });
    terminal.result(&text, value);
    Ok(done.report.verdict)
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
    match &verdict.simulated {
        Some(why) if require_device => Err(no_device(why)),
        _ => Ok(()),
    }
}

/// The job of a profile.
pub fn job(profile: &Profile, out: &Path, cache: &Path) -> Job {
    let (budget, search, tune) = (&profile.budget, &profile.search, &profile.finetune);
    Job {
        target: profile.device.name.clone(),
        model: profile.model.path.clone(),
        data: profile.data.clone(),
        imgsz: profile.model.imgsz,
        sizes: profile.model.sizes.clone(),
        dtype: profile.model.dtype,
        threads: profile.device.threads,
        budget: Budget {
            latency_ms: budget.latency.map(Millis::get),
            latency_ratio: budget.latency_ratio.map(Ratio::get),
            percentile: budget.percentile,
            memory_mib: budget.memory.map(Mib::get),
            params: budget.params,
            file_mib: budget.file.map(Mib::get),
            min_map: budget.min_map.map(Ratio::get),
            max_map_drop: budget.max_map_drop.map(Ratio::get),
        },
        floors: budget.floors.iter().map(|(name, share)| (name.clone(), share.get())).collect(),
        pattern: match search.strategy {
            Strategy::Structured => None,
            Strategy::Unstructured => Some(Pattern::Unstructured(search.sparsity.get())),
            Strategy::TwoOfFour => Some(Pattern::TwoOfFour),
        },
        grid: search.grid,
        min_keep: search.min_keep.get(),
        criterion: Criterion::from_name(&search.importance).unwrap_or_default(),
        calibration_images: search.calibration_images,
        skip_bad_images: false,
        seed: search.seed,
        repair: Method::LeastSquares,
        tune: Tune {
            epochs: tune.epochs,
            batch: tune.batch,
            lr: tune.lr,
            rule: match tune.optimizer {
                Optimizer::Adamw => Rule::ADAM_W,
                Optimizer::Sgd => Rule::Sgd { momentum: 0.937, nesterov: true },
            },
            distill: tune.distill,
            sparsity: tune.sparsity,
            control: tune.control,
        },
        warmup: profile.bench.warmup,
        runs: profile.bench.runs,
        timing: Timing::Here,
        cuda: false,
        out: out.to_path_buf(),
        cache: cache.to_path_buf(),
    }
}

/// The verdict in a few lines.
pub fn summary(report: &Report) -> String {
    let mib = |stage: &Stage| stage.peak_memory_bytes as f64 / f64::from(1 << 20);
    let (baseline, last) = (&report.baseline, report.last());
    let mut lines = Vec::new();
    if let (Some(a), Some(b)) = (&baseline.latency, &last.latency) {
        let row = |name: &str, a: f64, b: f64| format!("  {name:<12}{a:>10.2} -> {b:.2} ms ({:.3}x)", b / a);
        lines.extend([row("p50", a.p50_ms, b.p50_ms), row("p95", a.p95_ms, b.p95_ms), row("p99", a.p99_ms, b.p99_ms)]);
    }
    lines.push(format!("  {:<12}{:>10.2} -> {:.2} MiB", "peak memory", mib(baseline), mib(last)));
    lines.push(format!("  {:<12}{:>10} -> {}", "parameters", baseline.params, last.params));
    lines.push(format!(
        "  {:<12}{:>10.1} -> {:.1} million",
        "MACs",
        baseline.macs as f64 / 1e6,
        last.macs as f64 / 1e6
    ));
    let maps = report.stages().map(|(name, stage)| format!("{name} {:.4}", stage.score()));
    lines.push(format!("  {:<12}{}", baseline.score_name(), maps.collect::<Vec<_>>().join(", ")));
    lines.extend(report.controls().map(|(name, stage)| format!("  {:<12}{name} {:.4}", "  control", stage.score())));
    let gaps = report.stages().filter_map(|(name, stage)| {
        let (test, train) = stage.accuracy.zip(stage.train_accuracy)?;
        Some(format!("{name} {:+.4}", train - test))
    });
    let gaps = gaps.collect::<Vec<_>>().join(", ");
    if !gaps.is_empty() {
        lines.push(format!("  {:<12}{gaps}", "train gap"));
    }
    if let Some(gap) = report.search.gap {
        let covers = "offered widths, measured losses added up, predicted latency";
        lines.push(format!("  {:<12}{:.2} % certified gap ({covers})", "plan", 100.0 * gap));
    }
    lines.extend(report.verdict.sentences.iter().map(|sentence| format!("  {:<12}{sentence}", "budget")));
    if let Some(why) = &report.verdict.simulated {
        lines.push(format!("  {:<12}nothing was measured on the device ({why}): no latency is claimed", "note"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests;
