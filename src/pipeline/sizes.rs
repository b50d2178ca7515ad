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
use crate::eval::Prepared;

/// The most training images to evaluate on.
const IMAGES: usize = 128;

/// The job with the image size that finds most, and the budget in milliseconds.
///
/// # Errors
/// If no size meets the budgets, or a stage fails.
pub(super) fn choose(job: &Job, progress: &dyn Progress) -> Result<Job, PipelineError> {
    let mut budget = job.budget;
    let mut best: Option<(f64, Job)> = None;
    let mut refused = None;
    for (number, side) in job.sizes.iter().enumerate() {
        let tried = Job { imgsz: Some(*side), sizes: vec![*side], budget, ..job.clone() };
        let inputs = Inputs::gather(&tried, progress)?;
        if number == 0
            && let Some(ratio) = budget.latency_ratio.take()
        {
            // By the frames of the job as it was given.
            let millis = baseline_millis(&Context::new(job, &inputs, progress))?.ok_or(PipelineError::Untimed)?;
            let allowed = ratio * millis;
            budget.latency_ms = Some(budget.latency_ms.map_or(allowed, |known| known.min(allowed)));
        }
        let tried = Job { budget, ..tried };
        let found = accuracy(&Context::new(&tried, &inputs, progress));
        match found {
            Ok(map) => {
                progress.message(format!("{side} px: mAP50-95 {map:.4} on training images"));
                if best.as_ref().is_none_or(|(most, _)| map > *most) {
                    best = Some((map, tried));
                }
            }
            // Another size may fit.
            Err(why @ PipelineError::Infeasible(_)) => {
                progress.message(format!("{side} px: {why}"));
                refused = Some(why);
            }
            Err(why) => return Err(why),
        }
    }
    let none = || PipelineError::Infeasible(format!("no image size meets {}", describe(&budget)));
    best.map(|(_, job)| job).ok_or_else(|| refused.unwrap_or_else(none))
}

/// mAP50-95 of the plan at one size, after repair.
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
    let prepared = Prepared::new(&sample, ctx.inputs.baseline.imgsz)?;
    let map = prepared.evaluate(&repaired, rayon::current_num_threads())?.map50_95;
    // Below zero: there is no such figure.
    if map < 0.0 {
        return Err(PipelineError::Input(format!(
            "{}: image sizes cannot be compared, because the training images show no labelled object",
            ctx.inputs.data.name
        )));
    }
    Ok(map)
}
