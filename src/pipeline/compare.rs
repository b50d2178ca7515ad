//! Prunes one model in several ways to the same measured latency, and says how sure the differences are.

use super::context::Context;
use super::error::{During, PipelineError, Task};
use super::inputs::Inputs;
use super::job::Job;
use super::plan::{
    Bracket, Rule, SearchSpace, all_levels, collect, refine_plan, sensitivity, table, utilisation, widths,
};
use super::progress::Progress;
use crate::eval::{Answers, Metric, Validator};
use crate::importance::{self, Criterion};
use crate::latency::LatencyTable;
use crate::model::Model;
use crate::repair::Method;
use crate::report::Budget;
use crate::report::comparison::{Behind, Comparison, Row, Score};
use crate::surgery::Selection;
use std::collections::BTreeMap;

/// Resamples of the validation images.
const RESAMPLES: usize = 500;

/// How often a rule's plan is measured and its target corrected.
const ROUNDS: usize = 5;

/// A way to choose channels and widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Which channels of a group are removed first.
    pub criterion: Criterion,
    /// How wide groups are kept; none searches by measured losses.
    pub rule: Option<Rule>,
}

impl Scheme {
    /// The same share of every group, by filter norms: what users get without any choice.
    pub const UNIFORM: Self = Self { criterion: Criterion::L1, rule: Some(Rule::Uniform) };

    /// `NAME`, `NAME-global`, `NAME-uniform`, or `uniform` for `l1-uniform`.
    pub fn from_name(name: &str) -> Option<Self> {
        let (criterion, rule) = if name == "uniform" {
            return Some(Self::UNIFORM);
        } else if let Some(base) = name.strip_suffix("-global") {
            (base, Some(Rule::Global))
        } else if let Some(base) = name.strip_suffix("-uniform") {
            (base, Some(Rule::Uniform))
        } else {
            (name, None)
        };
        Some(Self { criterion: Criterion::from_name(criterion)?, rule })
    }

    /// The name users type.
    pub fn name(self) -> String {
        let suffix = match self.rule {
            None => "",
            Some(Rule::Global) => "-global",
            Some(Rule::Uniform) => "-uniform",
        };
        format!("{}{suffix}", self.criterion.name())
    }
}

/// Prunes by every scheme to every latency, repairs by every method, and evaluates on the validation images. The first scheme is
/// what the others are compared with.
///
/// # Errors
/// If an input cannot be used, or a stage fails.
pub fn compare(
    job: &Job,
    schemes: &[Scheme],
    ratios: &[f64],
    methods: &[Method],
    progress: &dyn Progress,
) -> Result<Comparison, PipelineError> {
    let inputs = Inputs::gather(job, progress)?;
    let ctx = Context::new(job, &inputs, progress);
    let levels = all_levels(&ctx);
    let table = table(&ctx, &levels)?;
    let head = &inputs.baseline.model.graph.head;
    let validator = Validator::shared(head, &inputs.data.val, inputs.baseline.imgsz, &job.ranks)?.on(job.device);
    let scorer = Scorer { validator: &validator, seed: job.seed };
    let baseline = scorer.score(&scorer.find(&inputs.baseline.model)?)?;
    let metric = Metric::of(head).name();
    // Below zero: there is no such figure, and no difference of such figures means anything.
    if baseline.map50_95 < 0.0 {
        return Err(PipelineError::Input(format!(
            "{}: accuracy is undefined, because the validation images show no labelled object; there is nothing to compare",
            inputs.data.name
        )));
    }
    let mut comparison = Comparison {
        version: env!("CARGO_PKG_VERSION").into(),
        device: table.fingerprint.clone(),
        model: inputs.baseline.name.clone(),
        data: inputs.data.name.clone(),
        imgsz: inputs.baseline.imgsz,
        images: validator.len(),
        resamples: RESAMPLES,
        metric: metric.into(),
        baseline,
        rows: Vec::new(),
    };
    // What the first scheme finds, by budget and repair.
    let mut first: BTreeMap<(usize, &str), Answers> = BTreeMap::new();
    for scheme in schemes {
        for (number, ratio) in ratios.iter().enumerate() {
            let budget = Budget { latency_ratio: Some(*ratio), percentile: job.budget.percentile, ..Budget::default() };
            let job = Job { budget, ..job.clone() };
            let pruned = Pruned::by(*scheme, *ratio, &Context::new(&job, &inputs, progress), &levels, &table)?;
            for method in methods {
                let found = scorer.find(&ctx.repair(&pruned.selection, &pruned.model, *method)?)?;
                let best = first.get(&(number, method.name()));
                let behind = best.map(|best| scorer.behind(best, &found)).transpose()?;
                let score = scorer.score(&found)?;
                let row = Row { repair: method.name().into(), score, behind, ..pruned.row.clone() };
                progress.message(format!(
                    "{} + {}: {metric} {:.4} at {:.3}x",
                    row.scheme, row.repair, row.score.map50_95, row.latency_ratio
                ));
                comparison.rows.push(row);
                first.entry((number, method.name())).or_insert(found);
            }
        }
    }
    Ok(comparison)
}

/// A model pruned by a scheme, and the figures that no repair changes.
struct Pruned {
    selection: Selection,
    model: Model,
    row: Row,
}

impl Pruned {
    fn by(
        scheme: Scheme,
        ratio: f64,
        ctx: &Context,
        levels: &[Vec<usize>],
        table: &LatencyTable,
    ) -> Result<Self, PipelineError> {
        ctx.progress.stage("Pruning", format!("by {} to {ratio}x", scheme.name()));
        let selection = match scheme.rule {
            None => {
                let sensitivity = sensitivity(ctx, scheme.criterion)?;
                refine_plan(&SearchSpace::new(ctx, &sensitivity, levels, table))?.0
            }
            Some(rule) => by_rule(ctx, (scheme.criterion, rule), levels, table)?,
        };
        let (model, baseline) = (ctx.prune(&selection)?, &ctx.inputs.baseline);
        let pair = ctx.job.ranks.by_first(|| ctx.pair(&baseline.model, &model, ctx.job.runs))?;
        let pair = pair.ok_or(PipelineError::Untimed)?;
        let (height, width) = baseline.size();
        let cost = model.graph.cost(height, width).during(Task::Evaluation)?;
        let row = Row {
            scheme: scheme.name(),
            repair: String::new(),
            asked_ratio: ratio,
            latency_ratio: pair.ratio,
            p50_ms: pair.pruned.p50_ms,
            params: cost.params,
            macs: cost.macs,
            score: Score { map50_95: f64::NAN, low: f64::NAN, high: f64::NAN },
            behind: None,
        };
        Ok(Self { selection, model, row })
    }
}

/// Prunes by a rule until the measured latency holds and uses what is allowed; else keeps the closest plan that was
/// measured.
fn by_rule(
    ctx: &Context,
    (criterion, rule): (Criterion, Rule),
    levels: &[Vec<usize>],
    table: &LatencyTable,
) -> Result<Selection, PipelineError> {
    let (model, groups) = (&ctx.inputs.baseline.model, &ctx.inputs.baseline.groups);
    let statistics = collect(ctx, criterion)?;
    let scores = importance::scores(criterion, model, groups, &statistics)?;
    let ranking = importance::rank(criterion, model, groups, &statistics)?;
    let allowed = ctx.job.budget.latency_ratio.unwrap_or(1.0);
    let whole = table.predict(&model.graph, groups, &ctx.inputs.baseline.widths());
    let search = || {
        let mut target_ms = allowed * whole;
        let (mut closest, mut bracket): (Option<(f64, Selection)>, Bracket) = (None, Bracket::default());
        for _ in 0..ROUNDS {
            let widths = widths(rule, &scores, levels, (&model.graph, groups, table), target_ms);
            let selection = ranking.select(&widths);
            let pruned = ctx.prune(&selection)?;
            let predicted = table.predict(&model.graph, groups, &widths) / whole;
            let (used, _) = utilisation(ctx, &pruned, predicted, allowed)?;
            // Over the budget counts for more than under it.
            let distance = if used.share > 1.0 { 10.0 * (used.share - 1.0) } else { 1.0 - used.share };
            if closest.as_ref().is_none_or(|(least, _)| distance < *least) {
                closest = Some((distance, selection));
            }
            let Some(next) = bracket.next(target_ms, &used) else { break };
            target_ms = next;
        }
        closest.map(|(_, selection)| selection).ok_or_else(|| PipelineError::Infeasible("nothing was pruned".into()))
    };
    ctx.job.ranks.by_first(search)
}

/// Evaluates models on the same images.
struct Scorer<'a> {
    validator: &'a Validator,
    seed: u64,
}

impl Scorer<'_> {
    fn find(&self, model: &Model) -> Result<Answers, PipelineError> {
        Ok(self.validator.find(model, rayon::current_num_threads(), &|_| {})?)
    }

    fn score(&self, found: &Answers) -> Result<Score, PipelineError> {
        let interval = self.validator.interval(found, None, RESAMPLES, self.seed)?;
        Ok(Score { map50_95: self.validator.score(found)?.figure(), low: interval.low, high: interval.high })
    }

    fn behind(&self, first: &Answers, found: &Answers) -> Result<Behind, PipelineError> {
        let interval = self.validator.interval(first, Some(found), RESAMPLES, self.seed)?;
        let difference = self.validator.score(first)?.figure() - self.validator.score(found)?.figure();
        Ok(Behind { difference, deviation: interval.deviation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_schemes_read_back() {
        for (name, canonical) in [
            ("reconstruction", Some("reconstruction")),
            ("l1-global", Some("l1-global")),
            ("bn-scale-uniform", Some("bn-scale-uniform")),
            ("uniform", Some("l1-uniform")),
            ("global", None),
            ("nonsense", None),
        ] {
            assert_eq!(Scheme::from_name(name).map(Scheme::name).as_deref(), canonical, "{name}");
        }
    }
}
