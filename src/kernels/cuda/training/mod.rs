//! Launches of the kernels of a training step (`train/*.h`): tensors of batches in f32 or f16, arrays in f32.
//!
//! Positions count bytes. Every launch names all that it reads and writes, since parameters change from step to step:
//! the order of a step's launches follows from that alone.

mod arguments;
mod attention;
mod conv;
mod kernel;
mod loss;
mod norm;
mod rounding;
mod samples;
mod squares;
mod tensors;
mod update;
mod window;

pub use arguments::Batch;
pub use attention::AttentionArrays;
pub use conv::{ConvShape, WeightGradient};
pub use loss::{FACTORS_LEN, LossArrays, LossLevel, LossShape, TAKEN_BYTES, TERMS_LEN};
pub use norm::{Joined, NormArrays, Statistics, stats_len};
pub use rounding::{STEPS_LEN, device_steps};
pub use samples::{Sample, Sampled};
pub use tensors::{Parts, Tensors};
pub use update::{CONTROL_LEN, Control, RESULTS_LEN, StepArrays, StepRule, square_parts};

pub(super) use arguments::Training;
pub(super) use kernel::TrainKernel;
