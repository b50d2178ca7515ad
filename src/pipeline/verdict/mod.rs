//! What came of a job: the figures of every stage, the last measurement, and whether the budgets hold.
//!
//! `evaluate` gives the figures of a model, `report` those of all stages, `measure` the latency of the result, `runtime`
//! its accuracy where it runs in another runtime. `judge`
//! says whether the budgets hold, and `photos` draws where baseline and result disagree.

mod evaluate;
mod judge;
mod measure;
mod photos;
mod report;
mod runtime;

pub(super) use evaluate::Evaluator;
#[cfg(test)]
pub(super) use judge::accuracy;
pub(super) use judge::{enter, enter_simulated};
pub use judge::{judge, judge_simulated};
pub(super) use measure::finish;
pub(super) use photos::photos;
pub(super) use report::{Stages, layer_times, report};
pub(super) use runtime::in_runtime;
