//! What the loop of epochs asks of an engine that trains: gradients of a batch, a step of the optimizer, and the state
//! that a checkpoint keeps.
//!
//! A step has two parts, [`backward`](Stepper::backward) and [`update`](Stepper::update). Between them all gradients
//! lie in one slice, so that the ranks of a data-parallel training sum theirs. An engine that runs the whole step at
//! once replaces [`step`](Stepper::step). The loop knows epochs, order, learning rates and files; a stepper knows none
//! of these.

use super::batch::Batch;
use super::config::{At, TrainError};
use super::terms::Terms;
use crate::model::Weights;
use crate::quantise::Ranges;

/// All that a stepper changes: what is restored continues as if it had never stopped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The trained weights, running statistics included.
    pub raw: Weights,
    /// Their exponential moving average.
    pub average: Weights,
    /// Updates of the average.
    pub updates: u64,
    /// Optimizer tensors by `{slot}/{key}`, in f32.
    pub slots: Weights,
    /// Optimizer steps.
    pub steps: u64,
}

impl State {
    /// Before the first step.
    pub fn new(weights: &Weights) -> Self {
        Self { raw: weights.clone(), average: weights.clone(), ..Self::default() }
    }
}

/// Performs the steps of a training.
pub trait Stepper: Send {
    /// Runs a batch forward and backward, and keeps the gradients for [`update`](Self::update). Running statistics
    /// move.
    ///
    /// Gives the loss terms per image, over the images of all ranks. Where their sum is not finite there is no
    /// gradient: [`gradients`](Self::gradients) are not numbers, and the next [`update`](Self::update) changes nothing.
    ///
    /// # Errors
    /// If the labels are not those of the head, or the engine fails.
    fn backward(&mut self, batch: &Batch, at: At) -> Result<Terms, TrainError>;

    /// The gradients of the last [`backward`](Self::backward), all parameters in one slice: always in the same order
    /// and of the same length, zero where a parameter has none. What the caller writes there is what `update` uses.
    /// They are those of this rank's images; of an engine with its own [`step`](Self::step) they may be those of all
    /// ranks.
    ///
    /// # Errors
    /// If the engine fails.
    fn gradients(&mut self) -> Result<&mut [f32], TrainError>;

    /// Moves weights, optimizer and moving average by the gradients at a learning rate: clips them, keeps masked
    /// weights at zero and shrinks the scales that shall become sparse. Gives the norm of the gradients before
    /// clipping; where that is not finite, nothing changes.
    ///
    /// # Errors
    /// If the engine fails.
    fn update(&mut self, lr: f64) -> Result<f64, TrainError>;

    /// A whole step: the loss terms per image, and the norm of the gradients, which are summed over the ranks. Where
    /// one of them is not finite, neither weights nor optimizer change.
    ///
    /// # Errors
    /// As [`backward`](Self::backward) and [`update`](Self::update).
    fn step(&mut self, batch: &Batch, at: At, lr: f64) -> Result<(Terms, f64), TrainError> {
        let terms = self.backward(batch, at)?;
        let ranks = batch.share.ranks();
        if ranks.size() > 1 {
            ranks.sum_f32(self.gradients()?)?;
        }
        Ok((terms, self.update(lr)?))
    }

    /// From the next step on the layers that have a range compute as in int8, all others in f32.
    ///
    /// # Errors
    /// Those of the device.
    fn set_int8(&mut self, ranges: &Ranges) -> Result<(), TrainError>;

    /// The state after the last step.
    ///
    /// # Errors
    /// If the engine fails.
    fn state(&self) -> Result<State, TrainError>;

    /// Goes on from a state.
    ///
    /// # Errors
    /// If it does not fit the network, or the engine fails.
    fn restore(&mut self, state: &State) -> Result<(), TrainError>;

    /// The moving average of the weights alone, which is what ships.
    ///
    /// # Errors
    /// If the engine fails.
    fn average(&self) -> Result<Weights, TrainError>;
}
