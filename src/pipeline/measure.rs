//! Times uncut and cut networks in turn, and judges the budgets.

use super::job::Job;
use super::{PipelineError, Source};
use crate::bench::{self, Distribution};
use crate::engine::{self, Engine, Options};
use crate::model::Model;
use crate::report::{Asked, Report, Stage, Verdict};
use serde::{Deserialize, Serialize};

/// Runs of each network while plans are settled.
pub const SETTLE_RUNS: usize = 120;

/// Two networks measured in turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// The uncut network.
    pub uncut: Distribution,
    /// The other one.
    pub cut: Distribution,
    /// The other one's time over the uncut one's.
    pub ratio: f64,
}

/// Measures a model against the uncut one, alternating frame by frame.
pub fn in_turn(
    uncut: &Model,
    other: &Model,
    source: &Source,
    job: &Job,
    runs: usize,
) -> Result<Against, PipelineError> {
    let engine = |model: &Model| {
        let options = Options { threads: job.threads, ..Options::default() };
        Engine::new(model, source.imgsz, source.imgsz, &options).map_err(PipelineError::stage("measurement"))
    };
    let (mut a, mut b) = (engine(uncut)?, engine(other)?);
    let input = &source.images[0];
    let found = bench::interleave(&mut a, &mut b, input, job.warmup.min(runs), runs)
        .map_err(PipelineError::stage("measurement"))?;
    Ok(Against { uncut: found.a, cut: found.b, ratio: found.pair_ratio })
}

/// Peak memory of a model in the runtime that ships, bytes.
pub fn memory(model: &Model, source: &Source, job: &Job) -> Result<usize, PipelineError> {
    let options = Options { threads: job.threads, ..Options::default() };
    let memory = engine::plan_memory(&model.graph, source.imgsz, source.imgsz, &options);
    Ok(memory.map_err(PipelineError::stage("memory"))?.total())
}

/// The share of the uncut network's latency that the budgets allow: the tighter one where both are given.
pub fn allowed_ratio(job: &Job, source: &Source) -> Result<Option<f64>, PipelineError> {
    let by_millis = match job.budget.latency_ms {
        Some(limit) => {
            let uncut = in_turn(&source.model, &source.model, source, job, SETTLE_RUNS)?.uncut;
            Some(limit / percentile(&uncut, job.budget.percentile))
        }
        None => None,
    };
    Ok(match (job.budget.latency_ratio, by_millis) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    })
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
pub fn enter(report: &mut Report, against: &Against) {
    report.uncut.latency = Some(against.uncut.clone());
    report.last_mut().latency = Some(against.cut.clone());
    report.verdict = judge(report, against);
}

/// Whether the budgets hold, in words.
pub fn judge(report: &Report, against: &Against) -> Verdict {
    let asked = &report.budget;
    let last: &Stage = report.last();
    let mut verdict = Verdict {
        latency_ratio: against.ratio,
        latency_ok: true,
        memory_ok: true,
        accuracy_ok: true,
        sentences: vec![],
    };
    let word = |ok: bool| if ok { "holds" } else { "is missed" };
    let mut check = |slot: &mut bool, what: String, ok: bool| {
        *slot &= ok;
        verdict.sentences.push(format!("{what}: {}", word(ok)));
    };
    let measured = percentile(&against.cut, asked.percentile);
    if let Some(limit) = asked.latency_ms {
        check(
            &mut verdict.latency_ok,
            format!("p{} {measured:.2} ms of {limit:.2} ms", asked.percentile),
            measured <= limit,
        );
    }
    if let Some(limit) = asked.latency_ratio {
        check(&mut verdict.latency_ok, format!("{:.3}x of {limit:.3}x latency", against.ratio), against.ratio <= limit);
    }
    if let Some(limit) = asked.memory_mib {
        let mib = last.peak_memory_bytes as f64 / f64::from(1 << 20);
        check(&mut verdict.memory_ok, format!("{mib:.2} MiB of {limit:.2} MiB"), mib <= limit);
    }
    if let Some(floor) = asked.min_map {
        check(
            &mut verdict.accuracy_ok,
            format!("{} {:.4}, at least {floor:.4}", last.score_name(), last.score()),
            last.score() >= floor,
        );
    }
    if let Some(most) = asked.max_map_drop {
        let drop = report.uncut.score() - last.score();
        check(
            &mut verdict.accuracy_ok,
            format!("{} {drop:.4} lower, at most {most:.4}", last.score_name()),
            drop <= most,
        );
    }
    verdict
}

/// The budgets in words.
pub fn describe(asked: &Asked) -> String {
    let parts = [
        asked.latency_ms.map(|ms| format!("p{} within {ms} ms", asked.percentile)),
        asked.latency_ratio.map(|r| format!("{r}x the uncut latency")),
        asked.memory_mib.map(|mib| format!("{mib} MiB")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no budget".into() } else { parts.join(", ") }
}

/// What measurements depend on: the processor, the threads, the image size.
pub fn fingerprint(threads: usize, imgsz: usize) -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|l| l.starts_with("model name") || l.starts_with("Model"));
    let name = name.and_then(|l| l.split_once(':')).map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{name}, {threads} thread{}, {imgsz} px", if threads == 1 { "" } else { "s" })
}
