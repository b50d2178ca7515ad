//! Squares of gradients.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::norm::{Joined, in_parts, reduction};
use super::tensors::{Tensors, Uses, byte, values};
use crate::kernels::cuda::arguments::count;
use crate::kernels::cuda::launch::Launch;

/// Pixels of a block: one of each warp.
const PIXELS: i64 = 8;

impl Tensors {
    /// Sums of the squares of `x`, which is in f32: of every pixel over its channels, `[n, h, w]` from byte `pixels` on, and
    /// of every channel over all pixels, for one target.
    pub fn squares(self, x: Batch, pixels: usize, channels: &Joined<'_>) -> [Launch; 3] {
        let (_, of_parts) = in_parts(&x, (channels.parts_at, channels.parts));
        let parts = values(channels.parts_at, i64::from(x.c) * channels.parts.count as i64);
        let mut training = Training { x, ..Training::default() };
        training.arrays[0] = byte(pixels);
        let reads = &[x.region(4)];
        let grid = [count(x.pixels(), PIXELS), 1, 1];
        let to_pixels = Uses { reads, writes: &[values(pixels, x.pixels())] };
        let to_parts = Uses { reads, writes: &[parts] };
        [
            self.launch(TrainKernel::PixelSquares, grid, training, to_pixels),
            self.launch(TrainKernel::ChannelSquares, reduction(&x, channels.parts), of_parts, to_parts),
            self.sums_joined(x, channels),
        ]
    }
}
