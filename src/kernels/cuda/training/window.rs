//! Pools, upsampling, sums, copies, and the planes of images and outputs. Gradients are written or, with `add`, added to
//! what is there.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::tensors::{Tensors, Uses, array, byte, each, values};
use super::update::CONTROL_LEN;
use crate::kernels::cuda::arguments::{Region, count, int};
use crate::kernels::cuda::launch::Launch;

impl Tensors {
    /// Maximum over windows `(side, stride, padding)`; which tap it is goes to `taps`, two bytes a value of `y`.
    pub fn max_pool(self, window: (usize, usize, usize), x: Batch, taps: usize, y: Batch) -> Launch {
        let training = Training { x, y, arrays: [byte(taps), 0, 0, 0, 0, 0, 0, 0], ..windowed(window) };
        let uses = Uses { reads: &[self.region(&x)], writes: &[self.region(&y), tap_region(taps, &y)] };
        self.launch(TrainKernel::MaxPool, each(y.len()), training, uses)
    }

    /// The gradient `dx` of the input of [`Tensors::max_pool`].
    pub fn max_pool_backward(
        self,
        window: (usize, usize, usize),
        dy: Batch,
        taps: usize,
        dx: Batch,
        add: bool,
    ) -> Launch {
        let arrays = [byte(taps), 0, 0, 0, 0, 0, 0, 0];
        let training = Training { x: dy, y: dx, arrays, add: add.into(), ..windowed(window) };
        let uses = Uses { reads: &[self.region(&dy), tap_region(taps, &dy)], writes: &[self.region(&dx)] };
        self.launch(TrainKernel::MaxPoolBackward, each(dx.len()), training, uses)
    }

    /// Mean over windows `(side, stride)` without padding.
    pub fn average_pool(self, (kernel, stride): (usize, usize), x: Batch, y: Batch) -> Launch {
        self.between(TrainKernel::AveragePool, windowed((kernel, stride, 0)), x, y)
    }

    /// The gradient of [`Tensors::average_pool`].
    pub fn average_pool_backward(self, (kernel, stride): (usize, usize), dy: Batch, dx: Batch, add: bool) -> Launch {
        let training = Training { add: add.into(), ..windowed((kernel, stride, 0)) };
        self.between(TrainKernel::AveragePoolBackward, training, dy, dx)
    }

    /// Mean over all positions.
    pub fn global_average(self, x: Batch, y: Batch) -> Launch {
        let grid = [count(x.c.into(), 32), count(x.n.into(), 1), 1];
        let uses = Uses { reads: &[self.region(&x)], writes: &[self.region(&y)] };
        self.launch(TrainKernel::GlobalAverage, grid, Training { x, y, ..Training::default() }, uses)
    }

    /// The gradient of [`Tensors::global_average`].
    pub fn global_average_backward(self, dy: Batch, dx: Batch, add: bool) -> Launch {
        let training = Training { add: add.into(), ..Training::default() };
        self.between(TrainKernel::GlobalAverageBackward, training, dy, dx)
    }

    /// Repeats every value `factor` times in both directions.
    pub fn upsample(self, factor: usize, x: Batch, y: Batch) -> Launch {
        self.between(TrainKernel::Upsample, Training { factor: int(factor), ..Training::default() }, x, y)
    }

    /// The gradient of [`Tensors::upsample`].
    pub fn upsample_backward(self, factor: usize, dy: Batch, dx: Batch, add: bool) -> Launch {
        let training = Training { factor: int(factor), add: add.into(), ..Training::default() };
        self.between(TrainKernel::UpsampleBackward, training, dy, dx)
    }

    /// `y = x`, or `y += x`.
    pub fn copy(self, x: Batch, y: Batch, add: bool) -> Launch {
        self.between(TrainKernel::Copy, Training { add: add.into(), ..Training::default() }, x, y)
    }

    /// `y = 0`.
    pub fn zero(self, y: Batch) -> Launch {
        let uses = Uses { reads: &[], writes: &[self.region(&y)] };
        self.launch(TrainKernel::Zero, each(y.len()), Training { y, ..Training::default() }, uses)
    }

    /// `z = x + y`.
    pub fn add(self, x: Batch, y: Batch, z: Batch) -> Launch {
        let uses = Uses { reads: &[self.region(&x), self.region(&y)], writes: &[self.region(&z)] };
        self.launch(TrainKernel::Add, each(z.len()), Training { x, y, z, ..Training::default() }, uses)
    }

    /// The planes `[n, c, h, w]` in f32 at `planes` to a tensor; with the control of a step at `scale`, times the scale of
    /// its loss.
    pub fn import(self, planes: usize, y: Batch, add: bool, scale: Option<usize>) -> Launch {
        let x = Batch { at: byte(planes), pitch: y.c, ..y };
        let training = Training {
            x,
            y,
            arrays: [0, 0, 0, 0, 0, 0, scale.map_or(0, byte), 0],
            factor: scale.is_some().into(),
            add: add.into(),
            ..Training::default()
        };
        let control = scale.map_or_else(Region::default, |at| values(at, CONTROL_LEN as i64));
        let uses = Uses { reads: &[x.region(4), control], writes: &[self.region(&y)] };
        self.launch(TrainKernel::Import, each(y.len()), training, uses)
    }

    /// A tensor to planes `[n, c, h, w]` in f32 at `planes`.
    pub fn export(self, x: Batch, planes: usize) -> Launch {
        let y = Batch { at: byte(planes), pitch: x.c, ..x };
        let uses = Uses { reads: &[self.region(&x)], writes: &[y.region(4)] };
        self.launch(TrainKernel::Export, each(x.len()), Training { x, y, ..Training::default() }, uses)
    }

    fn between(self, kernel: TrainKernel, training: Training, x: Batch, y: Batch) -> Launch {
        let uses = Uses { reads: &[self.region(&x)], writes: &[self.region(&y)] };
        self.launch(kernel, each(y.len()), Training { x, y, ..training }, uses)
    }
}

fn windowed((kernel, stride, padding): (usize, usize, usize)) -> Training {
    let [kernel, stride, padding] = [kernel, stride, padding].map(int);
    Training { kernel, stride, padding, ..Training::default() }
}

fn tap_region(taps: usize, y: &Batch) -> Region {
    array(byte(taps), 2 * y.len())
}
