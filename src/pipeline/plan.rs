//! From importance and latency to widths that hold the budgets when measured.

use super::job::{Event, Job, Listener, Timing};
use super::{Clock, PipelineError, Source, cache, conditions, measure, problem, refine};
use crate::importance::{
    Activations, Covariances, Criterion, LossCurves, MaskGradients, Pattern, Ranking, Sampling, Statistics,
    mask_gradients,
};
use crate::latency::LatencyTable;
use crate::model::Model;
use crate::report::{FrontPoint, Search};
use crate::surgery::Selection;
use crate::train::loss;
use crate::{importance, latency};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Networks whose steps are timed for the latency table, and how often each runs.
const TABLE_NETWORKS: usize = 30;
const TABLE_ROUNDS: usize = 8;

/// Shares of a group at which its loss is measured.
const DAMAGE_SHARES: [f64; 4] = [0.75, 0.5, 0.25, 0.125];

/// Images the outputs are compared on for the measured losses.
const DAMAGE_IMAGES: usize = 24;

/// Images per batch while gradients are collected.
const GRADIENT_BATCH: usize = 4;

/// A plan that holds the budgets, and what it was made from.
pub struct Planned {
    /// The channels that stay.
    pub selection: Selection,
    /// The measured layers.
    pub table: LatencyTable,
    /// What the search can prove.
    pub search: Search,
    /// What it finds at other latencies.
    pub front: Vec<FrontPoint>,
}

impl Planned {
    /// Every channel stays, nothing was searched.
    pub(super) fn whole(job: &Job, source: &Source) -> Self {
        Self {
            selection: Selection::all(&source.groups),
            table: LatencyTable {
                fingerprint: measure::fingerprint(job, source.imgsz),
                layers: vec![None; source.model.graph.nodes.len()],
                frame_factor: 1.0,
                held_out_errors: Vec::new(),
            },
            search: Search::default(),
            front: Vec::new(),
        }
    }
}

/// The model with zeros in place of the weights that cost least.
pub(super) fn sparse(job: &Job, pattern: Pattern, source: &Source, tell: Listener) -> Result<Model, PipelineError> {
    tell(Event::Stage("Weighing", format!("single weights, {pattern:?}")));
    let covariances =
        importance::covariances(&source.model, &source.calibration(job)).map_err(PipelineError::stage("importance"))?;
    Ok(importance::sparsify(&source.model, &covariances, Some(&source.sensitivity), pattern))
}

/// Ranks, measures and searches.
///
/// # Errors
/// If no widths meet the budgets, or a stage fails.
pub fn plan(job: &Job, source: &Source, tell: Listener, clock: &mut Clock) -> Result<Planned, PipelineError> {
    let sensitivity = sensitivity(job, job.criterion, source, tell)?;
    clock.lap("importance");
    let levels = levels(job, source);
    let table = table(job, source, &levels, tell)?;
    clock.lap("latency table");
    let (selection, search) = refine::refine(job, source, &sensitivity, &levels, &table, tell)?;
    let front = refine::front(source, &sensitivity, &levels, &table)?;
    clock.lap("search");
    Ok(Planned { selection, table, search, front })
}

/// The widths that every group may have.
pub(super) fn levels(job: &Job, source: &Source) -> Vec<Vec<usize>> {
    source.groups.groups.iter().map(|g| problem::levels(g, job.grid, job.min_keep)).collect()
}

/// The order in which channels go, and what groups cost at smaller widths.
#[derive(Serialize, Deserialize)]
pub(super) struct GroupSensitivity {
    pub ranking: Ranking,
    pub curves: LossCurves,
}

/// Ranks by a criterion, and measures what its order costs; kept for the next run.
pub(super) fn sensitivity(
    job: &Job,
    criterion: Criterion,
    source: &Source,
    tell: Listener,
) -> Result<GroupSensitivity, PipelineError> {
    let sampling = Sampling { shares: DAMAGE_SHARES.to_vec(), grid: job.grid, images: DAMAGE_IMAGES };
    let key = source.importance_key(job, criterion, &sampling);
    let check = |sensitivity: &GroupSensitivity| {
        sensitivity.ranking.check(&source.groups)?;
        sensitivity.curves.check(&source.groups, &sampling)
    };
    let compute = |tell: Listener| {
        let calibration = source.calibration(job);
        let found = Gathered::gather(job, criterion, source, tell)?;
        let ranking = importance::rank(criterion, &source.model, &source.groups, &found.statistics(job, source))
            .map_err(missing)?;
        // The losses are measured after refitting, whatever ranked the channels.
        let covariances = match found.covariances {
            Some(covariances) => covariances,
            None => importance::covariances(&source.model, &calibration).map_err(PipelineError::stage("importance"))?,
        };
        tell(Event::Stage(
            "Weighing",
            format!("every group at {} widths over {DAMAGE_IMAGES} images", DAMAGE_SHARES.len()),
        ));
        let mut progress = |done, all| tell(Event::Progress(done, all));
        let curves = importance::measure(
            &source.model,
            &source.groups,
            &ranking,
            &covariances,
            &calibration,
            &sampling,
            &mut progress,
        )
        .map_err(PipelineError::stage("importance"))?;
        Ok(GroupSensitivity { ranking, curves })
    };
    let entry = cache::Entry { folder: &job.cache, kind: "importance", key: &key };
    Ok(cache::cached(entry, check, tell, compute)?.0)
}

/// A network that a criterion says nothing about is the user's to rank otherwise.
pub(super) fn missing(missing: importance::Missing) -> PipelineError {
    PipelineError::Input(missing.to_string())
}

/// What a criterion reads besides weights.
pub(super) struct Gathered {
    gradients: Option<MaskGradients>,
    activations: Option<Activations>,
    covariances: Option<Covariances>,
}

impl Gathered {
    /// Runs the network as the criterion needs it.
    pub fn gather(job: &Job, criterion: Criterion, source: &Source, tell: Listener) -> Result<Self, PipelineError> {
        let groups = source.groups.groups.len();
        tell(Event::Stage("Ranking", format!("the channels of {groups} groups by {}", criterion.name())));
        let activations = match criterion {
            Criterion::Activation => Some(
                importance::activations(&source.model, &source.calibration(job))
                    .map_err(PipelineError::stage("importance"))?,
            ),
            _ => None,
        };
        let gradients = if criterion.needs_gradients() { Some(gradients(source, tell)?) } else { None };
        let covariances = match criterion.needs_moments() {
            true => Some(
                importance::covariances(&source.model, &source.calibration(job))
                    .map_err(PipelineError::stage("importance"))?,
            ),
            false => None,
        };
        Ok(Self { gradients, activations, covariances })
    }

    /// As the criteria take it.
    pub fn statistics<'a>(&'a self, job: &Job, source: &'a Source) -> Statistics<'a> {
        Statistics {
            gradients: self.gradients.clone(),
            covariances: self.covariances.clone().map(|covariances| (covariances, source.calibration(job).ridge)),
            sensitivity: Some(&source.sensitivity),
            activations: self.activations.clone(),
            seed: job.seed,
        }
    }
}

fn gradients(source: &Source, tell: Listener) -> Result<MaskGradients, PipelineError> {
    let head = &source.model.graph.head;
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
    let images = importance::Batches {
        images: &source.images,
        height: source.imgsz,
        width: source.imgsz,
        batch: GRADIENT_BATCH,
        device: &Device::Cpu,
    };
    mask_gradients(&source.model, &source.groups, &images, &mut loss_gradient, &mut progress)
        .map_err(PipelineError::stage("importance"))
}

fn table_sampling(job: &Job, source: &Source) -> latency::Sampling {
    latency::Sampling {
        size: (source.imgsz, source.imgsz),
        threads: job.threads,
        networks: TABLE_NETWORKS,
        rounds: TABLE_ROUNDS,
        seed: job.seed,
    }
}

/// The key of all that a latency table depends on. Weights are not among it: they do not change times.
pub(super) fn table_key(job: &Job, source: &Source, levels: &[Vec<usize>]) -> String {
    let fingerprint = measure::fingerprint(job, source.imgsz);
    let (conditions, sampling) = (conditions::conditions(job), table_sampling(job, source));
    cache::key(&[&source.model.graph, &levels, &fingerprint, &conditions, &sampling])
}

pub(super) fn table(
    job: &Job,
    source: &Source,
    levels: &[Vec<usize>],
    tell: Listener,
) -> Result<LatencyTable, PipelineError> {
    let fingerprint = measure::fingerprint(job, source.imgsz);
    let key = table_key(job, source, levels);
    match job.timing {
        Timing::Estimate(_) => tell(Event::Stage("Estimating", format!("every layer: {fingerprint}"))),
        _ => tell(Event::Stage("Timing", format!("{TABLE_NETWORKS} networks on {fingerprint}"))),
    }
    let sampling = table_sampling(job, source);
    // Layers that are there are timed; those that vanish take no time.
    let levels: Vec<Vec<usize>> =
        levels.iter().map(|widths| widths.iter().copied().filter(|w| *w > 0).collect()).collect();
    let check = |table: &LatencyTable| table.check(&source.model.graph, &source.groups, &fingerprint);
    let compute = |tell: Listener| {
        let mut progress = |done, all| tell(Event::Progress(done, all));
        measure::table(job, source, &levels, &sampling, &mut progress)
    };
    let entry = cache::Entry { folder: &job.cache, kind: "latency", key: &key };
    let (table, kept) = cache::cached(entry, check, tell, compute)?;
    let worst = table.held_out_errors.last().copied().unwrap_or(0.0);
    let from = if kept { " (kept from an earlier run)" } else { "" };
    if !table.held_out_errors.is_empty() {
        tell(Event::Note(format!("unseen networks are predicted within {:.1} %{from}", 100.0 * worst)));
    }
    Ok(table)
}
