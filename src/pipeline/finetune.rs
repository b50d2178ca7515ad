//! Fine-tuning of the pruned model, and of the baseline model as a control.

use super::context::Context;
use super::error::PipelineError;
use crate::model::Model;
use crate::{backend, train};

/// Trains the repaired model.
///
/// # Errors
/// If the training diverges, an image cannot be read, or a checkpoint cannot be written.
pub(super) fn pruned(ctx: &Context, start: &Model) -> Result<Model, PipelineError> {
    tune(ctx, start, "tuned", "")
}

/// Trains the baseline model for as many epochs.
///
/// # Errors
/// As [`pruned`].
pub(super) fn control(ctx: &Context) -> Result<Model, PipelineError> {
    tune(ctx, &ctx.inputs.baseline.model, "control", "the baseline model, ")
}

/// Trains a model. `name` is that of its checkpoint, `what` stands before the epochs for people.
fn tune(ctx: &Context, start: &Model, name: &str, what: &str) -> Result<Model, PipelineError> {
    let (progress, data) = (ctx.progress, &ctx.inputs.data);
    let (epochs, images) = (ctx.job.tune.epochs, data.train.items.len());
    progress.stage("Fine-tuning", format!("{what}{epochs} epochs over {images} images"));
    let (device, note) = backend::device(ctx.job.cuda);
    note.into_iter().for_each(|note| progress.message(note));
    let config = config(ctx, start, name)?;
    let mut listen = |event: train::FitEvent| match event {
        train::FitEvent::Resumed { epochs } => progress.message(format!("resumed after {epochs} epochs")),
        train::FitEvent::SetAside { problem, aside } => progress.message(format!(
            "the training kept from an earlier run: {problem}; set aside as {}, training starts anew",
            aside.display()
        )),
        train::FitEvent::NotSaved { problem } => {
            progress.message(format!("warning: {problem}; an interrupted training would start anew"));
        }
        train::FitEvent::Step { at, .. } => {
            progress.step(at.epoch * at.steps + at.step + 1, at.epochs * at.steps);
        }
        train::FitEvent::Epoch { epoch, terms } => {
            progress.message(format!("epoch {}: loss {:.4}", epoch + 1, terms.sum()));
        }
    };
    let mut fit = || train::fit(start, teacher(ctx), &data.train, &config, &device, &mut listen);
    let mut fitted = fit();
    // The cache is ours: what lies there under this training's name and is another's is moved away too.
    if let Err(train::TrainError::OtherTraining { path, .. }) = &fitted
        && train::set_aside(path).is_ok()
    {
        fitted = fit();
    }
    Ok(fitted?)
}

/// The model to distil from; none where distillation is off.
fn teacher<'a>(ctx: &Context<'a>) -> Option<&'a Model> {
    (ctx.job.tune.distill > 0.0).then_some(&ctx.inputs.baseline.model)
}

/// How a network of the job is trained. Its checkpoint's name has the key of all that the training depends on.
pub(super) fn config(ctx: &Context, start: &Model, name: &str) -> Result<train::FitConfig, PipelineError> {
    let (tune, baseline) = (&ctx.job.tune, &ctx.inputs.baseline);
    let content = ctx.inputs.data.train_content()?;
    let config = train::FitConfig {
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
        content: Some(content.clone()),
        ..train::FitConfig::default()
    };
    let key = train::Identity::of(start, teacher(ctx), &content, &config).key();
    Ok(train::FitConfig { checkpoint: Some(ctx.job.cache.join(format!("{name}-{key}"))), ..config })
}
