//! Chooses the image size together with the widths: a smaller image leaves time for wider layers.
//!
//! Every size is planned, pruned and repaired under the same budget in milliseconds, that of the first size. Losses of
//! different sizes cannot be compared, so each repaired network is evaluated on training images, those that calibration did
//! not see first.

use super::context::Context;
use super::error::PipelineError;
use super::inputs::Inputs;
use super::job::Job;
use super::plan::{baseline_millis, describe, plan};
use super::progress::Progress;
use crate::data::Dataset;
use crate::eval::{Metric, Validator};
use crate::report::Budget;
use crate::size::ImageSize;
use serde::{Deserialize, Serialize};

/// The most training images to evaluate on.
const IMAGES: usize = 128;

/// The image size of a job, and the budget that holds for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Chosen {
    /// Size of the image.
    pub imgsz: ImageSize,
    /// The budgets of the job, that of latency in milliseconds: a share is one of the first size's latency.
    pub budget: Budget,
}

impl Chosen {
    /// The job with this size alone.
    pub fn job(self, job: &Job) -> Job {
        Job { imgsz: Some(self.imgsz), sizes: vec![self.imgsz], budget: self.budget, ..job.clone() }
    }
}

/// The image size that finds most.
///
/// # Errors
/// If no size meets the budgets, or a stage fails.
pub(super) fn choose(job: &Job, progress: &dyn Progress) -> Result<Chosen, PipelineError> {
    let mut budget = job.budget;
    let mut best: Option<(f64, Chosen)> = None;
    let mut refused = None;
    for (number, size) in job.sizes.iter().enumerate() {
        let tried = Chosen { imgsz: *size, budget }.job(job);
        let inputs = Inputs::gather(&tried, progress)?;
        if number == 0 {
            budget = in_millis(job, &inputs, progress)?;
        }
        let chosen = Chosen { imgsz: *size, budget };
        let tried = chosen.job(job);
        let found = accuracy(&Context::new(&tried, &inputs, progress));
        match found {
            Ok(map) => {
                let name = Metric::of(&inputs.baseline.model.graph.head).name();
                progress.message(format!("{size} px: {name} {map:.4} on training images"));
                if best.as_ref().is_none_or(|(most, _)| map > *most) {
                    best = Some((map, chosen));
                }
            }
            // Another size may fit.
            Err(why @ PipelineError::Infeasible(_)) => {
                progress.message(format!("{size} px: {why}"));
                refused = Some(why);
            }
            Err(why) => return Err(why),
        }
    }
    let none = || PipelineError::Infeasible(format!("no image size meets {}", describe(&budget)));
    best.map(|(_, chosen)| chosen).ok_or_else(|| refused.unwrap_or_else(none))
}

/// An image size that is known already, under the same budget as where it is chosen.
///
/// # Errors
/// If the latency of the first size cannot be measured.
pub(super) fn fixed(job: &Job, imgsz: ImageSize, progress: &dyn Progress) -> Result<Chosen, PipelineError> {
    let Some(first) = job.sizes.first().filter(|_| job.budget.latency_ratio.is_some()) else {
        return Ok(Chosen { imgsz, budget: job.budget });
    };
    let inputs = Inputs::gather(&Chosen { imgsz: *first, budget: job.budget }.job(job), progress)?;
    Ok(Chosen { imgsz, budget: in_millis(job, &inputs, progress)? })
}

/// The budgets of a job with that of latency in milliseconds, by the frames of the job as it was given; `inputs` are those
/// at its first size.
fn in_millis(job: &Job, inputs: &Inputs, progress: &dyn Progress) -> Result<Budget, PipelineError> {
    let mut budget = job.budget;
    if let Some(ratio) = budget.latency_ratio.take() {
        let millis = job.ranks.by_first(|| baseline_millis(&Context::new(job, inputs, progress)))?;
        let millis = millis.ok_or(PipelineError::Untimed)?;
        let allowed = ratio * millis;
        budget.latency_ms = Some(budget.latency_ms.map_or(allowed, |known| known.min(allowed)));
    }
    Ok(budget)
}

/// The task's figure for the plan at one size, after repair.
fn accuracy(ctx: &Context) -> Result<f64, PipelineError> {
    let planned = plan(ctx)?;
    let pruned = ctx.prune(&planned.selection)?;
    let repaired = ctx.repair(&planned.selection, &pruned, ctx.job.repair)?;
    let (train, calibration) = (&ctx.inputs.data.train, &ctx.inputs.calibration);
    // Images that calibration saw come last.
    let seen = |index: &usize| calibration.items.binary_search(index).is_ok();
    let mut order: Vec<usize> = (0..train.items.len()).collect();
    order.sort_by_key(seen);
    let items = order.into_iter().take(IMAGES).map(|index| train.items[index].clone()).collect();
    let sample = Dataset { items, annotations: None, ..train.clone() };
    let (head, job) = (&repaired.graph.head, ctx.job);
    let validator = Validator::shared(head, &sample, ctx.inputs.baseline.imgsz, &job.ranks)?.on(job.device);
    let map = validator.evaluate(&repaired, rayon::current_num_threads())?.figure();
    // Below zero: there is no such figure.
    if map < 0.0 {
        return Err(PipelineError::Input(format!(
            "{}: image sizes cannot be compared, because the training images show no labelled object",
            ctx.inputs.data.name
        )));
    }
    Ok(map)
}
