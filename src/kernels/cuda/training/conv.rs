//! Convolutions, transposed ones included: a transposed convolution is the data gradient of the convolution whose output
//! has its input's channels, and the other way round.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::tensors::{Parts, Tensors, Uses, byte, each, values};
use crate::kernels::cuda::arguments::{Region, count, int};
use crate::kernels::cuda::launch::Launch;

/// The window of a convolution: the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Side of the kernel.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
    /// Whether every channel is convolved by itself.
    pub depthwise: bool,
}

impl ConvShape {
    fn training(&self) -> Training {
        let [kernel, stride, padding] = [self.kernel, self.stride, self.padding].map(int);
        Training { kernel, stride, padding, ..Training::default() }
    }

    fn taps(&self) -> i64 {
        (self.kernel * self.kernel) as i64
    }
}

/// How the gradient of a kernel is summed up, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightGradient {
    /// First byte of the gradient `[c_out][tap][c_in]`.
    pub at: usize,
    /// First byte of the parts, `parts.count` times as long; unused where there is one part.
    pub parts_at: usize,
    /// The parts, from [`Tensors::weight_parts`].
    pub parts: Parts,
    /// Whether the gradient is added to what is there.
    pub add: bool,
}

/// Columns of the tile for a product of this width.
fn columns(width: i64) -> i64 {
    if width <= 32 { 16 } else { 64 }
}

impl Tensors {
    /// `y = conv(x)`, with the kernel `[c_out][tap][c_in]` and the bias at these bytes; `add` to what is there, as the data
    /// gradient of a transposed convolution may have to.
    pub fn conv(
        self,
        shape: &ConvShape,
        x: Batch,
        (kernel, bias): (usize, Option<usize>),
        y: Batch,
        add: bool,
    ) -> Launch {
        let training = Training {
            x,
            y,
            arrays: [byte(kernel), bias.map_or(0, byte), 0, 0, 0, 0, 0, 0],
            has_bias: bias.is_some().into(),
            add: add.into(),
            ..shape.training()
        };
        let depth = if shape.depthwise { 1 } else { i64::from(x.c) };
        let reads = self.operands(x, (kernel, shape.taps() * depth * i64::from(y.c)), bias.map(|b| (b, y.c)));
        let uses = Uses { reads: &reads, writes: &[self.region(&y)] };
        if shape.depthwise {
            return self.launch(TrainKernel::Depthwise, each(y.len()), training, uses);
        }
        let (kernel, grid) = tiles(y.pixels(), y.c.into(), [TrainKernel::Conv16, TrainKernel::Conv64]);
        self.launch(kernel, grid, training, uses)
    }

    /// `y` = the gradient of the input, written or added to what is there, from the gradient `x` of the output. With a bias
    /// and the kernel `[c_in][tap][c_out]`, this is a transposed convolution.
    pub fn conv_data(
        self,
        shape: &ConvShape,
        x: Batch,
        (kernel, bias): (usize, Option<usize>),
        y: Batch,
        add: bool,
    ) -> Launch {
        let training = Training {
            x,
            y,
            arrays: [byte(kernel), bias.map_or(0, byte), 0, 0, 0, 0, 0, 0],
            has_bias: bias.is_some().into(),
            add: add.into(),
            ..shape.training()
        };
        let depth = if shape.depthwise { 1 } else { i64::from(x.c) };
        let reads = self.operands(x, (kernel, shape.taps() * depth * i64::from(y.c)), bias.map(|b| (b, y.c)));
        let uses = Uses { reads: &reads, writes: &[self.region(&y)] };
        if shape.depthwise {
            return self.launch(TrainKernel::DepthwiseData, each(y.len()), training, uses);
        }
        // The largest residue decides about the grid.
        let side = |side: i32| (i64::from(side) + shape.stride as i64 - 1) / shape.stride as i64;
        let rows = i64::from(y.n) * side(y.h) * side(y.w);
        let (kernel, [rows, columns, _]) = tiles(rows, y.c.into(), [TrainKernel::ConvData16, TrainKernel::ConvData64]);
        let residues = u32::try_from(shape.stride * shape.stride).unwrap_or(u32::MAX);
        self.launch(kernel, [rows, columns, residues], training, uses)
    }

    fn operands(self, x: Batch, (kernel, len): (usize, i64), bias: Option<(usize, i32)>) -> [Region; 3] {
        let bias = bias.map_or_else(Region::default, |(at, c)| values(at, c.into()));
        [self.region(&x), values(kernel, len), bias]
    }

    /// The parts that the gradient of a kernel is summed up in.
    pub fn weight_parts(shape: &ConvShape, [n, c_out, h, w]: [usize; 4], c_in: usize) -> Parts {
        let pixels = n * h * w;
        if shape.depthwise {
            return Parts::of(pixels);
        }
        let width = shape.kernel * shape.kernel * c_in;
        let tiles = c_out.div_ceil(64) * width.div_ceil(columns(width as i64) as usize);
        // About two blocks for each multiprocessor of a large GPU.
        let wanted = (256 / tiles.max(1)).clamp(1, pixels.div_ceil(256).max(1));
        Parts::cut(pixels, pixels.div_ceil(wanted).next_multiple_of(16))
    }

    /// The gradient of the kernel from the input `x` and the gradient `z` of the output.
    pub fn conv_weights(self, shape: &ConvShape, x: Batch, z: Batch, gradient: &WeightGradient) -> Vec<Launch> {
        let depth = if shape.depthwise { 1 } else { i64::from(x.c) };
        let len = i64::from(z.c) * shape.taps() * depth;
        let split = gradient.parts.count > 1 || (shape.depthwise && gradient.add);
        let target = if split { gradient.parts_at } else { gradient.at };
        let training = Training {
            x,
            z,
            arrays: [byte(target), 0, 0, 0, 0, 0, 0, 0],
            add: (gradient.add && !split).into(),
            rows: int(gradient.parts.rows),
            splits: int(gradient.parts.count),
            ..shape.training()
        };
        let parts = gradient.parts.count as i64;
        let uses = Uses { reads: &[self.region(&x), self.region(&z)], writes: &[values(target, parts * len)] };
        let splits = u32::try_from(parts).unwrap_or(u32::MAX);
        let first = if shape.depthwise {
            let grid = [count(z.c.into(), 32), splits, count(shape.taps(), 1)];
            self.launch(TrainKernel::DepthwiseWeights, grid, training, uses)
        } else {
            let width = shape.taps() * i64::from(x.c);
            let kernels = [TrainKernel::ConvWeights16, TrainKernel::ConvWeights64];
            let (kernel, [rows, columns, _]) = tiles(z.c.into(), width, kernels);
            self.launch(kernel, [rows, columns, splits], training, uses)
        };
        let mut launches = vec![first];
        if split {
            launches.push(self.add_up((gradient.parts_at, gradient.parts.count), (gradient.at, gradient.add), len));
        }
        launches
    }
}

/// The kernel of a product, of a narrow and a wide tile, and its blocks.
fn tiles(rows: i64, width: i64, [narrow, wide]: [TrainKernel; 2]) -> (TrainKernel, [u32; 3]) {
    let columns = columns(width);
    (if columns == 16 { narrow } else { wide }, [count(rows, 64), count(width, columns), 1])
}
