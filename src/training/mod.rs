//! The training engine on a CUDA device: forward and backward pass of a graph and the step of its optimizer, as
//! launches of our own kernels over planned memory.
//!
//! Everything is decided before the first step, from graph, size and batch alone: the launches, the life of every
//! tensor, and so the memory, to the byte ([`plan`]). What does not fit is refused with the largest batch that would.
//! The forward pass is one CUDA graph with the copies of images and outputs in it; the loss and its gradient by the
//! outputs are computed on the host (`train::loss`), or for [`Detection`] on the device too, and the backward pass with the
//! optimizer is a second graph. All
//! sums have a fixed order: two runs give the same bits. Ranks with a GPU each add their gradients where they lie,
//! while the backward pass computes the next (`exchange`); where normalisations have the statistics of the batches of
//! all ranks, these exchange moments and sums between the launches. NCCL starts between the graphs into which a pass
//! is cut for that, not from within one: its plain use, in which a wait for a rank that is gone can be given up.
//!
//! Tensors are pixel-major, in f32 or, for mixed precision (Micikevicius et al., "Mixed Precision Training", 2018), in
//! f16 with sums, statistics and parameters in f32. For int8 there are further graphs, in which layers round ([`Phase`]).
//! A layer keeps what its convolution found; what comes behind, it computes again. [`LayerWalk`] has the forward passes of
//! networks side by side, layer after layer, and second moments of what they compute; [`GradientSquares`] forward and
//! backward passes without training. This module knows no data.

mod backward;
mod engine;
mod error;
mod exchange;
mod forward;
mod homes;
mod layout;
mod loss;
mod plan;
mod program;
mod recorder;
mod squares;
#[cfg(test)]
pub(crate) mod tests;
mod walk;

pub use crate::kernels::cuda::training::{Control, Sample, StepRule};
pub use engine::{Output, TrainingEngine};
pub use error::TrainingError;
pub use loss::{Detection, Factors, LossBranch, MOST_LEVELS, MOST_TOP};
pub use plan::{Memory, Setup, plan};
pub use program::Phase;
pub use squares::{GradientSquares, Squares};
pub use walk::{LaneSums, LayerWalk, Regression};
