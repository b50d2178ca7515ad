//! Where latencies come from: a [`LatencySource`] with several implementations.
//!
//! `here` times networks on this machine, `session` on a device, `runtime` there in another runtime, `command` by a benchmark
//! command of the user; `estimate` times nothing and predicts from figures of the device's CPU or GPU. A [`Timing`] says which one a job uses.

mod command;
mod content;
mod estimate;
mod here;
mod paired;
mod runtime;
mod select;
mod session;
mod source;

pub use command::pair_by_command;
pub use paired::{PairedLatency, verdict_runs};
pub(super) use paired::{bound, percentile};
pub use runtime::pair_by_runtime;
pub use select::Timing;
pub(super) use source::{LatencySource, PairSpec, TableRequest};
