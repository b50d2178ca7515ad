//! From importance and latency to widths that hold the budgets when measured.

use super::job::{Event, Job, Listener};
use super::{Clock, PipelineError, Source, cache, measure, problem};
use crate::importance::{Curves, Evidence, MaskGradients, Ranking, Sampling, mask_gradients};
use crate::latency::LatencyTable;
use crate::report::Search;
use crate::search::{self, Budget, Infeasible, SearchError};
use crate::surgery::{self, Selection};
use crate::train::loss;
use crate::{importance, latency};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Networks whose steps are timed for the latency table, and how often each runs.
const TABLE_NETWORKS: usize = 30;
const TABLE_ROUNDS: usize = 8;

/// Shares of a group at which its loss is measured.
const DAMAGE_SHARES: [f64; 3] = [0.75, 0.5, 0.25];

/// Images the outputs are compared on for the measured losses.
const DAMAGE_IMAGES: usize = 24;

/// Images per batch while gradients are collected.
const GRADIENT_BATCH: usize = 4;

/// How often plan and measurement are brought together.
const ROUNDS: usize = 5;

/// A plan must measure below this share of the latency budget, so that noise does not tip the verdict later, and is good
/// enough when it uses the second.
const SAFE: f64 = 0.985;
const TIGHT: f64 = 0.95;

/// A plan that holds the budgets, and what it was made from.
pub struct Planned {
    /// The channels that stay.
    pub selection: Selection,
    /// The measured layers.
    pub table: LatencyTable,
    /// What the search can prove.
    pub search: Search,
}

/// Ranks, measures and searches.
///
/// # Errors
/// If no widths meet the budgets, or a stage fails.
pub fn plan(job: &Job, source: &Source, tell: Listener, clock: &mut Clock) -> Result<Planned, PipelineError> {
    let worth = worth(job, source, tell)?;
    clock.lap("importance");
    let levels: Vec<Vec<usize>> =
        source.groups.groups.iter().map(|g| problem::levels(g, job.grid, job.min_keep)).collect();
    let table = table(job, source, &levels, tell)?;
    clock.lap("latency table");
    let (selection, search) = settle(job, source, &worth, &levels, &table, tell)?;
    clock.lap("search");
    Ok(Planned { selection, table, search })
}

/// The order in which channels go, and what groups cost at smaller widths.
#[derive(Serialize, Deserialize)]
struct Worth {
    ranking: Ranking,
    curves: Curves,
}

fn worth(job: &Job, source: &Source, tell: Listener) -> Result<Worth, PipelineError> {
    let sampling = Sampling { shares: DAMAGE_SHARES.to_vec(), grid: job.grid, images: DAMAGE_IMAGES };
    let key = cache::key(&[&source.model_hash, &source.calibration_hash, &job.criterion, &job.seed, &sampling]);
    let compute = || {
        let groups = source.groups.groups.len();
        tell(Event::Stage("Ranking", format!("the channels of {groups} groups by {}", job.criterion.name())));
        let calibration = source.calibration(job);
        let grams = importance::grams(&source.model, &calibration).map_err(PipelineError::stage("importance"))?;
        let gradients = if job.criterion.needs_gradients() { Some(gradients(source, tell)?) } else { None };
        let evidence =
            Evidence { gradients: gradients.as_ref(), grams: Some((&grams, calibration.ridge)), seed: job.seed };
        let ranking = importance::rank(job.criterion, &source.model, &source.groups, evidence);
        tell(Event::Stage(
            "Weighing",
            format!("every group at {} widths over {DAMAGE_IMAGES} images", DAMAGE_SHARES.len()),
        ));
        let mut progress = |done, all| tell(Event::Progress(done, all));
        let curves = importance::measure(
            &source.model,
            &source.groups,
            &ranking,
            &grams,
            &calibration,
            &sampling,
            &mut progress,
        )
        .map_err(PipelineError::stage("importance"))?;
        Ok(Worth { ranking, curves })
    };
    Ok(cache::cached(&job.cache, "importance", &key, compute)?.0)
}

fn gradients(source: &Source, tell: Listener) -> Result<MaskGradients, PipelineError> {
    let head = &source.model.graph.head;
    let size = (source.imgsz, source.imgsz);
    let mut loss_gradient = |first: usize, outputs: &[Tensor]| -> candle_core::Result<Vec<Tensor>> {
        let images = outputs.first().map_or(Ok(0), |o| o.dim(0))?;
        let values =
            outputs.iter().map(|o| o.flatten_from(1)?.to_vec2::<f32>()).collect::<candle_core::Result<Vec<_>>>()?;
        let mut gradients: Vec<Vec<f32>> = vec![Vec::new(); outputs.len()];
        for image in 0..images {
            let mut views = Vec::new();
            for (output, values) in outputs.iter().zip(&values) {
                let (_, c, h, w) = output.dims4()?;
                views.push(loss::HeadView { data: &values[image], shape: [1, c, h, w] });
            }
            let found = match source.class(first + image) {
                Some(class) => loss::classify(views[0], &[class]).map(|loss| vec![loss.grad]),
                None => loss::detect(head, &views, &source.targets(first + image)).map(|loss| loss.grads),
            };
            let found = found.map_err(candle_core::Error::wrap)?;
            gradients.iter_mut().zip(found).for_each(|(all, one)| all.extend(one));
        }
        outputs.iter().zip(gradients).map(|(o, g)| Tensor::from_vec(g, o.shape(), o.device())).collect()
    };
    let mut progress = |done, all| tell(Event::Progress(done, all));
    mask_gradients(
        &source.model,
        &source.groups,
        &source.images,
        size,
        GRADIENT_BATCH,
        &Device::Cpu,
        &mut loss_gradient,
        &mut progress,
    )
    .map_err(PipelineError::stage("importance"))
}

fn table(job: &Job, source: &Source, levels: &[Vec<usize>], tell: Listener) -> Result<LatencyTable, PipelineError> {
    let fingerprint = measure::fingerprint(job.threads, source.imgsz);
    tell(Event::Stage("Timing", format!("{TABLE_NETWORKS} networks on {fingerprint}")));
    let sampling = latency::Sampling {
        size: (source.imgsz, source.imgsz),
        threads: job.threads,
        networks: TABLE_NETWORKS,
        rounds: TABLE_ROUNDS,
        seed: job.seed,
    };
    let key = cache::key(&[&source.model.graph, &levels, &fingerprint, &sampling]);
    let compute = || {
        let mut progress = |done, all| tell(Event::Progress(done, all));
        latency::measure(&source.model, &source.groups, levels, &sampling, fingerprint.clone(), &mut progress)
            .map_err(PipelineError::stage("latency table"))
    };
    let (table, kept) = cache::cached(&job.cache, "latency", &key, compute)?;
    let worst = table.held_out_errors.last().copied().unwrap_or(0.0);
    let from = if kept { " (kept from an earlier run)" } else { "" };
    tell(Event::Note(format!("unseen networks are predicted within {:.1} %{from}", 100.0 * worst)));
    Ok(table)
}

/// Searches, measures what was found against the uncut network in turn, and corrects the search's budget until the
/// measured figures hold and use most of what is allowed.
fn settle(
    job: &Job,
    source: &Source,
    worth: &Worth,
    levels: &[Vec<usize>],
    table: &LatencyTable,
    tell: Listener,
) -> Result<(Selection, Search), PipelineError> {
    let graph = &source.model.graph;
    let full: Vec<usize> = source.groups.groups.iter().map(|g| g.width()).collect();
    let uncut_ms = table.predict(graph, &source.groups, &full);
    let ratio = measure::allowed_ratio(job, source)?;
    let memory = job.budget.memory_mib.map(|mib| mib * f64::from(1 << 20));
    tell(Event::Stage("Searching", measure::describe(&job.budget)));
    let (mut latency_ms, mut memory_bytes) = (ratio.map(|r| r * uncut_ms), memory);
    let mut best: Option<(Selection, Search)> = None;
    let mut closest: Option<(f64, Selection, Search)> = None;
    for round in 1..=ROUNDS {
        let budget = Budget { latency_ms, memory_bytes };
        let problem =
            problem::problem(graph, &source.groups, levels, &worth.curves, table, (source.imgsz, source.imgsz), budget);
        let problem = problem.map_err(PipelineError::stage("search"))?;
        let found = match search::solve(&problem, &search::Options::default(), &mut |_| {}) {
            Ok(found) => found,
            // A corrected budget may be out of reach although an earlier plan held.
            Err(_) if best.is_some() => break,
            Err(SearchError::Infeasible(why)) => {
                return Err(PipelineError::Infeasible(explain(&why, uncut_ms, job, source)));
            }
            Err(problem) => return Err(PipelineError::stage("search")(problem)),
        };
        let widths: Vec<usize> = found.levels.iter().zip(levels).map(|(level, widths)| widths[*level]).collect();
        let search = Search {
            loss: found.loss,
            lower_bound: found.lower_bound,
            gap: found.gap,
            predicted_ms: found.latency_ms,
            rounds: round,
        };
        let selection = worth.ranking.select(&widths);
        let cut = surgery::cut(&source.model, &source.groups, &selection).map_err(PipelineError::stage("surgery"))?;
        let bytes = measure::memory(&cut, source, job)? as f64;
        let measured = match ratio {
            Some(_) => Some(measure::in_turn(&source.model, &cut, source, job, measure::SETTLE_RUNS)?.ratio),
            None => None,
        };
        let holds =
            memory.is_none_or(|limit| bytes <= limit) && measured.zip(ratio).is_none_or(|(is, may)| is <= SAFE * may);
        tell(Event::Note(format!(
            "plan {round}: {}{:.1} MiB, gap {:.2} %{}",
            measured.map(|m| format!("{m:.3}x measured latency, ")).unwrap_or_default(),
            bytes / f64::from(1 << 20),
            100.0 * search.gap,
            if holds { "" } else { ", over the budget" },
        )));
        let slack = measured.zip(ratio).map(|(is, may)| is / may);
        let excess = slack.unwrap_or(0.0).max(memory.map_or(0.0, |limit| bytes / limit));
        if holds && best.as_ref().is_none_or(|(_, known)| search.loss < known.loss) {
            best = Some((selection, search));
        } else if closest.as_ref().is_none_or(|(least, ..)| excess < *least) {
            closest = Some((excess, selection, search));
        }
        if holds && slack.is_none_or(|s| s >= TIGHT) {
            break;
        }
        // Aim between the two.
        latency_ms = latency_ms.zip(slack).map(|(ms, slack)| ms * (SAFE + TIGHT) / 2.0 / slack);
        memory_bytes =
            memory.zip(memory_bytes).map(|(limit, now)| if bytes > limit { now - (bytes - limit) * 1.05 } else { now });
    }
    // On a noisy machine the closest plan goes on, and the final measurement judges it.
    best.or(closest.map(|(_, selection, search)| (selection, search)))
        .ok_or_else(|| PipelineError::Infeasible(format!("no widths meet {}", measure::describe(&job.budget))))
}

/// What can least be reached, and what would do, in the user's units.
fn explain(why: &Infeasible, uncut_ms: f64, job: &Job, source: &Source) -> String {
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let mut text = format!("no widths meet {}", measure::describe(&job.budget));
    if let Some(least) = &why.least_latency {
        text += &format!("; the least latency is {:.3}x of the uncut model's", least.evaluation.latency_ms / uncut_ms);
    }
    if let Some(least) = &why.least_memory {
        text += &format!("; the least memory is {:.2} MiB", mib(least.evaluation.memory_bytes));
    }
    for way in &why.relaxations {
        let parts = [
            way.latency_ms.map(|ms| format!("--latency-ratio {:.3}", (ms / uncut_ms * 1000.0).ceil() / 1000.0)),
            way.memory_bytes.map(|bytes| format!("--memory-mib {:.2}", (mib(bytes) * 100.0).ceil() / 100.0)),
        ];
        text += &format!("; {} would do", parts.into_iter().flatten().collect::<Vec<_>>().join(" with "));
    }
    let smaller = source.imgsz.saturating_sub(source.model.graph.stride());
    if smaller > 0 {
        text +=
            &format!("; a smaller image (--imgsz {smaller}) or a lower min-keep than {} may do as well", job.min_keep);
    }
    text
}
