//! The report of a job before its last measurement.

use super::evaluate::Evaluator;
use crate::group::Group;
use crate::latency::Term;
use crate::memory::{LiveSet, live_sets};
use crate::model::Model;
use crate::pipeline::context::Context;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::pipeline::plan::Planned;
use crate::report::{GroupWidths, LayerTimes, MemoryStep, Report, Training};
use crate::surgery::Selection;
use std::collections::BTreeMap;

/// The models of a job after the baseline one.
pub struct Stages<'a> {
    /// After surgery.
    pub pruned: &'a Model,
    /// After repair.
    pub repaired: &'a Model,
    /// After fine-tuning, where there was any.
    pub tuned: Option<&'a Model>,
    /// How that went.
    pub training: Option<&'a Training>,
    /// In the dtype that it ships in, where that is not f32.
    pub quantized: Option<&'a Model>,
    /// The baseline model given the same treatment, by the key in the report.
    pub controls: &'a [(String, Model)],
}

/// Evaluates every stage, and lists what the plan changed.
pub fn report(
    ctx: &Context,
    evaluator: &Evaluator,
    planned: &Planned,
    stages: &Stages,
) -> Result<Report, PipelineError> {
    let (job, baseline) = (ctx.job, &ctx.inputs.baseline);
    let evaluate = |model: &Model| evaluator.stage(model);
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION").into(),
        target: job.target.clone(),
        device: planned.table.fingerprint.clone(),
        imgsz: baseline.imgsz,
        head: baseline.branch,
        batch: job.batch,
        threads: job.threads,
        seed: job.seed,
        model: baseline.name.clone(),
        data: ctx.inputs.data.name.clone(),
        budget: job.budget,
        floors: job.floors.clone(),
        importance: job.criterion.name().into(),
        baseline: evaluate(&baseline.model)?,
        pruned: evaluate(stages.pruned)?,
        repaired: evaluate(stages.repaired)?,
        tuned: stages.tuned.map(evaluate).transpose()?,
        training: stages.training.cloned(),
        dtype: job.dtype,
        quantized: stages.quantized.map(evaluate).transpose()?,
        controls: BTreeMap::new(),
        search: planned.search,
        table_errors: planned.table.held_out_errors.clone(),
        groups: group_widths(ctx, &planned.selection),
        layers: layer_times(ctx, planned),
        full_precision: Vec::new(),
        runtime: None,
        front: planned.front.clone(),
        memory: memory_steps(ctx, &planned.selection)?,
        photos: Vec::new(),
        verdict: Default::default(),
        seconds: BTreeMap::new(),
    };
    for (name, model) in stages.controls {
        report.controls.insert(name.clone(), evaluate(model)?);
    }
    Ok(report)
}

fn group_widths(ctx: &Context, selection: &Selection) -> Vec<GroupWidths> {
    let of = |(group, after): (&Group, usize)| GroupWidths { name: group.name.clone(), before: group.width(), after };
    ctx.inputs.baseline.groups.groups.iter().zip(selection.widths()).map(of).collect()
}

/// Milliseconds of every layer before and after, by the latency table.
pub fn layer_times(ctx: &Context, planned: &Planned) -> Vec<LayerTimes> {
    let (graph, groups) = (&ctx.inputs.baseline.model.graph, &ctx.inputs.baseline.groups);
    let widths = planned.selection.widths();
    let of = |term: Term| LayerTimes {
        name: graph.node(term.node).name.clone(),
        before_ms: term.millis(|g| groups.group(g).width()),
        after_ms: term.millis(|g| widths[g.index()]),
    };
    planned.table.terms(graph, groups).into_iter().map(of).collect()
}

fn memory_steps(ctx: &Context, selection: &Selection) -> Result<Vec<MemoryStep>, PipelineError> {
    let baseline = &ctx.inputs.baseline;
    let deployment = &ctx.inputs.deployment;
    let (graph, groups, widths) = (deployment.graph(baseline), &baseline.groups, selection.widths());
    let sets = live_sets(&deployment.deployed(&graph), groups).during(Task::Memory)?;
    let of = |set: LiveSet| MemoryStep {
        name: graph.node(set.node).name.clone(),
        before_bytes: set.bytes(|group| groups.group(group).width()),
        after_bytes: set.bytes(|group| widths[group.index()]),
    };
    Ok(sets.into_iter().map(of).collect())
}
