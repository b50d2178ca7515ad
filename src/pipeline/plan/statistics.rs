//! Collects what a criterion reads besides the weights, on the calibration images.

use crate::importance::{self, Batches, Criterion, MaskGradients, Statistics, mask_gradients};
use crate::pipeline::context::Context;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::train::{label_loss, loss};
use candle_core::Tensor;

/// Images per batch while gradients are collected.
const GRADIENT_BATCH: usize = 4;

/// Runs the network as the criterion needs it.
pub fn collect<'a>(ctx: &Context<'a>, criterion: Criterion) -> Result<Statistics<'a>, PipelineError> {
    let (model, groups) = (&ctx.inputs.baseline.model, &ctx.inputs.baseline.groups);
    ctx.progress.stage("Ranking", format!("the channels of {} groups by {}", groups.groups.len(), criterion.name()));
    let calibration = ctx.calibration();
    let activations = match criterion {
        Criterion::Activation => Some(importance::activations(model, &calibration)?),
        _ => None,
    };
    let gradients = if criterion.needs_gradients() { Some(gradients(ctx)?) } else { None };
    let covariances = match criterion.needs_moments() {
        true => {
            let covariances = importance::covariances(model, &calibration)?;
            Some((covariances, calibration.ridge))
        }
        false => None,
    };
    let sensitivity = Some(&ctx.inputs.sensitivity);
    let (seed, ranks) = (ctx.job.seed, ctx.job.ranks.clone());
    Ok(Statistics { gradients, covariances, sensitivity, activations, seed, ranks })
}

/// Gradients of the training loss by the channel masks.
fn gradients(ctx: &Context) -> Result<MaskGradients, PipelineError> {
    let (baseline, calibration) = (&ctx.inputs.baseline, &ctx.inputs.calibration);
    let head = &baseline.model.graph.head;
    let mut loss_gradient = |first: usize, outputs: &[Tensor]| -> candle_core::Result<Vec<Tensor>> {
        let images = outputs.first().map_or(Ok(0), |o| o.dim(0))?;
        let values =
            outputs.iter().map(|o| o.flatten_from(1)?.to_vec2::<f32>()).collect::<candle_core::Result<Vec<_>>>()?;
        let mut gradients: Vec<Vec<f32>> = vec![Vec::new(); outputs.len()];
        for image in 0..images {
            let mut views = Vec::new();
            for (output, values) in outputs.iter().zip(&values) {
                let (_, c, h, w) = output.dims4()?;
                views.push(loss::HeadView { data: &values[image], shape: [1, c, h, w] });
            }
            let found = label_loss(head, &views, calibration.labels(first + image), 1.0);
            let (_, found) = found.map_err(candle_core::Error::wrap)?;
            gradients.iter_mut().zip(found).for_each(|(all, one)| all.extend(one));
        }
        outputs.iter().zip(gradients).map(|(o, g)| Tensor::from_vec(g, o.shape(), o.device())).collect()
    };
    let (height, width) = baseline.size();
    let images =
        Batches { images: &calibration.images, height, width, batch: GRADIENT_BATCH, ranks: ctx.job.ranks.clone() };
    let mut progress = |done, all| ctx.progress.step(done, all);
    mask_gradients(&baseline.model, &baseline.groups, &images, &mut loss_gradient, &mut progress)
        .during(Task::Importance)
}
