//! In which order the channels of every group are removed, and how much loss that costs.

use super::statistics::collect;
use crate::bundle::sha256;
use crate::importance::{self, Criterion, LossCurves, Ranking, Sampling};
use crate::pipeline::cache;
use crate::pipeline::context::Context;
use crate::pipeline::error::PipelineError;
use crate::pipeline::inputs::RIDGE;
use crate::train;
use serde::{Deserialize, Serialize};

/// Shares of a group at which its loss is measured.
const LOSS_SHARES: [f64; 4] = [0.75, 0.5, 0.25, 0.125];

/// Images the outputs are compared on for the measured losses.
const LOSS_IMAGES: usize = 24;

/// The order in which channels are removed, and what groups cost at smaller widths.
#[derive(Serialize, Deserialize)]
pub struct GroupSensitivity {
    /// The channels of every group, the first to be removed first.
    pub ranking: Ranking,
    /// The measured losses.
    pub curves: LossCurves,
}

/// Ranks by a criterion, and measures what its order costs; kept for the next run.
pub fn sensitivity(ctx: &Context, criterion: Criterion) -> Result<GroupSensitivity, PipelineError> {
    let (model, groups) = (&ctx.inputs.baseline.model, &ctx.inputs.baseline.groups);
    let (shares, grid, device) = (LOSS_SHARES.to_vec(), ctx.job.grid, ctx.job.device);
    let sampling = Sampling { shares, grid, images: LOSS_IMAGES, device };
    let check = |sensitivity: &GroupSensitivity| {
        sensitivity.ranking.check(groups)?;
        sensitivity.curves.check(groups, &sampling)
    };
    let compute = || {
        let calibration = ctx.calibration();
        let statistics = collect(ctx, criterion)?;
        let ranking = importance::rank(criterion, model, groups, &statistics)?;
        // The losses are measured after refitting, whatever ranked the channels.
        let covariances = match statistics.covariances {
            Some((covariances, _)) => covariances,
            None => importance::covariances(model, &calibration)?,
        };
        ctx.progress.stage(
            "Measuring",
            format!("the loss of every group at {} widths over {LOSS_IMAGES} images", LOSS_SHARES.len()),
        );
        let mut progress = |done, all| ctx.progress.step(done, all);
        let curves =
            importance::measure(model, groups, &ranking, &covariances, &calibration, &sampling, &mut progress)?;
        Ok::<_, PipelineError>(GroupSensitivity { ranking, curves })
    };
    let key = importance_key(ctx, criterion, &sampling);
    Ok(ctx.cache.get_or("importance", &key, check, compute)?.0)
}

/// The key of what a ranking and its losses depend on: the model, the calibration images, their labels where the criterion
/// reads them, how it is done, and what computes.
pub fn importance_key(ctx: &Context, criterion: Criterion, sampling: &Sampling) -> String {
    let (baseline, calibration) = (&ctx.inputs.baseline, &ctx.inputs.calibration);
    let labels = criterion.needs_gradients().then(|| sha256(calibration.labels_text().as_bytes()));
    let model = train::content(&baseline.model);
    let Sampling { shares, grid, images, .. } = sampling;
    let parts: [&dyn std::fmt::Debug; 11] = [
        &model,
        &baseline.imgsz,
        &calibration.sha256,
        &labels,
        &criterion,
        &ctx.job.seed,
        shares,
        grid,
        images,
        &RIDGE,
        &ctx.inputs.computed_on,
    ];
    cache::key(&parts)
}
