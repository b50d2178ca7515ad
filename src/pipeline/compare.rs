//! Prunes one model in several ways to the same measured latency, and says how sure the differences are.

use super::aim::Aim;
use super::allocate::{self, Rule};
use super::job::{Event, Job, Listener};
use super::plan::{Gathered, levels, missing, sensitivity, table};
use super::{PipelineError, Source, check, measure, refine};
use crate::eval::{Detected, Prepared};
use crate::importance::{self, Criterion, Ranking};
use crate::latency::LatencyTable;
use crate::model::Model;
use crate::repair::{self, Method};
use crate::report::Asked;
use crate::report::comparison::{Behind, Comparison, Row, Score};
use crate::surgery::{self, Selection};
use std::collections::BTreeMap;

/// Resamples of the validation images.
const RESAMPLES: usize = 500;

/// How often a rule's cut is measured and its budget corrected.
const ROUNDS: usize = 5;

/// A way to choose channels and widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Which channels of a group go first.
    pub criterion: Criterion,
    /// How wide groups stay; none searches by measured losses.
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
    tell: Listener,
) -> Result<Comparison, PipelineError> {
    let source = Source::gather(job, tell)?;
    check::doubts(&source, tell);
    let levels = levels(job, &source);
    let table = table(job, &source, &levels, tell)?;
    let prepared = Prepared::new(&source.val, source.imgsz).map_err(super::evaluation)?;
    let judge = Judge { prepared: &prepared, seed: job.seed };
    let baseline = judge.find(&source.model)?;
    // Below zero stands for a figure that there is not: no difference of such figures means anything.
    if judge.score(&baseline).map50_95 < 0.0 {
        return Err(PipelineError::Input(format!(
            "{}: accuracy is undefined, because the validation images show no labelled object; there is nothing to compare",
            source.data_name
        )));
    }
    let mut comparison = Comparison {
        version: env!("CARGO_PKG_VERSION").into(),
        device: table.fingerprint.clone(),
        model: source.model_name.clone(),
        data: source.data_name.clone(),
        imgsz: source.imgsz,
        images: prepared.len(),
        resamples: RESAMPLES,
        baseline: judge.score(&baseline),
        rows: Vec::new(),
    };
    // What the first scheme finds, by budget and repair.
    let mut first: BTreeMap<(usize, &str), Vec<Detected>> = BTreeMap::new();
    for scheme in schemes {
        for (number, ratio) in ratios.iter().enumerate() {
            let budget = Asked { latency_ratio: Some(*ratio), percentile: job.budget.percentile, ..Asked::default() };
            let job = Job { budget, ..job.clone() };
            tell(Event::Stage("Pruning", format!("by {} to {ratio}x", scheme.name())));
            let selection = match scheme.rule {
                None => {
                    let sensitivity = sensitivity(&job, scheme.criterion, &source, tell)?;
                    refine::refine(&job, &source, &sensitivity, &levels, &table, tell)?.0
                }
                Some(rule) => by_rule(&job, &source, (scheme.criterion, rule), &levels, &table, tell)?,
            };
            let cut =
                surgery::cut(&source.model, &source.groups, &selection).map_err(PipelineError::stage("surgery"))?;
            let against = measure::in_turn(&source.model, &cut, &source, &job, job.runs)?;
            let cost = cut.graph.cost(source.imgsz, source.imgsz).map_err(PipelineError::stage("evaluation"))?;
            for method in methods {
                let calibration = source.calibration(&job);
                let mut progress = |done, all| tell(Event::Progress(done, all));
                let repaired = repair::repair(
                    &source.model,
                    &source.groups,
                    &selection,
                    &cut,
                    *method,
                    &calibration,
                    &mut progress,
                )
                .map_err(PipelineError::stage("repair"))?;
                let found = judge.find(&repaired)?;
                let behind = first.get(&(number, method.name())).map(|best| judge.behind(best, &found));
                let row = Row {
                    scheme: scheme.name(),
                    repair: method.name().into(),
                    asked_ratio: *ratio,
                    latency_ratio: against.ratio,
                    p50_ms: against.pruned.p50_ms,
                    params: cost.params,
                    macs: cost.macs,
                    score: judge.score(&found),
                    behind,
                };
                tell(Event::Note(format!(
                    "{} + {}: mAP50-95 {:.4} at {:.3}x",
                    row.scheme, row.repair, row.score.map50_95, row.latency_ratio
                )));
                comparison.rows.push(row);
                first.entry((number, method.name())).or_insert(found);
            }
        }
    }
    Ok(comparison)
}

/// Cuts by a rule until the measured latency holds and uses what is allowed; else the closest cut that was seen.
fn by_rule(
    job: &Job,
    source: &Source,
    (criterion, rule): (Criterion, Rule),
    levels: &[Vec<usize>],
    table: &LatencyTable,
    tell: Listener,
) -> Result<Selection, PipelineError> {
    let found = Gathered::gather(job, criterion, source, tell)?;
    let statistics = found.statistics(job, source);
    let scores = importance::scores(criterion, &source.model, &source.groups, &statistics).map_err(missing)?;
    let ranking: Ranking = importance::rank(criterion, &source.model, &source.groups, &statistics).map_err(missing)?;
    let network = (&source.model.graph, &source.groups, table);
    let full: Vec<usize> = source.groups.groups.iter().map(|g| g.width()).collect();
    let allowed = job.budget.latency_ratio.unwrap_or(1.0);
    let whole = table.predict(network.0, network.1, &full);
    let mut aim = allowed * whole;
    let (mut closest, mut known): (Option<(f64, Selection)>, Aim) = (None, Aim::default());
    for _ in 0..ROUNDS {
        let widths = allocate::widths(rule, &scores, levels, network, aim);
        let selection = ranking.select(&widths);
        let cut = surgery::cut(&source.model, &source.groups, &selection).map_err(PipelineError::stage("surgery"))?;
        let predicted = table.predict(network.0, network.1, &widths) / whole;
        let (usage, _) = measure::usage(&cut, predicted, allowed, source, job)?;
        let slack = usage.share;
        // Over the budget counts for more than under it.
        let distance = if slack > 1.0 { 10.0 * (slack - 1.0) } else { 1.0 - slack };
        if closest.as_ref().is_none_or(|(least, _)| distance < *least) {
            closest = Some((distance, selection));
        }
        let Some(next) = known.next(aim, &usage) else { break };
        aim = next;
    }
    closest.map(|(_, selection)| selection).ok_or_else(|| PipelineError::Infeasible("nothing was cut".into()))
}

/// Evaluates models on the same images.
struct Judge<'a> {
    prepared: &'a Prepared,
    seed: u64,
}

impl Judge<'_> {
    fn find(&self, model: &Model) -> Result<Vec<Detected>, PipelineError> {
        self.prepared.find(model, rayon::current_num_threads(), &|_| {}).map_err(super::evaluation)
    }

    fn score(&self, found: &[Detected]) -> Score {
        let interval = self.prepared.interval(found, None, RESAMPLES, self.seed);
        Score { map50_95: self.prepared.score(found).map50_95, low: interval.low, high: interval.high }
    }

    fn behind(&self, first: &[Detected], found: &[Detected]) -> Behind {
        let interval = self.prepared.interval(first, Some(found), RESAMPLES, self.seed);
        let map = |found: &[Detected]| self.prepared.score(found).map50_95;
        Behind { difference: map(first) - map(found), deviation: interval.deviation }
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
