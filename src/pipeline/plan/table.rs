//! The latency of every layer over its widths; kept for the next run.

use super::problem;
use crate::bundle::sha256;
use crate::latency::{LatencyTable, Sampling};
use crate::pipeline::cache;
use crate::pipeline::context::Context;
use crate::pipeline::error::PipelineError;
use crate::pipeline::timing::TableRequest;

/// Networks whose steps are timed for the latency table, and how often each runs.
const TABLE_NETWORKS: usize = 30;
const TABLE_ROUNDS: usize = 8;

/// The widths that every group may have.
pub fn levels(ctx: &Context) -> Vec<Vec<usize>> {
    let groups = &ctx.inputs.baseline.groups.groups;
    groups.iter().map(|group| problem::levels(group, ctx.job.grid, ctx.job.min_keep)).collect()
}

fn sampling(ctx: &Context) -> Sampling {
    Sampling {
        size: ctx.inputs.baseline.size(),
        threads: ctx.job.threads,
        networks: TABLE_NETWORKS,
        rounds: TABLE_ROUNDS,
        seed: ctx.job.seed,
    }
}

/// The key of all that a latency table depends on. Weights are not among it: they do not change times.
pub fn table_key(ctx: &Context, levels: &[Vec<usize>]) -> String {
    let conditions = sha256(format!("{:?}", ctx.timing.conditions()).as_bytes());
    let (graph, fingerprint) = (&ctx.inputs.baseline.model.graph, ctx.fingerprint());
    cache::key(&[graph, &levels, &fingerprint, &conditions, &sampling(ctx)])
}

/// Measures the latency table, or estimates it where nothing can be measured; on the first rank.
pub fn table(ctx: &Context, levels: &[Vec<usize>]) -> Result<LatencyTable, PipelineError> {
    let (baseline, fingerprint) = (&ctx.inputs.baseline, ctx.fingerprint());
    if ctx.timing.measures() {
        ctx.progress.stage("Timing", format!("{TABLE_NETWORKS} networks on {fingerprint}"));
    } else {
        ctx.progress.stage("Estimating", format!("every layer: {fingerprint}"));
    }
    let key = table_key(ctx, levels);
    // Layers that are kept are timed; those that vanish take no time.
    let levels: Vec<Vec<usize>> =
        levels.iter().map(|widths| widths.iter().copied().filter(|w| *w > 0).collect()).collect();
    let check = |table: &LatencyTable| table.check(&baseline.model.graph, &baseline.groups, &fingerprint);
    let compute = || {
        let request = TableRequest {
            model: &ctx.inputs.deployment.on_device(&baseline.model),
            groups: &baseline.groups,
            levels: &levels,
            sampling: &sampling(ctx),
            fingerprint: &fingerprint,
            batch: ctx.job.batch,
            folder: &ctx.job.cache,
        };
        ctx.job.ranks.by_first(|| ctx.timing.table(&request, &mut |done, all| ctx.progress.step(done, all)))
    };
    let (table, kept) = ctx.cache.get_or("latency", &key, check, compute)?;
    let worst = table.held_out_errors.last().copied().unwrap_or(0.0);
    let from = if kept { " (kept from an earlier run)" } else { "" };
    if !table.held_out_errors.is_empty() {
        ctx.progress.message(format!("unseen networks are predicted within {:.1} %{from}", 100.0 * worst));
    }
    Ok(table)
}
