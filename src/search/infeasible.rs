//! What to say when no plan fits: what is least, and which budget would have to grow to which value.

use super::compile::compile;
use super::dual::{Dual, Effort};
use super::find::{NoPlan, find};
use super::primal::{Pool, reach};
use super::{Evaluation, Options, Problem, SearchBudget, Solution, evaluate};
use std::fmt;

/// Steps of the bisection for a relaxed budget.
const BISECTIONS: usize = 8;

/// No plan is within the budgets.
#[derive(Clone, Debug, PartialEq)]
pub struct Infeasible {
    /// The budgets that were asked for.
    pub budget: SearchBudget,
    /// The plan with the least latency, if latency has a budget.
    pub least_latency: Option<Reachable>,
    /// The plan with the least memory that was found, if memory has a budget.
    pub least_memory: Option<Reachable>,
    /// Every plan exceeds one of its budgets by at least this share of it.
    pub excess_bound: f64,
    /// The plan that was found closest to the budgets exceeds one by this share.
    pub excess: f64,
    /// Whether it is proven that nothing fits; otherwise the search ended at its limits.
    pub proven: bool,
    /// Larger budgets that can be met, each with a plan that meets it: first those that change a single budget.
    pub relaxations: Vec<Relaxation>,
}

/// The least of one figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Reachable {
    /// The plan.
    pub levels: Vec<usize>,
    /// All its figures.
    pub evaluation: Evaluation,
    /// No plan is below this.
    pub bound: f64,
}

/// Budgets that can be met.
#[derive(Clone, Debug, PartialEq)]
pub struct Relaxation {
    /// The new latency budget; none if it does not change.
    pub latency_ms: Option<f64>,
    /// The new memory budget; none if it does not change.
    pub memory_bytes: Option<f64>,
    /// The best plan found under them, within both.
    pub solution: Solution,
}

/// Explains.
pub(super) fn explain(problem: &Problem, options: &Options, no_plan: NoPlan) -> Infeasible {
    let options = Options { alternatives: 0, ..*options };
    let budget = problem.budget;
    let least_latency = budget.latency_ms.and_then(|_| least(problem, &options, Kind::Latency));
    let least_memory = budget.memory_bytes.and_then(|_| least(problem, &options, Kind::Memory));
    let mut relaxations = Vec::new();
    relaxations.extend(budget.latency_ms.and_then(|_| relax(problem, &options, Kind::Latency, &least_latency)));
    relaxations.extend(budget.memory_bytes.and_then(|_| relax(problem, &options, Kind::Memory, &least_memory)));
    if relaxations.is_empty() {
        let nearest = evaluate(problem, &no_plan.levels);
        let latency_ms = budget.latency_ms.filter(|most| nearest.latency_ms > *most).map(|_| nearest.latency_ms);
        let memory_bytes =
            budget.memory_bytes.filter(|most| nearest.memory_bytes > *most).map(|_| nearest.memory_bytes);
        let relaxed = Problem {
            budget: SearchBudget {
                latency_ms: latency_ms.or(budget.latency_ms),
                memory_bytes: memory_bytes.or(budget.memory_bytes),
            },
            ..problem.clone()
        };
        let solution = find(&relaxed, &options, &[no_plan.levels], &mut |_| {});
        relaxations.extend(solution.ok().map(|solution| Relaxation { latency_ms, memory_bytes, solution }));
    }
    Infeasible {
        budget,
        least_latency,
        least_memory,
        excess_bound: no_plan.bound,
        excess: no_plan.violation,
        proven: no_plan.proven,
        relaxations,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Latency,
    Memory,
}

impl Kind {
    fn of(self, evaluation: &Evaluation) -> f64 {
        if self == Kind::Latency { evaluation.latency_ms } else { evaluation.memory_bytes }
    }

    fn with(self, budget: SearchBudget, value: Option<f64>) -> SearchBudget {
        match self {
            Kind::Latency => SearchBudget { latency_ms: value, ..budget },
            Kind::Memory => SearchBudget { memory_bytes: value, ..budget },
        }
    }
}

/// The least of one figure, whatever the other.
fn least(problem: &Problem, options: &Options, kind: Kind) -> Option<Reachable> {
    // The relative excess over a tiny budget is the figure itself in other units.
    let baseline: Vec<usize> = problem.variables.iter().map(|v| v.widths.len() - 1).collect();
    let baseline = kind.of(&evaluate(problem, &baseline));
    let scale = if baseline > 0.0 { 1e-3 * baseline } else { 1.0 };
    let alone = Problem { budget: kind.with(SearchBudget::default(), Some(scale)), ..problem.clone() };
    let compiled = compile(&alone, options.max_table);
    let mut dual = Dual::new(&compiled);
    let ascent = dual.ascend(0.0, 1.0, &Effort::steps(options.dual_steps));
    let plans = dual.seen.iter().map(|seen| (evaluate(problem, &seen.levels), &seen.levels));
    let (mut evaluation, levels) = plans.min_by(|a, b| kind.of(&a.0).total_cmp(&kind.of(&b.0)))?;
    let mut levels = levels.clone();
    let bound = if ascent.bound > 0.0 { (1.0 + ascent.bound) * scale } else { 0.0 };
    // Smaller budgets are tried as long as the bound allows it.
    let mut lower = bound;
    for _ in 0..BISECTIONS {
        let value = kind.of(&evaluation);
        if value - lower <= 1e-6 * value {
            break;
        }
        let target = 0.5 * (lower + value);
        match fitting(&Problem { budget: kind.with(SearchBudget::default(), Some(target)), ..problem.clone() }, options)
        {
            Some(found) => (evaluation, levels) = (evaluate(problem, &found), found),
            None => lower = target,
        }
    }
    Some(Reachable { bound: bound.min(kind.of(&evaluation)), evaluation, levels })
}

/// Any plan that fits.
fn fitting(problem: &Problem, options: &Options) -> Option<Vec<usize>> {
    let compiled = compile(problem, options.max_table);
    let mut dual = Dual::new(&compiled);
    let mut nothing = |_| {};
    let mut pool = Pool::new(problem, false, &mut nothing);
    let ascent = dual.ascend(0.0, 1.0, &Effort::steps(options.dual_steps));
    reach(&mut dual, &ascent, &mut pool, options.nodes / 10);
    pool.best.map(|best| best.levels)
}

/// The least value of one budget, the other unchanged, that a plan was found for.
fn relax(problem: &Problem, options: &Options, kind: Kind, least: &Option<Reachable>) -> Option<Relaxation> {
    let budget = problem.budget;
    let with = |value| Problem { budget: kind.with(budget, value), ..problem.clone() };
    let mut plan = fitting(&with(None), options)?;
    if let Some(least) = least.as_ref().filter(|least| least.evaluation.fits(&kind.with(budget, None))) {
        plan = least.levels.clone();
    }
    let mut value = kind.of(&evaluate(problem, &plan));
    let asked = if kind == Kind::Latency { budget.latency_ms } else { budget.memory_bytes }?;
    let mut lower = least.as_ref().map_or(asked, |least| least.bound).max(asked);
    for _ in 0..BISECTIONS {
        if value - lower <= 1e-3 * value {
            break;
        }
        let target = 0.5 * (lower + value);
        match fitting(&with(Some(target)), options) {
            Some(found) => (value, plan) = (kind.of(&evaluate(problem, &found)), found),
            None => lower = target,
        }
    }
    let solution = find(&with(Some(value)), options, &[plan], &mut |_| {}).ok()?;
    let (latency_ms, memory_bytes) = match kind {
        Kind::Latency => (Some(value), None),
        Kind::Memory => (None, Some(value)),
    };
    Some(Relaxation { latency_ms, memory_bytes, solution })
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
        let sure = if self.proven { "no widths fit the budget" } else { "no widths were found that fit the budget" };
        write!(f, "{sure}:")?;
        let mut separator = " ";
        if let (Some(asked), Some(least)) = (self.budget.latency_ms, &self.least_latency) {
            write!(f, "{separator}{asked:.3} ms asked, {:.3} ms is the least", least.evaluation.latency_ms)?;
            separator = ", ";
        }
        if let (Some(asked), Some(least)) = (self.budget.memory_bytes, &self.least_memory) {
            let least = mebibytes(least.evaluation.memory_bytes);
            write!(f, "{separator}{:.3} MiB asked, {least:.3} MiB is the least", mebibytes(asked))?;
        }
        for (index, relaxation) in self.relaxations.iter().enumerate() {
            write!(f, "{}", if index == 0 { "; it fits with " } else { ", or with " })?;
            let latency = relaxation.latency_ms.map(|ms| format!("{ms:.3} ms"));
            let memory = relaxation.memory_bytes.map(|bytes| format!("{:.3} MiB", mebibytes(bytes)));
            write!(f, "{}", latency.into_iter().chain(memory).collect::<Vec<_>>().join(" and "))?;
        }
        Ok(())
    }
}
