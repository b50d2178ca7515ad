//! Training: losses with their analytic gradients, optimizers, distillation, and the loop that puts them together.
//!
//! Losses ([`loss`], [`distill`]) are plain functions on slices of head outputs: they know no tensor library, so that
//! importance scores and tests can use them alone.

mod augment;
mod autograd;
mod batch;
mod checkpoint;
mod config;
mod course;
pub mod distill;
mod fit;
mod identity;
mod init;
mod int8;
mod judge;
mod kept;
mod labels;
pub mod loss;
mod objective;
mod on_cuda;
pub mod optim;
mod recipe;
mod record;
mod schedule;
mod shapes;
mod stepper;
mod stop;
mod terms;
mod transfer;
mod variation;

pub use batch::Batch;
pub use checkpoint::{discard, set_aside};
pub use config::{At, EpochRow, FitConfig, FitEvent, HoldOut, Int8Epochs, PastEpoch, TrainError};
pub use fit::fit;
pub use identity::{Identity, content};
pub use init::init;
pub use kept::held_split;
pub use labels::Labels;
pub use objective::label_loss;
pub use on_cuda::{Cuda, Device};
pub use recipe::Recipe;
pub use record::Record;
pub use schedule::{Decay, Ema, Schedule};
pub use shapes::Moved;
pub use stepper::{State, Stepper};
pub use stop::Stop;
pub use terms::Terms;
pub use transfer::{Transfer, command as transfer_command, purpose, transfer};
pub use variation::{Augment, sided};
