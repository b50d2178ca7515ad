//! The accuracy of the baseline and the shipped model in the runtime that they are timed in, where that is not ours.

use super::evaluate::Evaluator;
use crate::model::Model;
use crate::pipeline::context::Context;
use crate::pipeline::error::PipelineError;
use crate::ranks::Ranks;
use crate::report::{InRuntime, Stage};

/// Measures both on this rank alone; nothing where networks run in our own runtime, or of tasks whose outputs are not read there.
pub fn in_runtime(ctx: &Context, shipped: &Model) -> Result<Option<InRuntime>, PipelineError> {
    let Some(runtime) = ctx.timing.runtime() else { return Ok(None) };
    let baseline = &ctx.inputs.baseline.model;
    if !Evaluator::reads_outputs(baseline) {
        let (name, task) = (runtime.name(), baseline.graph.head.task());
        ctx.progress
            .message(format!("of the task `{task}` the accuracy is not measured in {name}: it is our engine's"));
        return Ok(None);
    }
    ctx.progress.stage("Evaluating", format!("baseline and shipped model in {}", runtime.name()));
    let size = ctx.inputs.baseline.imgsz;
    let evaluator = Evaluator::new(ctx.inputs, ctx.job, &Ranks::default())?;
    let measure = |model: &Model| -> Result<Stage, PipelineError> {
        let network = runtime.network(model, size)?;
        let run = &mut |inputs: &[Vec<f32>]| Ok(runtime.outputs(&network, inputs)?);
        evaluator.by_outputs(model, &network.head(), run)
    };
    Ok(Some(InRuntime { name: runtime.name(), baseline: measure(baseline)?, shipped: measure(shipped)? }))
}
