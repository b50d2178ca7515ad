//! The stages of a job in their order.
//!
//! 1. Read model and dataset; everything that can be refused is refused here.
//! 2. Hold the inputs against the lock, where one is given. Choose the image size, where there are several.
//! 3. Load the calibration images, and estimate the output sensitivity of every layer.
//! 4. Plan: rank channels, measure losses and latencies, search, and measure until a plan holds; or take the plan that is
//!    locked, or was made before this run was interrupted. Prune by it.
//! 5. Repair the pruned model, and the baseline one as a control.
//! 6. Fine-tune, where epochs are asked for.
//! 7. Quantize, where the dtype is not f32.
//! 8. Evaluate every stage.
//! 9. Measure the result against the baseline model, and judge.

use super::context::{Clock, Context};
use super::error::PipelineError;
use super::finetune::{self, Tuned};
use super::inputs::{Inputs, Opened, RANGE_IMAGES, check_inputs, check_outputs};
use super::int8::{Int8Options, MAX_DROP, to_int8};
use super::job::Job;
use super::locking::{Known, Pending};
use super::plan::{Planned, plan, sparsify};
use super::progress::Progress;
use super::results::Results;
use super::sizes;
use super::verdict::{self, Evaluator, Stages};
use crate::graph::Dtype;
use crate::model::{self, Model};
use crate::quantise::{self, Kept, RangeMethod};
use crate::repair::Method;
use crate::report::Report;
use crate::runtimes::Runtime;
use crate::surgery::Selection;
use std::borrow::Cow;

/// What a job leaves in memory, ready to be written.
pub struct Done {
    /// The final model.
    pub model: Model,
    /// The model it was made from.
    pub baseline: Model,
    /// The channels that were kept.
    pub selection: Selection,
    /// The figures.
    pub report: Report,
    /// `results.csv`: the epochs of fine-tuning.
    pub epochs: Option<String>,
    /// What is to be done once the results are in their place.
    pub pending: Pending,
}

/// Runs a job. Nothing is written but the cache and training checkpoints; whether `results` can be written is checked
/// first.
///
/// With `job.ranks`, ranks share the images and the networks of every stage but those that search and measure, which are
/// the first one's; the others end before the last measurement, with nothing.
///
/// # Errors
/// If an input cannot be used, no plan meets the budgets, or a stage fails.
pub fn run(job: &Job, results: &Results, progress: &dyn Progress) -> Result<Option<Done>, PipelineError> {
    let clock = Clock::default();
    // 1. Read and check.
    let opened = Opened::read(job, progress)?;
    check_inputs(&opened, job, progress)?;
    check_outputs(&opened, job, results)?;
    check_ranks(job, opened.data.train.items.len())?;
    // 2. Hold against the lock; choose the image size.
    let known = Known::read(job, &opened)?;
    let (job, opened) = if job.sizes.len() > 1 && job.pattern.is_none() {
        let chosen = match &known {
            Some(known) => known.size(job, progress)?,
            None => sizes::choose(job, progress)?,
        };
        let chosen = chosen.job(job);
        clock.lap("image size");
        let opened = Opened::read(&chosen, progress)?;
        (Cow::Owned(chosen), opened)
    } else {
        (Cow::Borrowed(job), opened)
    };
    // 3. Calibrate.
    let inputs = Inputs::prepare(opened, &job, progress)?;
    clock.lap("gather");
    let ctx = Context { clock, ..Context::new(&job, &inputs, progress) };
    let (baseline, deployment) = (&inputs.baseline, &inputs.deployment);
    // 4. Plan and prune.
    let Pruned { planned, model: pruned, method } = prune(&ctx, known.as_ref())?;
    // 5. Repair.
    let images = inputs.calibration.images.len();
    progress.stage("Repairing", format!("{} over {images} images", in_words(method)));
    let repaired = ctx.repair(&planned.selection, &pruned, method)?;
    let control = ctx.repair(&Selection::all(&baseline.groups), &baseline.model, job.repair)?;
    ctx.clock.lap("repair");
    // 6. Fine-tune.
    let mut controls = vec![("uncut + repair".to_owned(), control)];
    let Tuned { model: tuned, training, table } = tune(&ctx, &repaired, &mut controls)?;
    // 7. Quantize.
    let (quantized, kept) = quantize(&ctx, &planned, tuned.as_ref().unwrap_or(&repaired))?.unzip();
    if quantized.is_some() {
        let control = deployment.on_device(&baseline.model).into_owned();
        controls.push((format!("uncut + {}", job.dtype.name()), control));
        ctx.clock.lap("round");
    }
    // 8. Evaluate.
    progress.stage("Evaluating", format!("{} images", inputs.data.val.items.len()));
    let evaluator = Evaluator::new(&inputs, &job, &job.ranks)?;
    let (tuned_stage, quantized_stage) = (tuned.as_ref(), quantized.as_ref());
    let stages = Stages {
        pruned: &pruned,
        repaired: &repaired,
        tuned: tuned_stage,
        training: training.as_ref(),
        quantized: quantized_stage,
        controls: &controls,
    };
    let mut report = verdict::report(&ctx, &evaluator, &planned, &stages)?;
    report.full_precision = kept.unwrap_or_default();
    ctx.clock.lap("evaluate");
    // 9. Measure and judge.
    let shipped = inputs.add_provenance(quantized.or(tuned).unwrap_or(repaired), &job, &report);
    // Names and provenance are part of the file.
    report.last_mut().file_bytes = model::to_bytes(&shipped).map_err(PipelineError::Serialize)?.len();
    report.photos = verdict::photos(&inputs, evaluator.validator(), &shipped)?;
    drop(evaluator);
    if !job.ranks.is_first() {
        return Ok(None);
    }
    report.runtime = verdict::in_runtime(&ctx, &shipped)?;
    let mut report = verdict::finish(&ctx, report, &shipped)?;
    ctx.clock.lap("measure");
    report.seconds = ctx.clock.laps();
    drop(ctx);
    let selection = planned.selection;
    let pending = known.map_or_else(Pending::default, |known| Pending::new(&known, &job, &report, &selection));
    Ok(Some(Done { model: shipped, baseline: inputs.baseline.model, selection, report, epochs: table, pending }))
}

/// Refuses a fine-tuning on so many images that several ranks could not share.
fn check_ranks(job: &Job, images: usize) -> Result<(), PipelineError> {
    let (ranks, batch) = (job.ranks.size(), job.tune.batch.max(1));
    if ranks == 1 || job.tune.epochs == 0 {
        return Ok(());
    }
    if job.device.is_cuda() {
        return Err(PipelineError::Setting(
            "several ranks train on CPUs only: start one process, or without --device".into(),
        ));
    }
    let least = images / images.div_ceil(batch).max(1);
    if least < ranks {
        return Err(PipelineError::Setting(format!(
            "batch = {batch} in [finetune] gives batches of {least} images, which cannot be shared by {ranks} ranks"
        )));
    }
    Ok(())
}

/// Fine-tunes the repaired model, where epochs are asked for; the baseline model with as many joins the controls.
fn tune(ctx: &Context, repaired: &Model, controls: &mut Vec<(String, Model)>) -> Result<Tuned, PipelineError> {
    if ctx.job.tune.epochs == 0 {
        return Ok(Tuned::default());
    }
    let tuned = finetune::pruned(ctx, repaired)?;
    ctx.clock.lap("tune");
    if ctx.job.tune.control {
        let control = finetune::control(ctx)?.model;
        controls.extend(control.map(|model| ("uncut + tuning".to_owned(), model)));
        ctx.clock.lap("tune control");
    }
    Ok(tuned)
}

/// The model in the dtype that it ships in, and the layers that keep another one; none where that is f32.
fn quantize(ctx: &Context, planned: &Planned, model: &Model) -> Result<Option<(Model, Vec<Kept>)>, PipelineError> {
    let (job, inputs) = (ctx.job, ctx.inputs);
    match inputs.deployment.dtype() {
        Dtype::F32 => Ok(None),
        Dtype::F16 => Ok(Some((quantise::to_f16(model), Vec::new()))),
        Dtype::Int8 => {
            let times = verdict::layer_times(ctx, planned).into_iter().map(|layer| (layer.name, layer.after_ms));
            let zero_centred = || Ok::<_, PipelineError>(ctx.timing.runtime().is_some_and(Runtime::is_zero_centred));
            let options = Int8Options {
                methods: &RangeMethod::ALL.map(|(_, method)| method),
                symmetric: job.ranks.by_first(zero_centred)?,
                images: RANGE_IMAGES,
                max_drop: job.budget.max_map_drop.unwrap_or(MAX_DROP),
                baseline: job.budget.max_map_drop.map(|_| &inputs.baseline.model),
                lost_ms: times.filter(|(_, ms)| *ms > 0.0).collect(),
                device: job.device,
                ranks: job.ranks.clone(),
            };
            let done = to_int8(model, &inputs.data.train, inputs.baseline.imgsz, &options, ctx.progress)?;
            Ok(Some((done.model, done.kept)))
        }
    }
}

/// A pruned model, and how it is repaired.
struct Pruned {
    planned: Planned,
    model: Model,
    method: Method,
}

/// Removes channels by a plan, or sets single weights to zero.
fn prune(ctx: &Context, known: Option<&Known>) -> Result<Pruned, PipelineError> {
    if let Some(pattern) = ctx.job.pattern {
        let model = sparsify(ctx, pattern)?;
        ctx.clock.lap("importance");
        return Ok(Pruned { planned: Planned::whole(ctx), model, method: Method::Sparse });
    }
    let planned = known.map_or_else(|| plan(ctx), |known| known.plan(ctx))?;
    let (kept, all) = (planned.selection.widths(), ctx.inputs.baseline.widths());
    let (kept, all) = (kept.iter().sum::<usize>(), all.iter().sum::<usize>());
    ctx.progress.stage("Pruning", format!("keeps {kept} of {all} channels"));
    let model = ctx.prune(&planned.selection)?;
    Ok(Pruned { planned, model, method: ctx.job.repair })
}

/// A method of repair after the word "Repairing".
fn in_words(method: Method) -> &'static str {
    match method {
        Method::None => "nothing",
        Method::Merge => "by merging similar channels",
        Method::BatchNorm => "by batch-norm statistics",
        Method::LeastSquares => "by least squares",
        Method::Sparse => "by least squares on the weights that are not zero",
    }
}
