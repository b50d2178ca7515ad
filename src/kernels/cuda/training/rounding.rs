//! The rounding of int8 in a training step.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::tensors::{Tensors, Uses, byte, each, values};
use crate::kernels::InputSteps;
use crate::kernels::cuda::arguments::count;
use crate::kernels::cuda::launch::Launch;

/// Values of the steps of an input on the device.
pub const STEPS_LEN: usize = 8;

/// The steps of an input as the device reads them; none of a layer that computes as it is. The order is that of
/// `train/rounding.h`.
pub fn device_steps(steps: Option<InputSteps>) -> [f32; STEPS_LEN] {
    let [scale, factor, least, most] = steps.map_or([0.0; 4], InputSteps::values);
    [if steps.is_some() { 1.0 } else { 0.0 }, scale, factor, least, most, 0.0, 0.0, 0.0]
}

impl Tensors {
    /// `y` = what int8 computes with in place of `x`; `steps` is the first byte of its steps.
    pub fn round(self, x: Batch, steps: usize, y: Batch) -> Launch {
        let training = Training { x, y, arrays: [0, 0, byte(steps), 0, 0, 0, 0, 0], ..Training::default() };
        let reads = [self.region(&x), values(steps, STEPS_LEN as i64)];
        self.launch(TrainKernel::Round, each(x.len()), training, Uses { reads: &reads, writes: &[self.region(&y)] })
    }

    /// The gradient `dx` of `x`, written or added to what is there, from the gradient `dy` of what `x` became.
    pub fn round_backward(self, x: Batch, steps: usize, dy: Batch, dx: Batch, add: bool) -> Launch {
        let arrays = [0, 0, byte(steps), 0, 0, 0, 0, 0];
        let training = Training { x, y: dy, z: dx, arrays, add: add.into(), ..Training::default() };
        let reads = [self.region(&x), self.region(&dy), values(steps, STEPS_LEN as i64)];
        let uses = Uses { reads: &reads, writes: &[self.region(&dx)] };
        self.launch(TrainKernel::RoundBackward, each(x.len()), training, uses)
    }

    /// A kernel of so many rows, the output channels, of so many values each, from byte `kernel` to byte `rounded`: every
    /// row in steps of its own scale, if its layer's input has `steps`.
    pub fn round_kernel(self, [kernel, rounded, steps]: [usize; 3], [rows, depth]: [usize; 2]) -> Launch {
        let arrays = [byte(kernel), byte(rounded), byte(steps), 0, 0, 0, 0, 0];
        let training = Training { arrays, count: byte(depth), ..Training::default() };
        let len = byte(rows * depth);
        let uses =
            Uses { reads: &[values(kernel, len), values(steps, STEPS_LEN as i64)], writes: &[values(rounded, len)] };
        self.launch(TrainKernel::RoundKernel, [count(byte(rows), 1), 1, 1], training, uses)
    }
}
