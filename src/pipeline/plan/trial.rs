//! A plan that was pruned and measured.

use super::measure::utilisation;
use super::space::{Allowed, SearchSpace};
use super::target::{SearchTarget, Utilisation};
use crate::model;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::surgery::Selection;
use serde::{Deserialize, Serialize};

/// A plan that was searched and not measured yet.
pub struct Candidate {
    /// The level of every group.
    pub plan: Vec<usize>,
    /// Its loss by the curves it was found with, which may be reweighted.
    pub loss: f64,
    /// The target that it was found under.
    pub target: SearchTarget,
    /// How many plans were measured, this one included.
    pub round: usize,
}

/// What was measured of a plan.
#[derive(Clone, Copy)]
pub struct Figures {
    /// How much of the latency budgets it uses, where there is one.
    pub utilisation: Option<Utilisation>,
    /// Peak memory in the runtime that ships, bytes.
    pub bytes: f64,
    /// Parameters, or bytes of the file, over what is allowed: the greater of the two.
    pub size: Option<f64>,
}

/// A plan that was pruned and measured.
pub struct Trial {
    pub selection: Selection,
    /// As in [`Candidate`].
    pub plan: Vec<usize>,
    pub target: SearchTarget,
    pub loss: f64,
    pub round: usize,
    /// Measured latency as a share of the baseline network's, where there is a latency budget.
    pub ratio: Option<f64>,
    pub figures: Figures,
    /// The greatest of all figures over what is allowed.
    pub excess: f64,
    /// Whether all hold.
    pub holds: bool,
}

/// Of a plan that was measured what all ranks must know.
#[derive(Serialize, Deserialize)]
pub struct MeasuredPlan {
    pub selection: Selection,
    /// As in [`Candidate`].
    pub plan: Vec<usize>,
    pub target: SearchTarget,
    pub round: usize,
}

impl From<Trial> for MeasuredPlan {
    fn from(trial: Trial) -> Self {
        Self { selection: trial.selection, plan: trial.plan, target: trial.target, round: trial.round }
    }
}

impl Trial {
    /// Prunes by a plan, and measures the result.
    ///
    /// # Errors
    /// If the pruned network cannot be run, or the device fails.
    pub fn measure(space: &SearchSpace, allowed: &Allowed, candidate: Candidate) -> Result<Self, PipelineError> {
        let (ctx, baseline) = (space.ctx, &space.ctx.inputs.baseline);
        let deployment = &ctx.inputs.deployment;
        let Candidate { plan, loss, target, round } = candidate;
        let (widths, selection) = (space.widths(&plan), space.selection(&plan));
        let pruned = ctx.prune(&selection)?;
        let shipped = deployment.on_device(&pruned);
        let bytes = deployment.memory(&shipped)? as f64;
        let (height, width) = baseline.size();
        let cost = pruned.graph.cost(height, width).during(Task::Search)?;
        let over = |limit: Option<f64>, is: f64| limit.map(|limit| is / limit);
        let file = match allowed.file_bytes {
            Some(_) => model::to_bytes(&shipped).map_err(PipelineError::Serialize)?.len() as f64,
            None => 0.0,
        };
        drop(shipped);
        let sizes = [over(allowed.params.map(|n| n as f64), cost.params as f64), over(allowed.file_bytes, file)];
        let size = sizes.into_iter().flatten().reduce(f64::max);
        let latency = match allowed.ratio {
            Some(ratio) => {
                let predicted = space.table.predict(&baseline.model.graph, &baseline.groups, &widths);
                Some(utilisation(ctx, &pruned, predicted / space.baseline_ms, ratio)?)
            }
            None => None,
        };
        let (utilisation, ratio) = latency.unzip();
        let share = utilisation.map_or(0.0, |utilisation: Utilisation| utilisation.share);
        Ok(Self {
            excess: share.max(allowed.memory_bytes.map_or(0.0, |limit| bytes / limit)).max(size.unwrap_or(0.0)),
            holds: allowed.fits(bytes)
                && size.is_none_or(|size| size <= 1.0)
                && utilisation.is_none_or(|utilisation| utilisation.holds()),
            selection,
            plan,
            target,
            loss,
            round,
            ratio,
            figures: Figures { utilisation, bytes, size },
        })
    }

    /// The measured figures in one line; `how` says whether the latency was measured or estimated.
    pub fn describe(&self, how: &str) -> String {
        format!(
            "plan {}: {}{:.1} MiB{}",
            self.round,
            self.ratio.map(|ratio| format!("{ratio:.3}x {how} latency, ")).unwrap_or_default(),
            self.figures.bytes / f64::from(1 << 20),
            if self.holds { "" } else { ", over the budget" },
        )
    }
}
