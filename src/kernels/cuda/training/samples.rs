//! Samples of the regressions of a convolution, and the sums of their products: see `train/samples.h`.

use super::arguments::{Batch, Training};
use super::conv::ConvShape;
use super::kernel::TrainKernel;
use super::tensors::{Tensors, Uses, byte, each, values};
use crate::kernels::cuda::arguments::{count, int};
use crate::kernels::cuda::launch::Launch;

/// Columns and rows of a tile of products.
const TILE: usize = 64;

/// Positions whose products are added up in f32.
const RUN: usize = 512;

/// Blocks of products that keep a large GPU busy, and the most splits of the positions for that.
const BLOCKS: usize = 256;
const SPLITS: usize = 16;

/// A sample: a position of a convolution's output, and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Number of the image in the batch.
    pub image: usize,
    /// Row of the output.
    pub y: usize,
    /// Column of the output.
    pub x: usize,
    /// Root of the weight.
    pub root: f32,
}

impl Sample {
    /// Values that it takes on the device.
    pub const LEN: usize = 4;

    /// As the kernels read it: three integers and a value.
    pub fn values(&self) -> [f32; Self::LEN] {
        let [image, y, x] = [self.image, self.y, self.x].map(|n| f32::from_bits(int(n) as u32));
        [image, y, x, self.root]
    }
}

/// The regressions of a convolution, one of all channels or, where it is depthwise, one of each, and where all of it
/// lies on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its window.
    pub window: ConvShape,
    /// What it reads.
    pub x: Batch,
    /// What has the outputs.
    pub z: Batch,
    /// Outputs of a regression.
    pub outputs: usize,
    /// First byte of the samples, and how many.
    pub samples: (usize, usize),
    /// First byte of the pivots `[lane][column]`: inputs, then outputs.
    pub pivots: usize,
    /// First byte of the channels of the outputs, integers `[lane][output]`.
    pub channels: usize,
}

impl Sampled {
    /// Regressions.
    pub fn lanes(&self) -> usize {
        if self.window.depthwise { self.c_in() } else { 1 }
    }

    /// Inputs of a regression.
    pub fn inputs(&self) -> usize {
        self.c_in() / self.lanes().max(1) * self.window.kernel * self.window.kernel
    }

    /// Inputs and outputs of a regression.
    pub fn columns(&self) -> usize {
        self.inputs() + self.outputs
    }

    fn c_in(&self) -> usize {
        usize::try_from(self.x.c).unwrap_or(0)
    }

    /// Blocks of a split along both sides of the products.
    fn tiles(&self) -> [usize; 2] {
        [self.inputs(), self.columns()].map(|width| width.div_ceil(TILE))
    }

    /// How many positions each split has where products of so many are added up: every split has sums of its own.
    pub fn rows(&self, positions: usize) -> usize {
        positions.div_ceil(self.most_splits()).max(1).next_multiple_of(RUN)
    }

    /// The most splits that there are.
    pub fn most_splits(&self) -> usize {
        let blocks = self.tiles().into_iter().product::<usize>() * self.lanes();
        (BLOCKS / blocks.max(1)).clamp(1, SPLITS)
    }

    fn training(&self, to: usize, add: bool) -> Training {
        let [kernel, stride, padding] = [self.window.kernel, self.window.stride, self.window.padding].map(int);
        let arrays = [self.samples.0, self.pivots, self.channels, to].map(byte);
        let [positions, pivots, channels, to] = arrays;
        Training {
            x: self.x,
            z: self.z,
            y: Batch { c: int(self.columns()), ..Batch::default() },
            arrays: [positions, pivots, channels, to, 0, 0, 0, 0],
            count: self.samples.1 as i64,
            heads: int(self.lanes()),
            kernel,
            stride,
            padding,
            add: add.into(),
            ..Training::default()
        }
    }

    fn launch(&self, kernel: TrainKernel, grid: [u32; 3], training: Training, (to, len): (usize, usize)) -> Launch {
        let (lanes, tensors) = (self.lanes(), Tensors { f16: false });
        let outputs = if self.outputs > 0 { self.z } else { self.x };
        let arrays = [
            (self.samples.0, Sample::LEN * self.samples.1),
            (self.pivots, lanes * self.columns()),
            (self.channels, lanes * self.outputs),
        ];
        let [samples, pivots, channels] = arrays.map(|(at, len)| values(at, len as i64));
        let reads = [tensors.region(&self.x), tensors.region(&outputs), samples, pivots, channels];
        tensors.launch(kernel, grid, training, Uses { reads: &reads, writes: &[values(to, len as i64)] })
    }

    /// Writes the samples themselves as f32 `[lane][column][position]`, from byte `to` on.
    pub fn values(&self, to: usize) -> Launch {
        let len = self.lanes() * self.columns() * self.samples.1;
        self.launch(TrainKernel::SampleValues, each(len as i64), self.training(to, false), (to, len))
    }

    /// Writes, or adds to what is there, the weighted sums of all columns, less their pivots, as f64 `[lane][column]`.
    pub fn sums(&self, to: usize, add: bool) -> Launch {
        let grid = [self.columns(), self.lanes(), 1].map(|n| count(n as i64, 1));
        let len = 2 * self.lanes() * self.columns();
        self.launch(TrainKernel::SampleSums, grid, self.training(to, add), (to, len))
    }

    /// Writes, or adds to what is there, the weighted sums of products of inputs with all columns, both less their
    /// pivots, of every split of `rows` positions, as f64 `[split][lane][input][column]`; of inputs with inputs only
    /// where the second is not before the first.
    pub fn products(&self, to: usize, rows: usize, add: bool) -> Launch {
        let (splits, [high, wide]) = (self.samples.1.div_ceil(rows.max(1)), self.tiles());
        let grid = [high, wide, self.lanes() * splits].map(|n| count(n as i64, 1));
        let training = Training { rows: int(rows), ..self.training(to, add) };
        let len = 2 * splits * self.lanes() * self.inputs() * self.columns();
        self.launch(TrainKernel::SampleProducts, grid, training, (to, len))
    }
}
