//! The whole job, from a model, a dataset and budgets to a smaller model and the figures that prove it.
//!
//! 1. Gather: model, dataset, groups; everything that can be refused is refused here.
//! 2. Rank the channels, and measure what every group costs in loss.
//! 3. Measure the latency of every layer over its widths.
//! 4. Search the widths under the budgets; cut, measure the cut network against the baseline one in turn, and
//!    correct the search until plan and measurement agree.
//! 5. Repair, then tune, then round where numbers of fewer bits are asked for.
//! 6. Evaluate every stage, and the baseline model under the same treatment; write it all down.
//!
//! The stages are pure functions of lower floors; this room only connects them, caches, and tells.

mod advice;
mod aim;
mod allocate;
mod cache;
mod check;
mod compare;
mod conditions;
pub mod external;
mod floors;
mod job;
mod judge;
mod measure;
mod photos;
mod plan;
mod problem;
mod refine;
mod results;
mod sizes;
mod source;
#[cfg(test)]
mod tests;
mod write;

pub use cache::sha256;
pub use check::{check, has_room};
pub use compare::{Scheme, compare};
pub use floors::Floors;
pub use job::{Event, Job, Listener, Timing, Tune};
pub use judge::Judge;
pub use measure::{PairedLatency, judge, judge_simulated, verdict_runs};
pub use plan::{Planned, plan};
pub use problem::levels;
pub use results::{Lock, Results, room};
pub use source::{DEMO_MODEL, Source, drawn};
pub use write::{Bundle, Evidence, Outcome, PlanFile, write};

use crate::graph::Graph;
use crate::model::{self, Model};
use crate::report::{GroupWidths, LayerTimes, MemoryStep, Report};
use crate::session::SessionError;
use crate::surgery::Selection;
use crate::{backend, eval, repair, surgery, train};
use std::collections::BTreeMap;
use std::time::Instant;
use thiserror::Error;

/// A job that could not be finished.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// Something that the user gave cannot be used.
    #[error("{0}")]
    Input(String),
    /// A setting makes no sense with what it is for.
    #[error("{0}")]
    Setting(String),
    /// No widths meet the budgets.
    #[error("{0}")]
    Infeasible(String),
    /// The device could not be measured.
    #[error("{0}")]
    Session(#[source] SessionError),
    /// This machine failed: its disk is full, or it may not write there.
    #[error("{0}")]
    Machine(String),
    /// A stage failed for a reason of its own.
    #[error("{stage}: {problem}")]
    Stage {
        /// Which stage.
        stage: &'static str,
        /// Why.
        problem: String,
    },
}

impl PipelineError {
    fn stage<E: std::fmt::Display>(stage: &'static str) -> impl Fn(E) -> Self {
        move |e| Self::Stage { stage, problem: e.to_string() }
    }

    /// Of a file or folder that could not be written: the name is wrong, or the machine failed.
    pub fn writing(path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound};
        let text = format!("{}: {error}", path.display());
        match error.kind() {
            AlreadyExists | InvalidFilename | InvalidInput | IsADirectory | NotADirectory | NotFound => {
                Self::Input(text)
            }
            _ => Self::Machine(text),
        }
    }
}

/// What a job leaves in memory, ready to be written.
pub struct Done {
    /// The final model.
    pub model: Model,
    /// The model it was made from.
    pub baseline: Model,
    /// The channels that stayed.
    pub selection: Selection,
    /// The figures.
    pub report: Report,
}

/// An image or annotations that cannot be used are the user's; a network that does not run is ours.
fn evaluation(error: eval::EvalError) -> PipelineError {
    match error {
        eval::EvalError::Engine(_) => PipelineError::stage("evaluation")(error),
        _ => PipelineError::Input(error.to_string()),
    }
}

/// Runs a job. Nothing is written but the cache and training checkpoints; that `results` can be is found out first.
///
/// # Errors
/// If an input cannot be used, no plan meets the budgets, or a stage fails.
pub fn run(job: &Job, results: &Results, tell: Listener) -> Result<Done, PipelineError> {
    let mut clock = Clock::default();
    let mut source = Source::open(job, tell)?;
    check::inputs(&source, job, tell)?;
    check::outputs(&source, job, results)?;
    let chosen;
    let job = if job.sizes.len() > 1 && job.pattern.is_none() {
        chosen = sizes::choose(job, tell)?;
        clock.lap("image size");
        source = Source::open(&chosen, tell)?;
        &chosen
    } else {
        job
    };
    let source = source.prepare(job, tell)?;
    clock.lap("gather");
    let (planned, sparse) = match job.pattern {
        None => (plan(job, &source, tell, &mut clock)?, None),
        Some(pattern) => {
            let sparse = plan::sparse(job, pattern, &source, tell)?;
            clock.lap("importance");
            (Planned::whole(job, &source), Some(sparse))
        }
    };
    let model = &source.model;

    let (cut, method) = match sparse {
        Some(sparse) => (sparse, repair::Method::Sparse),
        None => {
            let all = kept(&Selection::all(&source.groups));
            tell(Event::Stage("Cutting", format!("{} of {all} channels stay", kept(&planned.selection))));
            let cut = surgery::cut(model, &source.groups, &planned.selection);
            (cut.map_err(PipelineError::stage("surgery"))?, job.repair)
        }
    };
    let calibration = source.calibration(job);
    tell(Event::Stage("Repairing", format!("{method:?} over {} images", calibration.images.len())));
    let mend = |selection: &Selection, cut: &Model, method, tell: Listener| {
        repair::repair(model, &source.groups, selection, cut, method, &calibration, &mut |done, all| {
            tell(Event::Progress(done, all));
        })
        .map_err(PipelineError::stage("repair"))
    };
    let repaired = mend(&planned.selection, &cut, method, tell)?;
    let control = mend(&Selection::all(&source.groups), model, job.repair, tell)?;
    clock.lap("repair");

    let mut controls = vec![("uncut + repair".to_owned(), control)];
    let mut tuned = None;
    if job.tune.epochs > 0 {
        tuned = Some(tune(job, &source, &repaired, "tuned", tell)?);
        clock.lap("tune");
        if job.tune.control {
            controls.push(("uncut + tuning".to_owned(), tune(job, &source, model, "control", tell)?));
            clock.lap("tune control");
        }
    }

    let rounded = source.rounded(tuned.as_ref().unwrap_or(&repaired))?;
    if rounded.is_some() {
        controls.push((format!("uncut + {}", job.dtype.name()), source.on_device(model).into_owned()));
        clock.lap("round");
    }

    tell(Event::Stage("Evaluating", format!("{} images", source.val.items.len())));
    let judge = Judge::new(&source, job)?;
    let evaluate = |model: &Model| judge.stage(model);
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION").into(),
        target: job.target.clone(),
        device: planned.table.fingerprint.clone(),
        imgsz: source.imgsz,
        threads: job.threads,
        seed: job.seed,
        model: source.model_name.clone(),
        data: source.data_name.clone(),
        budget: job.budget,
        floors: job.floors.clone(),
        importance: job.criterion.name().into(),
        baseline: evaluate(model)?,
        pruned: evaluate(&cut)?,
        repaired: evaluate(&repaired)?,
        tuned: tuned.as_ref().map(&evaluate).transpose()?,
        dtype: job.dtype,
        quantized: rounded.as_ref().map(&evaluate).transpose()?,
        controls: BTreeMap::new(),
        search: planned.search,
        table_errors: planned.table.held_out_errors.clone(),
        groups: group_widths(&source, &planned.selection),
        layers: layer_times(&model.graph, &source, &planned),
        front: planned.front.clone(),
        memory: memory_steps(&model.graph, &source, &planned)?,
        photos: Vec::new(),
        verdict: Default::default(),
        seconds: BTreeMap::new(),
    };
    for (name, model) in &controls {
        report.controls.insert(name.clone(), evaluate(model)?);
    }
    clock.lap("evaluate");

    let last = source.sign(rounded.or(tuned).unwrap_or(repaired), job, &report);
    // Names and provenance are part of the file.
    report.last_mut().file_bytes = model::to_bytes(&last).map_err(PipelineError::stage("evaluation"))?.len();
    if let Some(prepared) = judge.prepared() {
        report.photos = photos::photos(&source, prepared, model, &last)?;
    }
    measure::conclude(&mut report, model, &last, &source, job, tell)?;
    clock.lap("measure");
    report.seconds = clock.laps;
    Ok(Done { model: last, baseline: source.model, selection: planned.selection, report })
}

/// Seconds per stage.
pub struct Clock {
    last: Instant,
    laps: BTreeMap<String, f64>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Instant::now(), laps: BTreeMap::new() }
    }
}

impl Clock {
    fn lap(&mut self, stage: &str) {
        self.laps.insert(stage.into(), self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}

fn kept(selection: &Selection) -> usize {
    selection.widths().iter().sum()
}

fn tune(job: &Job, source: &Source, start: &Model, name: &str, tell: Listener) -> Result<Model, PipelineError> {
    tell(Event::Stage(
        "Tuning",
        format!("{name}: {} epochs over {} images", job.tune.epochs, source.train.items.len()),
    ));
    let (device, note) = backend::device(job.cuda);
    note.into_iter().for_each(|note| tell(Event::Note(note)));
    let config = tuning(job, source, start, name)?;
    let teacher = (job.tune.distill > 0.0).then_some(&source.model);
    let mut listen = |event: train::FitEvent| match event {
        train::FitEvent::Resumed { epochs } => tell(Event::Note(format!("resumed after {epochs} epochs"))),
        train::FitEvent::SetAside { problem, aside } => tell(Event::Note(format!(
            "the training kept from an earlier run: {problem}; set aside as {}, training starts anew",
            aside.display()
        ))),
        train::FitEvent::NotSaved { problem } => {
            tell(Event::Note(format!("warning: {problem}; an interrupted training would start anew")));
        }
        train::FitEvent::Step { at, .. } => {
            tell(Event::Progress(at.epoch * at.steps + at.step + 1, at.epochs * at.steps))
        }
        train::FitEvent::Epoch { epoch, terms } => {
            tell(Event::Note(format!("epoch {}: loss {:.4}", epoch + 1, terms.sum())))
        }
    };
    let mut fit = || train::fit(start, teacher, &source.train, &config, &device, &mut listen);
    let mut fitted = fit();
    // The cache is ours: what lies there under this training's name and is another's is moved away too.
    if let Err(train::TrainError::OtherTraining { path, .. }) = &fitted
        && train::set_aside(path).is_ok()
    {
        fitted = fit();
    }
    fitted.map_err(|e| match e {
        train::TrainError::File(model::FileError::Io { path, source }) => PipelineError::writing(&path, &source),
        train::TrainError::Image(e) => PipelineError::Input(e.to_string()),
        other => PipelineError::stage("fine-tuning")(other),
    })
}

/// How a network of the job is trained. Its checkpoint's name has the key of all that the training depends on.
fn tuning(job: &Job, source: &Source, start: &Model, name: &str) -> Result<train::FitConfig, PipelineError> {
    let content = source.train_content()?;
    let config = train::FitConfig {
        epochs: job.tune.epochs,
        batch: job.tune.batch,
        imgsz: source.imgsz,
        lr: job.tune.lr,
        optimizer: job.tune.rule,
        distill: job.tune.distill,
        sparsity: job.tune.sparsity,
        augment: source.augment(),
        keep_zeros: job.pattern.is_some(),
        seed: job.seed,
        content: Some(content.clone()),
        ..train::FitConfig::default()
    };
    let teacher = (job.tune.distill > 0.0).then_some(&source.model);
    let key = train::Identity::of(start, teacher, &content, &config).key();
    Ok(train::FitConfig { checkpoint: Some(job.cache.join(format!("{name}-{key}"))), ..config })
}

fn group_widths(source: &Source, selection: &Selection) -> Vec<GroupWidths> {
    let of = |(group, after): (&crate::group::Group, usize)| GroupWidths {
        name: group.name.clone(),
        before: group.width(),
        after,
    };
    source.groups.groups.iter().zip(selection.widths()).map(of).collect()
}

fn layer_times(graph: &Graph, source: &Source, planned: &Planned) -> Vec<LayerTimes> {
    let widths = planned.selection.widths();
    let of = |term: crate::latency::Term| LayerTimes {
        name: graph.node(term.node).name.clone(),
        before_ms: term.millis(|g| source.groups.group(g).width()),
        after_ms: term.millis(|g| widths[g.index()]),
    };
    planned.table.terms(graph, &source.groups).into_iter().map(of).collect()
}

fn memory_steps(graph: &Graph, source: &Source, planned: &Planned) -> Result<Vec<MemoryStep>, PipelineError> {
    let widths = planned.selection.widths();
    let sets = crate::memory::live_sets(graph, &source.groups, source.imgsz, source.imgsz);
    let of = |set: crate::memory::LiveSet| MemoryStep {
        name: graph.node(set.node).name.clone(),
        before_bytes: set.bytes(|group| source.groups.group(group).width()),
        after_bytes: set.bytes(|group| widths[group.index()]),
    };
    Ok(sets.map_err(PipelineError::stage("memory"))?.into_iter().map(of).collect())
}
