//! The inputs of a job, checked: each of its parts is complete when it is built.
//!
//! [`Opened`] is what a job names, read and checked against each other (`baseline`, `data`, `check`); [`Inputs`] adds what
//! is computed of it before any plan (`calibration`, `deployment`, the output sensitivity).

mod baseline;
mod calibration;
mod check;
mod data;
mod deployment;
mod devices;
mod gathered;
mod opened;

#[cfg(test)]
pub(super) use baseline::Baseline;
pub use baseline::DEMO_MODEL;
pub use check::{check, has_room};
pub(super) use check::{inputs as check_inputs, outputs as check_outputs};
pub use data::{drawn, drawn_for};
pub(super) use deployment::RANGE_IMAGES;
#[cfg(test)]
pub(super) use devices::{moments_on, sensitivity_on};
pub(super) use gathered::{Inputs, RIDGE};
pub(super) use opened::Opened;
