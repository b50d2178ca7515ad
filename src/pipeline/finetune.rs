//! Fine-tuning of the pruned model, and of the baseline model as a control.

use super::context::Context;
use super::error::PipelineError;
use crate::graph::Dtype;
use crate::model::Model;
use crate::report::{Epoch, Training};
use crate::runtimes::Runtime;
use crate::train;
use crate::train::{FitConfig, FitEvent, HoldOut, Identity, Int8Epochs, PastEpoch, Recipe, Record, TrainError};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What fine-tuning gives; nothing without epochs.
#[derive(Default)]
pub(super) struct Tuned {
    /// The model; none where training diverged.
    pub model: Option<Model>,
    /// What was found out.
    pub training: Option<Training>,
    /// `results.csv`.
    pub table: Option<String>,
}

/// Trains the repaired model.
///
/// # Errors
/// If an image cannot be read, a checkpoint cannot be used, or somebody stops the training.
pub(super) fn pruned(ctx: &Context, start: &Model) -> Result<Tuned, PipelineError> {
    tune(ctx, start, "tuned", "")
}

/// Trains the baseline model for as many epochs.
///
/// # Errors
/// As [`pruned`].
pub(super) fn control(ctx: &Context) -> Result<Tuned, PipelineError> {
    tune(ctx, &ctx.inputs.baseline.model, "control", "the baseline model, ")
}

/// Trains a model. `name` is that of its checkpoint, `what` stands before the epochs for people.
fn tune(ctx: &Context, start: &Model, name: &str, what: &str) -> Result<Tuned, PipelineError> {
    let (progress, data, job) = (ctx.progress, &ctx.inputs.data, &ctx.job.tune);
    let (config, note) = config(ctx, start, name)?;
    let (epochs, images) = (job.epochs, data.train.items.len());
    progress.stage("Fine-tuning", format!("{what}{epochs} epochs over {images} images"));
    note.into_iter().for_each(|note| progress.message(note));
    let board = job.tensorboard.as_deref().map(|folder| folder.join(name));
    let table = config.checkpoint.as_deref().map_or_else(PathBuf::new, csv);
    let record = || {
        let unwritten = |e| PipelineError::writing(board.as_deref().unwrap_or(Path::new("")), e);
        Record::new(table.clone(), board.as_deref()).map_err(unwritten)
    };
    let mut record = config.ranks.is_first().then(record).transpose()?;
    let mut training = Training::default();
    let mut unsaid = true;
    let mut listen = |event: FitEvent| {
        if let Some(Err(problem)) = record.as_mut().map(|record| record.note(&event))
            && std::mem::take(&mut unsaid)
        {
            progress.message(format!("warning: {}: {problem}; the epochs are not recorded", table.display()));
        }
        enter(&mut training, &event);
        if let FitEvent::Step { at, .. } = event {
            progress.step(at.epoch * at.steps + at.step + 1, at.epochs * at.steps);
        }
        event.message().into_iter().for_each(|text| progress.message(text));
    };
    let device = train::Device::of(ctx.job.device, false);
    let mut fit = || train::fit(start, teacher(ctx), &data.train, &config, &device, &mut listen);
    let mut fitted = fit();
    // The cache is ours: what lies there under this training's name and is another's is moved away too. Other ranks
    // would not begin anew.
    if let Err(TrainError::OtherTraining { path, .. }) = &fitted
        && config.ranks.size() == 1
        && train::set_aside(path).is_ok()
    {
        fitted = fit();
    }
    let model = match fitted {
        Err(error @ TrainError::Diverged { .. }) => {
            progress.message(format!("warning: {error}"));
            training.diverged = Some(error.to_string());
            None
        }
        fitted => Some(fitted?),
    };
    Ok(Tuned { model, training: Some(training), table: record.map(|record| record.table()) })
}

/// Enters an event into what the report says.
fn enter(training: &mut Training, event: &FitEvent) {
    match event {
        FitEvent::HeldBack { images, metric, before } => {
            (training.held_back, training.metric, training.before) = (*images, metric.name().into(), Some(*before));
        }
        FitEvent::Int8 { epochs, .. } => training.int8_epochs = *epochs,
        FitEvent::Resumed { past, .. } => {
            let epoch = |past: &PastEpoch| Epoch { loss: past.terms.sum(), held_back: past.held, lr: past.lr };
            training.epochs = past.iter().map(epoch).collect();
        }
        FitEvent::RolledBack { epochs, .. } => training.epochs.truncate(*epochs),
        FitEvent::Epoch { terms, row, .. } => {
            let held_back = row.held.map(|(_, figure)| figure);
            training.epochs.push(Epoch { loss: terms.sum(), held_back, lr: row.lr });
        }
        FitEvent::Chosen { epoch, figure, .. } => {
            (training.epoch, training.after) = (epoch.map(|epoch| epoch + 1), Some(*figure));
        }
        _ => {}
    }
}

/// The table of a training, beside its checkpoint.
fn csv(checkpoint: &Path) -> PathBuf {
    let mut name = OsString::from("results-");
    name.push(checkpoint.file_name().unwrap_or_default());
    name.push(".csv");
    checkpoint.with_file_name(name)
}

/// The model to distil from; none where distillation is off.
fn teacher<'a>(ctx: &Context<'a>) -> Option<&'a Model> {
    (ctx.job.tune.distill > 0.0).then_some(&ctx.inputs.baseline.model)
}

/// Which layers compute in int8, and with ranges of which kind.
fn layers_of_int8(ctx: &Context) -> Int8Epochs {
    Int8Epochs {
        zero_centred: ctx.timing.runtime().is_some_and(Runtime::is_zero_centred),
        except: ctx.inputs.baseline.full_precision.clone(),
        ..Int8Epochs::default()
    }
}

/// How a network of the job is trained, and what people should know about it. Its checkpoint's name has the key of all
/// that the training depends on.
pub(super) fn config(ctx: &Context, start: &Model, name: &str) -> Result<(FitConfig, Option<String>), PipelineError> {
    let (tune, baseline, data) = (&ctx.job.tune, &ctx.inputs.baseline, &ctx.inputs.data);
    let content = data.train_content()?;
    let for_int8 = ctx.inputs.deployment.dtype() == Dtype::Int8;
    let config = FitConfig {
        epochs: tune.epochs,
        batch: tune.batch,
        imgsz: baseline.imgsz,
        lr: tune.lr,
        optimizer: tune.rule,
        distill: tune.distill,
        sparsity: tune.sparsity,
        augment: baseline.augment(),
        keep_zeros: ctx.job.pattern.is_some(),
        seed: ctx.job.seed,
        int8: if for_int8 { layers_of_int8(ctx) } else { Int8Epochs::default() },
        content: Some(content.clone()),
        stop: tune.stop.clone(),
        ranks: ctx.job.ranks.clone(),
        ..FitConfig::default()
    };
    let hold_out = match &data.held {
        Some(split) => train::held_split(split.clone())?,
        None if data.train.items.len() < 2 => HoldOut::None,
        None => tune.recipe.hold_out.clone(),
    };
    let int8_epochs = if for_int8 { tune.recipe.int8_epochs } else { 0.0 };
    let recipe = Recipe { hold_out, int8_epochs, ..tune.recipe.clone() };
    let (config, note) = recipe.apply(config, &data.train.names);
    let key = Identity::of(start, teacher(ctx), &content, &config).key();
    Ok((FitConfig { checkpoint: Some(ctx.job.cache.join(format!("{name}-{key}"))), ..config }, note))
}
