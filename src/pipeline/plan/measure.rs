//! Measures plans as the verdict will measure the result: the same statistic of as many frames.

use super::target::{Utilisation, measured};
use crate::model::Model;
use crate::pipeline::context::Context;
use crate::pipeline::error::PipelineError;
use crate::pipeline::timing::{bound, percentile, verdict_runs};

/// How much of the latency budgets the pruned model uses, and its latency as a share of the baseline one's. Where nothing
/// can be measured, `predicted` is that share, of `allowed`.
pub fn utilisation(
    ctx: &Context,
    pruned: &Model,
    predicted: f64,
    allowed: f64,
) -> Result<(Utilisation, f64), PipelineError> {
    let exact = Utilisation { share: predicted / allowed, noise: 0.0 };
    if !ctx.timing.measures() {
        return Ok((exact, predicted));
    }
    let runs = verdict_runs(ctx.job.budget.percentile, ctx.job.runs);
    let (baseline, pruned) = (&ctx.inputs.baseline.model, ctx.inputs.deployment.on_device(pruned));
    let mut ratio = predicted;
    let utilisation = measured(&mut || {
        let Some(pair) = ctx.pair(baseline, &pruned, runs)? else { return Ok(exact) };
        ratio = pair.ratio;
        Ok::<_, PipelineError>(Utilisation::of(&ctx.job.budget, &pair).unwrap_or(exact))
    })?;
    Ok((utilisation, ratio))
}

/// The share of the baseline network's latency that the budgets allow: the smaller one where both are given.
/// `predicted_ms` is the baseline network's latency by the table, for where nothing can be measured.
pub fn allowed_ratio(ctx: &Context, predicted_ms: f64) -> Result<Option<f64>, PipelineError> {
    let by_millis = match ctx.job.budget.latency_ms {
        Some(limit) => Some(limit / baseline_millis(ctx)?.unwrap_or(predicted_ms)),
        None => None,
    };
    Ok(match (ctx.job.budget.latency_ratio, by_millis) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    })
}

/// The baseline network's milliseconds as a verdict would judge them; none where nothing can be measured.
pub fn baseline_millis(ctx: &Context) -> Result<Option<f64>, PipelineError> {
    let percentage = ctx.job.budget.percentile;
    let runs = verdict_runs(percentage, ctx.job.runs);
    let model = &ctx.inputs.baseline.model;
    let pair = ctx.pair(model, model, runs)?;
    Ok(pair.map(|pair| bound(&pair.baseline, percentage).unwrap_or_else(|| percentile(&pair.baseline, percentage))))
}
