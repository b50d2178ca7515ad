//! Which channels matter least: a [`Ranking`] orders the channels of every group, first to be removed to last.
//!
//! A [`Criterion`] says how ([`rank`]), from the weights and from what it reads besides them ([`Statistics`]). How much
//! the loss rises when a group is pruned to a width is then *measured* ([`measure`]), so that groups can be compared
//! with each other whatever criterion ordered their channels. [`sparsify`] sets single weights to zero instead of
//! removing channels.

mod activations;
mod batches;
mod check;
mod covariances;
mod curves;
mod elements;
mod error;
mod gradients;
mod greedy;
mod on_cpu;
mod ranking;
mod reconstruction;
mod sensitivity;
mod statistics;
mod suffix;
mod weights;

pub use crate::profile::Criterion;
pub use crate::quantise::{Images, kl_divergence, outputs};
pub use activations::{Activations, activations};
pub use batches::Batches;
pub use covariances::{Covariances, covariances};
pub use curves::{LossCurves, Sampling, measure};
pub use elements::{Pattern, sparsify};
pub use error::{ImportanceError, Missing, SensitivityError};
pub use gradients::{MaskGradients, mask_gradients};
pub use ranking::{Ranking, rank, scores};
pub use sensitivity::{sensitivity, sensitivity_bytes_on_gpu};
pub use statistics::Statistics;
