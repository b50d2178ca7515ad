//! Times baseline and cut networks in turn, and judges the budgets.

use super::aim::{self, Usage};
use super::floors::Floors;
use super::job::{Event, Job, Listener, Timing};
use super::{PipelineError, Source, external};
use crate::bench::{self, Distribution, Measured, PairedTimes, TableSpec};
use crate::board::Board;
use crate::engine::{Engine, Options};
use crate::latency::{self, LatencyError, LatencyTable, Networks, Sampling, Speed};
use crate::model::{self, Model};
use crate::report::{Asked, Report, Stage, Verdict};
use crate::session::{Frames, Record, Session};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Frames that a claim about the 99th percentile rests on at least.
const P99_RUNS: usize = 1000;

/// Frames that a verdict rests on, and every measurement of a plan for it.
pub fn verdict_runs(percentile: u8, runs: usize) -> usize {
    runs.max(if percentile == 99 { P99_RUNS } else { 1 })
}

/// Networks that a benchmark command of the user times for the latency table.
const COMMAND_NETWORKS: usize = 15;

/// Two networks measured in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedLatency {
    /// The baseline network.
    #[serde(rename = "uncut")]
    pub baseline: Distribution,
    /// The other one.
    #[serde(rename = "cut")]
    pub pruned: Distribution,
    /// The other one's time over the baseline one's.
    pub ratio: f64,
    /// What that is at most with 95 % confidence, where there are frames enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_bound: Option<f64>,
    /// The other one in all windows, those too that were discarded for what the machine did; none without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_windows: Option<Distribution>,
}

impl From<PairedTimes> for PairedLatency {
    /// Frames that ran in turn, the baseline network's first.
    fn from(pair: PairedTimes) -> Self {
        let (ratio, ratio_bound) = (pair.pair_ratio, pair.pair_ratio_bound);
        Self { baseline: pair.a, pruned: pair.b, ratio, ratio_bound, all_windows: None }
    }
}

impl PairedLatency {
    /// What a measurement in turn says; none if there was only one network.
    pub fn of(measured: &Measured) -> Option<Self> {
        let baseline = measured.against.as_ref()?;
        Some(Self {
            baseline: baseline.latency.clone(),
            pruned: measured.latency.clone(),
            ratio: baseline.pair_ratio,
            ratio_bound: baseline.pair_ratio_bound,
            all_windows: None,
        })
    }

    /// What a session says; none if there was only one network.
    pub fn of_record(record: &Record) -> Option<Self> {
        Some(Self { all_windows: record.all_windows.clone(), ..Self::of(&record.measured)? })
    }
}

/// Measures a model against the baseline one, alternating frame by frame, where the job says.
pub fn in_turn(
    baseline: &Model,
    other: &Model,
    source: &Source,
    job: &Job,
    runs: usize,
) -> Result<PairedLatency, PipelineError> {
    if let Timing::Device(session) = &job.timing {
        return on_device(session, baseline, other, source, job, runs);
    }
    if let Timing::Command(command, _) = &job.timing {
        return external::versus(command, baseline, other, source.imgsz, runs, &job.cache);
    }
    let engine = |model: &Model| {
        let options = Options { threads: job.threads, ..Options::default() };
        Engine::new(model, source.imgsz, source.imgsz, &options).map_err(PipelineError::stage("measurement"))
    };
    let (mut a, mut b) = (engine(baseline)?, engine(other)?);
    let input = &source.images[0];
    let found = bench::interleave(&mut a, &mut b, input, job.warmup.min(runs), runs)
        .map_err(PipelineError::stage("measurement"))?;
    Ok(found.into())
}

fn on_device(
    session: &Session,
    baseline: &Model,
    other: &Model,
    source: &Source,
    job: &Job,
    runs: usize,
) -> Result<PairedLatency, PipelineError> {
    // The baseline model is always the same file, so that it is copied to the device once.
    let path = |name: &str| job.cache.join(format!("{name}-{}.safetensors", std::process::id()));
    let (one, two) = (path("baseline"), path("cut"));
    let saved = [(baseline, &one), (other, &two)].into_iter().try_for_each(|(model, path)| model::save(model, path));
    let percentile = job.budget.latency_ms.map(|_| job.budget.percentile);
    let frames = Frames { imgsz: source.imgsz, warmup: job.warmup.min(runs), runs, phases: false, percentile };
    let record = saved.map_err(PipelineError::stage("measurement")).and_then(|()| {
        session.measure_paired(Some(&two), &one, &frames, &mut |_, _| ()).map_err(PipelineError::Session)
    });
    for path in [&one, &two] {
        let _ = std::fs::remove_file(path);
    }
    PairedLatency::of_record(&record?).ok_or_else(|| PipelineError::stage("measurement")("nothing ran in turn"))
}

/// A latency table of the job's networks, measured or estimated where the job says.
pub fn table(
    job: &Job,
    source: &Source,
    levels: &[Vec<usize>],
    sampling: &Sampling,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<LatencyTable, PipelineError> {
    let failed = PipelineError::stage("latency table");
    let model = &*source.on_device(&source.model);
    let (groups, fingerprint) = (&source.groups, fingerprint(job, source.imgsz));
    match &job.timing {
        Timing::Here => latency::measure(model, groups, levels, sampling, fingerprint, progress).map_err(failed),
        Timing::Estimate(speed) => latency::estimate(&model.graph, sampling.size, speed, &fingerprint)
            .map_err(PipelineError::stage("latency table")),
        Timing::Command(command, speed) => {
            let few = Sampling { networks: COMMAND_NETWORKS, ..sampling.clone() };
            let networks = Networks::new(model, groups, levels, &few);
            let mut frames = Vec::new();
            for network in networks.iter() {
                let network = network.map_err(PipelineError::stage("latency table"))?;
                let mut times = external::frames(command, &network, source.imgsz, &job.cache)?;
                times.sort_by(f64::total_cmp);
                frames.push(times[times.len() / 2]);
                progress(frames.len(), COMMAND_NETWORKS);
            }
            let shape = latency::estimate(&model.graph, sampling.size, speed, &fingerprint);
            Ok(networks.scale(shape.map_err(PipelineError::stage("latency table"))?, &frames))
        }
        Timing::Device(session) => {
            let networks = Networks::new(model, groups, levels, sampling);
            let graphs = networks.iter().map(|network| Ok(network?.graph)).collect::<Result<_, LatencyError>>();
            let Sampling { size, threads, rounds, seed, .. } = *sampling;
            let spec = TableSpec { size, threads, networks: graphs.map_err(failed)?, rounds, seed };
            let times = session.table(&spec, &job.cache, progress).map_err(PipelineError::Session)?;
            Ok(networks.tabulate(&times, &fingerprint))
        }
    }
}

/// How much of the latency budgets the cut model uses, measured as the verdict will measure it, and its latency as a share of
/// the baseline one's. Where nothing can be measured, `predicted` is that share, of `allowed`.
pub(super) fn usage(
    cut: &Model,
    predicted: f64,
    allowed: f64,
    source: &Source,
    job: &Job,
) -> Result<(Usage, f64), PipelineError> {
    let exact = Usage { share: predicted / allowed, noise: 0.0 };
    if let Timing::Estimate(_) = job.timing {
        return Ok((exact, predicted));
    }
    let (runs, cut) = (verdict_runs(job.budget.percentile, job.runs), source.on_device(cut));
    let mut ratio = predicted;
    let usage = aim::measured(&mut || {
        let against = in_turn(&source.model, &cut, source, job, runs)?;
        ratio = against.ratio;
        Ok::<_, PipelineError>(Usage::of(&job.budget, &against).unwrap_or(exact))
    })?;
    Ok((usage, ratio))
}

/// The last measurement of a job, on the way to the device's own: entered into the report with the verdict.
pub fn conclude(
    report: &mut Report,
    baseline: &Model,
    last: &Model,
    source: &Source,
    job: &Job,
    tell: Listener,
) -> Result<(), PipelineError> {
    if let Timing::Estimate(_) = job.timing {
        enter_simulated(report, "estimated");
        return Ok(());
    }
    let runs = verdict_runs(job.budget.percentile, job.runs);
    tell(Event::Stage("Measuring", format!("baseline and pruned, interleaved, {runs} runs each")));
    let against = in_turn(baseline, last, source, job, runs)?;
    enter(report, &against);
    Ok(())
}

/// The share of the baseline network's latency that the budgets allow: the tighter one where both are given.
/// `predicted_ms` is the baseline network's latency by the table, for where nothing can be measured.
pub fn allowed_ratio(job: &Job, source: &Source, predicted_ms: f64) -> Result<Option<f64>, PipelineError> {
    let by_millis = match job.budget.latency_ms {
        Some(limit) if matches!(job.timing, Timing::Estimate(_)) => Some(limit / predicted_ms),
        Some(limit) => Some(limit / baseline_millis(source, job)?),
        None => None,
    };
    Ok(match (job.budget.latency_ratio, by_millis) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    })
}

/// The baseline network's milliseconds as a verdict would judge them.
pub fn baseline_millis(source: &Source, job: &Job) -> Result<f64, PipelineError> {
    let percentage = job.budget.percentile;
    let runs = verdict_runs(percentage, job.runs);
    let baseline = in_turn(&source.model, &source.model, source, job, runs)?.baseline;
    Ok(bound(&baseline, percentage).unwrap_or_else(|| percentile(&baseline, percentage)))
}

/// The milliseconds of a percentile: 50, 95 or 99.
pub fn percentile(distribution: &Distribution, percentile: u8) -> f64 {
    match percentile {
        99 => distribution.p99_ms,
        95 => distribution.p95_ms,
        _ => distribution.p50_ms,
    }
}

/// Enters a measurement into the report and judges the budgets by it.
pub fn enter(report: &mut Report, against: &PairedLatency) {
    report.baseline.latency = Some(against.baseline.clone());
    report.last_mut().latency = Some(against.pruned.clone());
    report.verdict = judge(report, against);
}

/// Enters that the device was simulated: no stage has a latency, and no latency budget is judged.
pub fn enter_simulated(report: &mut Report, why: &str) {
    report.baseline.latency = None;
    report.last_mut().latency = None;
    report.verdict = judge_simulated(report, why);
}

/// Whether the budgets hold that need no clock, in words.
pub fn judge_simulated(report: &Report, why: &str) -> Verdict {
    let mut verdict = judge_rest(report);
    verdict.simulated = Some(why.into());
    if report.budget.latency_ms.is_some() || report.budget.latency_ratio.is_some() {
        verdict.sentences.insert(0, format!("latency: not measured on the device ({why}), nothing is claimed"));
    }
    verdict
}

/// Whether the budgets hold, in words. Milliseconds are judged by the bound of their percentile where there are frames
/// enough for one: the claim is about frames that were not measured, too.
pub fn judge(report: &Report, against: &PairedLatency) -> Verdict {
    let asked = &report.budget;
    let mut verdict = Verdict { latency_ratio: against.ratio, ..judge_rest(report) };
    let mut sentences = Vec::new();
    let last = report.last();
    if 4 * last.zeros > last.params {
        sentences.push(format!(
            "{:.0} % of the weights are zero: the file is {:.2}x as large, but this engine multiplies by zeros too, so the latency \
             is {:.3}x",
            100.0 * last.zeros as f64 / last.params.max(1) as f64,
            last.file_bytes as f64 / report.baseline.file_bytes.max(1) as f64,
            against.ratio
        ));
    }
    let mut check = |what: String, ok: bool| {
        verdict.latency_ok &= ok;
        sentences.push(sentence(&what, ok));
    };
    if let Some(limit) = asked.latency_ms {
        let bound = bound(&against.pruned, asked.percentile);
        let measured = bound.unwrap_or_else(|| percentile(&against.pruned, asked.percentile));
        let sure = if bound.is_some() { " with 95 % confidence" } else { "" };
        let every = against.all_windows.as_ref().map_or(String::new(), |all| {
            let ms = self::bound(all, asked.percentile).unwrap_or_else(|| percentile(all, asked.percentile));
            format!(" ({ms:.2} ms with the windows that were discarded)")
        });
        check(format!("p{} {measured:.2} ms{sure}{every} of {limit:.2} ms", asked.percentile), measured <= limit);
    }
    if let Some(limit) = asked.latency_ratio {
        check(format!("{:.3}x of {limit:.3}x latency", against.ratio), against.ratio <= limit);
    }
    verdict.sentences.splice(0..0, sentences);
    verdict
}

/// What a percentile is at most with 95 % confidence; none without frames enough.
pub(super) fn bound(distribution: &Distribution, percentile: u8) -> Option<f64> {
    match percentile {
        99 => distribution.p99_bound_ms,
        95 => distribution.p95_bound_ms,
        _ => distribution.p50_bound_ms,
    }
}

fn sentence(what: &str, ok: bool) -> String {
    format!("{what}: {}", if ok { "holds" } else { "is missed" })
}

/// Whether the budgets of memory and accuracy hold.
fn judge_rest(report: &Report) -> Verdict {
    let asked = &report.budget;
    let last: &Stage = report.last();
    let mut verdict = Verdict { latency_ok: true, memory_ok: true, accuracy_ok: true, ..Verdict::default() };
    let mut check = |slot: &mut bool, what: String, ok: bool| {
        *slot &= ok;
        verdict.sentences.push(sentence(&what, ok));
    };
    if let Some(limit) = asked.memory_mib {
        let mib = last.peak_memory_bytes as f64 / f64::from(1 << 20);
        check(&mut verdict.memory_ok, format!("{mib:.2} MiB of {limit:.2} MiB"), mib <= limit);
    }
    if let Some(limit) = asked.params {
        check(&mut verdict.memory_ok, format!("{} of {limit} parameters", last.params), last.params <= limit);
    }
    if let Some(limit) = asked.file_mib {
        let mib = last.file_bytes as f64 / f64::from(1 << 20);
        check(&mut verdict.memory_ok, format!("file of {mib:.2} MiB, {limit:.2} MiB allowed"), mib <= limit);
    }
    accuracy(asked, &report.floors, (&report.baseline, last), &mut |what, ok| {
        check(&mut verdict.accuracy_ok, what, ok);
    });
    verdict
}

/// Whether the last stage holds the budgets of accuracy. Where there is no accuracy, it holds none.
pub(super) fn accuracy(
    asked: &Asked,
    floors: &Floors,
    (baseline, last): (&Stage, &Stage),
    check: &mut dyn FnMut(String, bool),
) {
    let name = last.score_name();
    let undefined = format!("{name} is undefined, because no validation image shows a labelled object");
    if let Some(floor) = asked.min_map {
        match last.defined_score() {
            Some(score) => check(format!("{name} {score:.4}, at least {floor:.4}"), score >= floor),
            None => check(format!("{undefined}: at least {floor:.4}"), false),
        }
    }
    for (class, share) in floors {
        let of = |stage: &Stage| stage.recall.get(class).copied().filter(|recall| *recall >= 0.0);
        match (of(baseline), of(last)) {
            (Some(before), Some(after)) if before > 0.0 => {
                check(format!("recall of {class} {after:.4}, at least {share} of {before:.4}"), after >= share * before)
            }
            (Some(_), Some(_)) => check(
                format!("recall of {class}: the baseline network finds none, so a share of that says nothing"),
                false,
            ),
            _ => check(
                format!("recall of {class} is undefined, because no validation image shows one: at least {share}"),
                false,
            ),
        }
    }
    if let Some(most) = asked.max_map_drop {
        match baseline.defined_score().zip(last.defined_score()) {
            Some((before, after)) => {
                check(format!("{name} {:.4} lower, at most {most:.4}", before - after), before - after <= most);
            }
            None => check(format!("{undefined}: at most {most:.4} lower"), false),
        }
    }
}

/// The budgets in words.
pub fn describe(asked: &Asked) -> String {
    let parts = [
        asked.latency_ms.map(|ms| format!("p{} within {ms} ms", asked.percentile)),
        asked.latency_ratio.map(|r| format!("{r}x the baseline latency")),
        asked.memory_mib.map(|mib| format!("{mib} MiB")),
        asked.params.map(|params| format!("{params} parameters")),
        asked.file_mib.map(|mib| format!("a file of {mib} MiB")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no budget".into() } else { parts.join(", ") }
}

/// What measurements depend on: the machine, the threads, the image size, the numbers.
pub fn fingerprint(job: &Job, imgsz: usize) -> String {
    let threads = job.threads;
    let name = match &job.timing {
        Timing::Here => Board::read(Path::new("/")).model,
        Timing::Device(session) => session.fingerprint(),
        Timing::Command(command, _) => format!("{} by `{}`", job.target, command.join(" ")),
        Timing::Estimate(Speed { gflops, bandwidth }) => {
            format!("estimate for {} ({gflops} GFLOP/s, {bandwidth} GB/s)", job.target)
        }
    };
    let dtype = if job.dtype.is_f32() { String::new() } else { format!(", {}", job.dtype.name()) };
    format!("{name}, {threads} thread{}, {imgsz} px{dtype}", if threads == 1 { "" } else { "s" })
}
