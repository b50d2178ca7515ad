//! Single weights instead of channels: the strategies `unstructured` and `2:4`.

use crate::importance::{self, Pattern};
use crate::model::Model;
use crate::pipeline::context::Context;
use crate::pipeline::error::PipelineError;

/// The baseline model with zeros in place of the weights that cost the least loss.
pub fn sparsify(ctx: &Context, pattern: Pattern) -> Result<Model, PipelineError> {
    ctx.progress.stage("Sparsifying", format!("single weights, {pattern:?}"));
    let model = &ctx.inputs.baseline.model;
    let covariances = importance::covariances(model, &ctx.calibration())?;
    Ok(importance::sparsify(model, &covariances, Some(&ctx.inputs.sensitivity), pattern))
}
