//! From importance and latency to widths that hold the budgets when measured.
//!
//! `sensitivity` ranks channels and measures the loss of every group, `table` the latency of every layer. `problem` puts
//! both together for `space`, which searches and certifies. `refine` corrects what the search asks for (`target`) until
//! the plan holds when it is measured (`trial`, `measure`), and `choose` compares the plans that hold, by their outputs and
//! by the minimum recall of classes (`min_recall`). `advice` explains what would do where no plan holds. `uniform` has the
//! simple rules that the search must beat.

mod advice;
mod choose;
mod measure;
mod min_recall;
mod planned;
mod problem;
mod refine;
mod sensitivity;
mod space;
mod sparse;
mod statistics;
mod table;
mod target;
mod trial;
mod uniform;

pub(super) use advice::describe;
pub(super) use measure::{baseline_millis, utilisation};
pub use planned::{Planned, plan};
pub use problem::levels;
pub(super) use refine::refine_plan;
pub(super) use sensitivity::sensitivity;
#[cfg(test)]
pub(super) use sensitivity::{GroupSensitivity, importance_key};
pub(super) use space::SearchSpace;
pub(super) use sparse::sparsify;
pub(super) use statistics::collect;
#[cfg(test)]
pub(super) use table::table_key;
pub(super) use table::{levels as all_levels, table};
pub(super) use target::Bracket;
pub(super) use uniform::{Rule, widths};
