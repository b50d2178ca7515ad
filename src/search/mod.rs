//! Widths that meet the budgets at the least loss, with a certificate.
//!
//! The problem is abstract: variables with a few levels each, a loss per level, latency as a sum of tables over few
//! variables, memory as tables plus the greatest of many linear sums. This module knows no graphs, files or devices.
//!
//! [`solve`] goes through these steps:
//!
//! 1. **Reach.** The least violation of the budgets is bounded from below; above zero it proves that no plan fits, and
//!    [`Infeasible`] gives the least latency and memory, and the least budgets that can be met.
//! 2. **Dual.** The budgets get multipliers. For fixed multipliers the sum of all terms is minimised exactly by
//!    eliminating variable after variable (non-serial dynamic programming; Bertelè and Brioschi, 1972) in min-fill
//!    order, or bounded by mini-buckets (Dechter and Rish, 2003) where tables would grow too large. The multipliers
//!    rise by cutting planes (Kelley, 1960) with smoothing (Wentges, 1997); memory steps take part once violated.
//! 3. **Primal.** The dual's minimisers are repaired and improved by 1- and 2-exchange and by solving small blocks of
//!    variables exactly while all others are fixed.
//! 4. **Closing.** A depth-first search over what the dual cannot exclude proves the optimum where it ends in time.
//!
//!    What is left is split at the levels of one variable, each part with a dual of its own, the weakest bound first.
//!
//! All limits are counted, none is timed: the same problem gives the same answer. What is returned has been computed
//! again by [`evaluate`], which shares no arithmetic with the search.

mod branch;
mod buckets;
mod check;
mod compile;
mod driver;
mod dual;
mod elimination;
mod evaluate;
mod exact;
mod find;
mod infeasible;
mod local;
mod master;
mod primal;
mod table;

pub use driver::{certify, solve};
pub use evaluate::{Evaluation, evaluate};
pub use infeasible::{Infeasible, Reachable, Relaxation};
use serde::{Deserialize, Serialize};

/// One decision: the width of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// What errors call it.
    pub name: String,
    /// Channels at each level, ascending; the last is that of the baseline.
    pub widths: Vec<usize>,
    /// Loss at each level, at least 0, in any unit that adds up over variables.
    pub loss: Vec<f64>,
}

/// A term over the levels of a few variables.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// Indices of the variables, each once. May be empty for a constant.
    pub scope: Vec<usize>,
    /// The value for every combination of levels, at least 0; the last variable of the scope runs fastest.
    pub table: Vec<f64>,
}

/// Bytes that are live at one step: `constant + sum(bytes * width)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryTerm {
    /// Bytes whatever the widths.
    pub constant: f64,
    /// Variable and its bytes per channel, at least 0. A variable may occur more than once.
    pub terms: Vec<(usize, f64)>,
}

/// What a plan may cost. A missing budget does not bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SearchBudget {
    /// Milliseconds: the most that the sum of all latency factors may be.
    pub latency_ms: Option<f64>,
    /// Bytes: the most that the weights plus the greatest memory step may be.
    pub memory_bytes: Option<f64>,
}

/// All that the search knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    /// One per channel group.
    pub variables: Vec<Variable>,
    /// Latency terms in milliseconds.
    pub factors: Vec<Factor>,
    /// Live bytes at every step.
    pub memory: Vec<MemoryTerm>,
    /// Bytes of the weights, which are there at every step.
    pub weight_factors: Vec<Factor>,
    /// The limits.
    pub budget: SearchBudget,
}

/// How hard to search. All limits are counts, so that answers do not depend on the clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Stop improving at this certified relative gap. What can be proven optimal quickly is, whatever the gap.
    pub gap: f64,
    /// Further feasible solutions to return, different from the best and from each other.
    pub alternatives: usize,
    /// The most entries of an elimination table; beyond it the bound gets weaker but remains valid.
    pub max_table: usize,
    /// The most evaluations of the dual.
    pub dual_steps: usize,
    /// The most blocks of variables solved again.
    pub blocks: usize,
    /// The most nodes of the closing search. A problem with fewer plans than this is solved to proven optimality.
    pub nodes: usize,
    /// The most splits of the levels of a variable with a dual of their own.
    pub branches: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gap: 1e-6,
            alternatives: 0,
            max_table: 1 << 22,
            dual_steps: 150,
            blocks: 400,
            nodes: 400_000,
            branches: 150,
        }
    }
}

/// What the search has found so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// No plan loses less than this.
    Bound(f64),
    /// A plan within the budgets that loses this was found.
    Found(f64),
}

/// A plan within the budgets, and what is proven about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The chosen level of every variable.
    pub levels: Vec<usize>,
    /// Sum of the losses.
    pub loss: f64,
    /// Sum of the latency factors.
    pub latency_ms: f64,
    /// Weights plus the greatest memory step.
    pub memory_bytes: f64,
    /// No plan within the budgets loses less.
    pub lower_bound: f64,
    /// `(loss - lower_bound) / loss`, 0 when the plan is proven best.
    pub gap: f64,
    /// As many further plans as [`Options::alternatives`] asked for and the search met, by ascending loss.
    pub alternatives: Vec<Alternative>,
}

/// What is proven about a plan that came from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Certificate {
    /// Sum of the plan's losses.
    pub loss: f64,
    /// Sum of its latency factors.
    pub latency_ms: f64,
    /// No plan within the budgets loses less.
    pub lower_bound: f64,
    /// `(loss - lower_bound) / loss`, 0 when the plan is proven best.
    pub gap: f64,
}

/// Another plan within the budgets.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// The chosen level of every variable.
    pub levels: Vec<usize>,
    /// Its figures.
    pub evaluation: Evaluation,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SearchError {
    /// The problem contradicts itself.
    #[error("{place}: {problem}")]
    InvalidProblem {
        /// The variable, factor, step or budget.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No plan within the budgets.
    #[error("{0}")]
    Infeasible(Box<Infeasible>),
}
