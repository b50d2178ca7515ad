//! From gradients to new parameters.

use super::arguments::Training;
use super::kernel::TrainKernel;
use super::tensors::{Tensors, Uses, byte, each, values};
use crate::kernels::cuda::arguments::{count, int};
use crate::kernels::cuda::launch::Launch;

/// What the host says of a step. The order is that of `train/tensors.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Control {
    /// Learning rate.
    pub rate: f32,
    /// AdamW: `1 / (1 - beta1^t)`.
    pub first_correction: f32,
    /// AdamW: `1 / sqrt(1 - beta2^t)`.
    pub second_correction: f32,
    /// Share of the new parameters in the moving average.
    pub ema_share: f32,
    /// Gradients are multiplied by it: the inverse of the loss' scale.
    pub unscale: f32,
    /// Gradients with a larger norm are scaled down to it.
    pub clip: f32,
    /// The gradients of the outputs are multiplied by it.
    pub loss_scale: f32,
}

/// Values of a [`Control`] on the device, and of what a step answers: the gradient's norm, and 1 where it is finite.
pub const CONTROL_LEN: usize = 8;
/// See [`CONTROL_LEN`].
pub const RESULTS_LEN: usize = 2;

impl Control {
    /// As the device reads it.
    pub fn values(&self) -> [f32; CONTROL_LEN] {
        let Self { rate, first_correction, second_correction, ema_share, unscale, clip, loss_scale } = *self;
        [rate, first_correction, second_correction, ema_share, unscale, clip, loss_scale, 0.0]
    }
}

/// How parameters follow from gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StepRule {
    /// Stochastic gradient descent.
    Sgd {
        /// Momentum.
        momentum: f32,
        /// Whether the gradient looks ahead by it.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay of both running means.
        betas: [f32; 2],
        /// Added to the root.
        eps: f32,
    },
    /// Nothing changes but the moving average.
    Fixed,
}

/// The arrays of a run of parameters: first bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepArrays {
    /// Parameters.
    pub values: usize,
    /// Their gradients.
    pub gradients: usize,
    /// Slots of the optimizer.
    pub slots: [usize; 2],
    /// Moving averages.
    pub averages: usize,
    /// What parameters are multiplied by after every step.
    pub masks: Option<usize>,
    /// [`Control`].
    pub control: usize,
    /// What the step answers.
    pub results: usize,
}

/// Gradients whose squares a block sums up.
const SQUARES: usize = 1 << 14;

/// Sums of squares of so many gradients.
pub fn square_parts(len: usize) -> usize {
    len.div_ceil(SQUARES).max(1)
}

impl Tensors {
    /// The norm of `len` gradients at `gradients`, without the scale of the loss; `parts` is room for
    /// [`square_parts`] values.
    pub fn gradient_norm(self, gradients: usize, len: usize, parts: usize, arrays: &StepArrays) -> [Launch; 2] {
        let blocks = square_parts(len);
        let training = Training {
            arrays: [byte(parts), byte(gradients), 0, 0, 0, 0, byte(arrays.control), byte(arrays.results)],
            count: byte(len),
            rows: int(SQUARES),
            splits: int(blocks),
            ..Training::default()
        };
        let sums = values(parts, blocks as i64);
        let first = Uses { reads: &[values(gradients, byte(len))], writes: &[sums] };
        let results = [values(arrays.results, RESULTS_LEN as i64)];
        let second = Uses { reads: &[sums, values(arrays.control, CONTROL_LEN as i64)], writes: &results };
        [
            self.launch(TrainKernel::Squares, [count(blocks as i64, 1), 1, 1], training, first),
            self.launch(TrainKernel::NormJoined, [1, 1, 1], training, second),
        ]
    }

    /// A step of `len` parameters with weight decay `decay`, whose values move toward zero by `shrink` times the rate.
    pub fn step(self, rule: StepRule, (decay, shrink): (f32, f32), len: usize, arrays: &StepArrays) -> Launch {
        let (number, slots, scale, momentum, eps) = match rule {
            StepRule::Sgd { momentum, nesterov } => (i32::from(nesterov), 1, 0.0, momentum, 0.0),
            StepRule::AdamW { betas, eps } => (2, 2, betas[0], betas[1], eps),
            StepRule::Fixed => (3, 0, 0.0, 0.0, 0.0),
        };
        let StepArrays { values: own, gradients, slots: [first, second], averages, masks, control, results } = *arrays;
        let training = Training {
            arrays: [own, gradients, first, second, averages, masks.unwrap_or(0), control, results].map(byte),
            count: byte(len),
            rule: number,
            scale,
            momentum,
            eps,
            decay,
            shrink,
            add: masks.is_some().into(),
            ..Training::default()
        };
        let run = |at: usize| values(at, byte(len));
        let mut reads = vec![values(control, CONTROL_LEN as i64), values(results, RESULTS_LEN as i64)];
        reads.extend(masks.map(run));
        let mut writes = vec![run(averages)];
        if slots == 0 {
            reads.push(run(own));
        } else {
            reads.push(run(gradients));
            writes.push(run(own));
            writes.extend([first, second][..slots].iter().map(|at| run(*at)));
        }
        self.launch(TrainKernel::Step, each(byte(len)), training, Uses { reads: &reads, writes: &writes })
    }
}
