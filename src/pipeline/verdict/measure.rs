//! The last measurement of a job, on the way to the device's own.

use super::judge::{enter, enter_simulated};
use crate::model::Model;
use crate::pipeline::context::Context;
use crate::pipeline::error::PipelineError;
use crate::pipeline::timing::verdict_runs;
use crate::report::Report;

/// Measures the shipped model and the baseline one interleaved, and gives the report with the latencies and the verdict.
/// Where nothing can be measured, no latency budget is judged.
pub fn finish(ctx: &Context, mut report: Report, shipped: &Model) -> Result<Report, PipelineError> {
    let runs = verdict_runs(ctx.job.budget.percentile, ctx.job.runs);
    if ctx.timing.measures() {
        ctx.progress.stage("Measuring", format!("baseline and pruned, interleaved, {runs} runs each"));
    }
    match ctx.pair(&ctx.inputs.baseline.model, shipped, runs)? {
        Some(pair) => enter(&mut report, &pair),
        None => enter_simulated(&mut report, "estimated"),
    }
    Ok(report)
}
