//! The plan of a job: the widths, and what they were made from.

use super::refine::refine_plan;
use super::sensitivity::sensitivity;
use super::space::SearchSpace;
use super::table::{levels, table};
use crate::latency::LatencyTable;
use crate::pipeline::context::Context;
use crate::pipeline::error::PipelineError;
use crate::report::{FrontPoint, Search};
use crate::surgery::Selection;
use serde::{Deserialize, Serialize};

/// A plan that holds the budgets, and what it was made from.
#[derive(Serialize, Deserialize)]
pub struct Planned {
    /// The channels that are kept.
    pub selection: Selection,
    /// The measured layers.
    pub table: LatencyTable,
    /// What the search can prove.
    pub search: Search,
    /// What it finds at other latencies.
    pub front: Vec<FrontPoint>,
}

impl Planned {
    /// Keeps every channel: nothing was searched, and no layer was timed.
    pub fn whole(ctx: &Context) -> Self {
        let baseline = &ctx.inputs.baseline;
        Self {
            selection: Selection::all(&baseline.groups),
            table: LatencyTable {
                fingerprint: ctx.fingerprint(),
                layers: vec![None; baseline.model.graph.nodes.len()],
                frame_factor: 1.0,
                held_out_errors: Vec::new(),
            },
            search: Search::default(),
            front: Vec::new(),
        }
    }
}

/// Ranks channels and measures losses on all ranks; measures latencies and searches on the first one.
///
/// # Errors
/// If no widths meet the budgets, or a stage fails.
pub fn plan(ctx: &Context) -> Result<Planned, PipelineError> {
    let sensitivity = sensitivity(ctx, ctx.job.criterion)?;
    ctx.clock.lap("importance");
    let levels = levels(ctx);
    let table = table(ctx, &levels)?;
    ctx.clock.lap("latency table");
    let space = SearchSpace::new(ctx, &sensitivity, &levels, &table);
    let (selection, search) = refine_plan(&space)?;
    let front = ctx.job.ranks.by_first(|| space.front())?;
    ctx.clock.lap("search");
    Ok(Planned { selection, table, search, front })
}
