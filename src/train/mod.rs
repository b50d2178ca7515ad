//! Training: losses with their analytic gradients, optimisers, distillation, and the loop that puts them together.
//!
//! Losses ([`loss`], [`distill`]) are plain functions on slices of head outputs: they know no tensor library, so that
//! importance scores and tests can use them alone.

pub mod distill;
mod init;
pub mod loss;
pub mod optim;
mod schedule;

pub use init::init;
pub use schedule::{Decay, Ema, Schedule};
