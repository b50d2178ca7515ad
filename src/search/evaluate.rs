//! The figures of a plan, straight from the problem's definition. The search computes the same in other ways; what it
//! returns is checked here.

use super::{Factor, Problem, SearchBudget};

/// The figures of one plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Sum of the losses.
    pub loss: f64,
    /// Sum of the latency factors in milliseconds.
    pub latency_ms: f64,
    /// Weights plus the greatest memory step.
    pub memory_bytes: f64,
}

impl Evaluation {
    /// Whether both budgets hold.
    pub fn fits(&self, budget: &SearchBudget) -> bool {
        budget.latency_ms.is_none_or(|most| self.latency_ms <= most)
            && budget.memory_bytes.is_none_or(|most| self.memory_bytes <= most)
    }
}

/// Computes the figures of a plan.
///
/// # Panics
/// If `levels` has not one existing level per variable, or the problem is one that [`super::solve`] refuses.
pub fn evaluate(problem: &Problem, levels: &[usize]) -> Evaluation {
    assert_eq!(levels.len(), problem.variables.len(), "one level per variable");
    let loss = problem.variables.iter().zip(levels).map(|(variable, level)| variable.loss[*level]).sum();
    let latency_ms = problem.factors.iter().map(|factor| look_up(factor, problem, levels)).sum();
    let weights: f64 = problem.weight_factors.iter().map(|factor| look_up(factor, problem, levels)).sum();
    let width = |variable: usize| problem.variables[variable].widths[levels[variable]] as f64;
    let steps = problem.memory.iter();
    let live = steps.map(|step| step.constant + step.terms.iter().map(|(v, bytes)| bytes * width(*v)).sum::<f64>());
    Evaluation { loss, latency_ms, memory_bytes: weights + live.fold(0.0, f64::max) }
}

fn look_up(factor: &Factor, problem: &Problem, levels: &[usize]) -> f64 {
    let scope = factor.scope.iter();
    factor.table[scope.fold(0, |entry, v| entry * problem.variables[*v].widths.len() + levels[*v])]
}
