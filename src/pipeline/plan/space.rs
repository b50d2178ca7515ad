//! The search for one job: only its target changes, the variables, losses and times do not.

use super::measure::allowed_ratio;
use super::problem::problem;
use super::sensitivity::GroupSensitivity;
use super::target::SearchTarget;
use crate::importance::LossCurves;
use crate::latency::LatencyTable;
use crate::pipeline::context::Context;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::report::{FrontPoint, Search};
use crate::search::{self, Infeasible, SearchBudget, SearchError, Solution};
use crate::surgery::Selection;

/// What plans are searched among.
pub struct SearchSpace<'a> {
    pub ctx: &'a Context<'a>,
    pub sensitivity: &'a GroupSensitivity,
    /// The widths that every group may have.
    pub levels: &'a [Vec<usize>],
    pub table: &'a LatencyTable,
    /// The baseline network's predicted latency, milliseconds.
    pub baseline_ms: f64,
}

/// What the search answers.
pub enum Answer {
    /// The plan of the least loss.
    Plan(Solution),
    /// No plan fits: why, and what would do.
    Infeasible(Box<Infeasible>),
}

impl<'a> SearchSpace<'a> {
    /// The space of a job. `levels` are the widths of every group.
    pub fn new(
        ctx: &'a Context<'a>,
        sensitivity: &'a GroupSensitivity,
        levels: &'a [Vec<usize>],
        table: &'a LatencyTable,
    ) -> Self {
        let baseline = &ctx.inputs.baseline;
        let baseline_ms = table.predict(&baseline.model.graph, &baseline.groups, &baseline.widths());
        Self { ctx, sensitivity, levels, table, baseline_ms }
    }

    /// What the user's budgets allow.
    ///
    /// # Errors
    /// If the baseline network cannot be measured.
    pub fn allowed(&self) -> Result<Allowed, PipelineError> {
        let budget = &self.ctx.job.budget;
        let bytes = |mib: f64| mib * f64::from(1 << 20);
        Ok(Allowed {
            ratio: allowed_ratio(self.ctx, self.baseline_ms)?,
            memory_bytes: budget.memory_mib.map(bytes),
            params: budget.params,
            file_bytes: budget.file_mib.map(bytes),
        })
    }

    /// The width of every group in a plan, which gives the level of every group.
    pub fn widths(&self, plan: &[usize]) -> Vec<usize> {
        plan.iter().zip(self.levels).map(|(level, widths)| widths[*level]).collect()
    }

    /// The channels that a plan keeps.
    pub fn selection(&self, plan: &[usize]) -> Selection {
        self.sensitivity.ranking.select(&self.widths(plan))
    }

    /// Searches the plan of the least loss under a target.
    ///
    /// # Errors
    /// If the problem contradicts itself.
    pub fn search(&self, curves: &LossCurves, target: &SearchTarget) -> Result<Answer, PipelineError> {
        let problem = self.problem(curves, target)?;
        match search::solve(&problem, &search::Options::default(), &mut |_| {}) {
            Ok(found) => Ok(Answer::Plan(found)),
            Err(SearchError::Infeasible(why)) => Ok(Answer::Infeasible(why)),
            Err(problem) => Err(problem.into()),
        }
    }

    /// What is proven about a plan: its loss by the exact evaluator, and the least loss of any plan under the target that it
    /// was searched under (or within what it takes itself, where it is over that), both by the losses as they were measured.
    ///
    /// # Errors
    /// If the problem contradicts itself.
    pub fn certify(&self, plan: &[usize], target: &SearchTarget, rounds: usize) -> Result<Search, PipelineError> {
        let problem = self.problem(&self.sensitivity.curves, target)?;
        let proven = search::certify(&problem, plan, &search::Options::default())?;
        Ok(Search {
            loss: Some(proven.loss),
            lower_bound: Some(proven.lower_bound),
            gap: Some(proven.gap),
            predicted_ms: Some(proven.latency_ms),
            rounds,
        })
    }

    fn problem(&self, curves: &LossCurves, target: &SearchTarget) -> Result<search::Problem, PipelineError> {
        let inputs = self.ctx.inputs;
        let (graph, groups) = (inputs.deployment.graph(&inputs.baseline), &inputs.baseline.groups);
        let deployed = inputs.deployment.deployed(&graph);
        problem(&deployed, groups, self.levels, curves, self.table, *target).during(Task::Search)
    }

    /// The least loss at other latencies than the one asked for, from the baseline model's down to the fastest plan.
    ///
    /// # Errors
    /// If the graph contradicts itself.
    pub fn front(&self) -> Result<Vec<FrontPoint>, PipelineError> {
        let baseline = &self.ctx.inputs.baseline;
        let (graph, groups) = (&baseline.model.graph, &baseline.groups);
        let deployed = self.ctx.inputs.deployment.deployed(graph);
        let options = search::Options { blocks: 60, nodes: 20_000, branches: 10, ..search::Options::default() };
        let mut points = vec![FrontPoint { latency_ratio: 1.0, loss: 0.0, lower_bound: 0.0 }];
        for twentieths in (6..20).rev() {
            let latency_ms = Some(self.baseline_ms * f64::from(twentieths) / 20.0);
            let budget = SearchBudget { latency_ms, memory_bytes: None };
            let target = SearchTarget { budget, weight_bytes: None };
            let curves = &self.sensitivity.curves;
            let problem = problem(&deployed, groups, self.levels, curves, self.table, target).during(Task::Search)?;
            match search::solve(&problem, &options, &mut |_| {}) {
                Ok(found) => points.push(FrontPoint {
                    latency_ratio: found.latency_ms / self.baseline_ms,
                    loss: found.loss,
                    lower_bound: found.lower_bound,
                }),
                Err(_) => break,
            }
        }
        Ok(points)
    }
}

/// What the user's budgets allow a plan, in units that are measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Latency as a share of the baseline network's.
    pub ratio: Option<f64>,
    /// Peak memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Parameters.
    pub params: Option<usize>,
    /// The model's file, bytes.
    pub file_bytes: Option<f64>,
}

impl Allowed {
    /// Whether so much memory is allowed.
    pub fn fits(&self, bytes: f64) -> bool {
        self.memory_bytes.is_none_or(|limit| bytes <= limit)
    }

    /// What the search is asked for first. It counts four bytes per weight and bias, which is close to both sizes; the
    /// difference is measured.
    pub fn first_target(&self, baseline_ms: f64) -> SearchTarget {
        let weights = self.params.map(|n| 4.0 * n as f64);
        SearchTarget {
            budget: SearchBudget {
                latency_ms: self.ratio.map(|ratio| ratio * baseline_ms),
                memory_bytes: self.memory_bytes,
            },
            weight_bytes: weights.into_iter().chain(self.file_bytes).reduce(f64::min),
        }
    }
}
