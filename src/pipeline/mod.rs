//! The whole job, from a model, a dataset and budgets to a smaller model and the figures that prove it.
//!
//! * `run` lists the stages in their order; `finetune` and `sizes` are two of them, `compare` is a job of its own.
//! * `inputs` reads and checks model and data, and prepares what calibration needs.
//! * `timing` says where latencies come from: this machine, a device, a command of the user, an estimate.
//! * `int8` makes the int8 model: calibration and accuracy control.
//! * `plan` finds widths that hold the budgets when measured.
//! * `verdict` evaluates every stage, measures the result and judges the budgets.
//! * `locking` holds a run against `secateurs.lock`, enters it there, and keeps its plan until it has ended.
//! * `results` and `write` replace the folder of the results as a whole.
//!
//! The stages are pure functions of lower layers; this room only connects them, caches, and reports progress through
//! [`Progress`]. [`PipelineError`] says why a job ended early. Nothing here knows terminals or exit codes.

mod cache;
mod compare;
mod context;
mod error;
mod finetune;
mod inputs;
mod int8;
mod job;
mod locking;
mod plan;
mod progress;
mod results;
mod run;
mod sizes;
#[cfg(test)]
mod tests;
mod timing;
mod verdict;
mod write;

pub use compare::{Scheme, compare};
pub use error::{PipelineError, Task};
pub use inputs::{DEMO_MODEL, check, drawn, drawn_for, has_room};
pub use int8::{Int8, Int8Options, MAX_DROP, to_int8};
pub use job::{Job, Locking, MinRecall, Tune};
pub use locking::{Pending, check_locked};
pub use plan::levels;
pub use progress::{Event, Progress};
pub use results::{Results, room};
pub use run::{Done, run};
pub use timing::{PairedLatency, Timing, pair_by_command, pair_by_runtime, verdict_runs};
pub use verdict::{judge, judge_simulated};
pub use write::{Bundle, Measurement, Outcome, PlanFile, Release, write};
