//! Chooses among plans that hold the budgets: every one is repaired on most of the calibration images, and the one whose
//! outputs are closest to the baseline network's on the remaining ones is kept.

use super::advice::distance;
use super::min_recall::{missing, recall};
use super::trial::MeasuredPlan;
use crate::importance::{Images, kl_divergence, outputs};
use crate::model::Model;
use crate::pipeline::context::Context;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::repair::Calibration;

/// Of every so many calibration images one is kept out of the trial repairs, to compare on.
const TRIAL_SHARE: usize = 4;

/// The most images of a trial repair.
const TRIAL_IMAGES: usize = 128;

/// The position of the plan to keep; the first where there is nothing to compare.
pub fn choose(ctx: &Context, candidates: &[MeasuredPlan]) -> Result<usize, PipelineError> {
    let (baseline, images) = (&ctx.inputs.baseline, &ctx.inputs.calibration.images);
    let held = images.len() / TRIAL_SHARE;
    if candidates.len() < 2 || held == 0 {
        return Ok(0);
    }
    ctx.progress.stage("Comparing", format!("{} plans, each repaired, on {held} images", candidates.len()));
    // Between two pairs, so that no image is seen whose mirror image is not.
    let (seen, unseen) = images.split_at((images.len() - held).next_multiple_of(2));
    let calibration = Calibration { images: &seen[..seen.len().min(TRIAL_IMAGES)], ..ctx.calibration() };
    let on = Images { images: unseen, size: baseline.size(), device: ctx.job.device };
    let run = |model: &Model| outputs(model, &on).during(Task::Comparison);
    let reference = run(&baseline.model)?;
    let recall_before = recall(ctx.inputs, seen.len(), &reference);
    let mut least = (0, (f64::INFINITY, f64::INFINITY));
    for (number, candidate) in candidates.iter().enumerate() {
        let mut progress = |done, all| ctx.progress.step(number * all + done, candidates.len() * all);
        let (selection, pruned) = (&candidate.selection, ctx.prune(&candidate.selection)?);
        let repaired = ctx.repair_on(selection, &pruned, ctx.job.repair, &calibration, &mut progress)?;
        let found = run(&repaired)?;
        let pairs = reference.iter().zip(&found);
        let loss: f64 = pairs.map(|(a, b)| kl_divergence(&baseline.model.graph.head, baseline.size(), a, b)).sum();
        let loss = loss / unseen.len() as f64;
        let recall_after = recall(ctx.inputs, seen.len(), &found);
        let below = missing(&ctx.job.floors, &ctx.inputs.data.train.names, &recall_before, &recall_after);
        let floors = if below > 0.0 { format!(", recall {below:.3} below the floors") } else { String::new() };
        ctx.progress.message(format!("plan {}: {}{floors}", number + 1, distance(loss)));
        // Minimum recalls go first, on all classes together.
        if (below, loss) < least.1 {
            least = (number, (below, loss));
        }
    }
    Ok(least.0)
}
