//! What all launches of a training step share: tensors and arrays as the bytes that a launch reads and writes.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use crate::kernels::cuda::arguments::{KernelArguments, Region, count, int};
use crate::kernels::cuda::kernel::Kernel;
use crate::kernels::cuda::launch::{Launch, regions};

impl Batch {
    /// A tensor `[n, h, w, c]` from byte `at` on, its pixels `pitch` values apart. As planes `[n, c, h, w]` where a kernel
    /// takes planes; then the pitch is `c`.
    pub fn new(at: usize, pitch: usize, [n, c, h, w]: [usize; 4]) -> Self {
        let [pitch, c, n, h, w] = [pitch, c, n, h, w].map(int);
        Self { at: byte(at), pitch, c, n, h, w, unused: 0 }
    }

    /// The tensor of one image.
    pub fn image(&self, number: usize, tensors: Tensors) -> Self {
        let bytes = self.pixels() / i64::from(self.n).max(1) * i64::from(self.pitch) * tensors.size() as i64;
        Self { at: self.at.saturating_add(bytes.saturating_mul(number as i64)), n: 1, ..*self }
    }

    /// Values of all images.
    pub fn values(&self) -> usize {
        usize::try_from(self.len()).unwrap_or(0)
    }

    pub(super) fn pixels(&self) -> i64 {
        i64::from(self.n).saturating_mul(i64::from(self.h)).saturating_mul(i64::from(self.w))
    }

    pub(super) fn len(&self) -> i64 {
        self.pixels().saturating_mul(self.c.into())
    }

    /// The bytes of its values of so many bytes each.
    pub(super) fn region(&self, size: i64) -> Region {
        let [pitch, width] = [self.pitch, self.c].map(|n| i64::from(n) * size);
        let rows = self.pixels();
        if pitch == width {
            return array(self.at, self.len().saturating_mul(size));
        }
        Region { at: self.at, pitch, width, rows }
    }

    /// Whether the kernels can count its pixels and values.
    fn is_small(&self) -> bool {
        self.pixels() < 1 << 30 && self.pixels().saturating_mul(self.pitch.into()) < 1 << 40
    }
}

/// Makes launches on tensors of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensors {
    /// Whether tensors are in f16; else in f32.
    pub f16: bool,
}

impl Tensors {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        if self.f16 { 2 } else { 4 }
    }

    pub(super) fn region(self, tensor: &Batch) -> Region {
        tensor.region(self.size() as i64)
    }

    /// The sum of so many parts of `len` values each, written to byte `at` on or added to what is there.
    pub fn add_up(self, (parts_at, parts): (usize, usize), (at, add): (usize, bool), len: i64) -> Launch {
        let arrays = [byte(parts_at), byte(at), 0, 0, 0, 0, 0, 0];
        let training = Training { arrays, count: len, splits: int(parts), add: add.into(), ..Training::default() };
        let uses = Uses { reads: &[values(parts_at, parts as i64 * len)], writes: &[values(at, len)] };
        self.launch(TrainKernel::AddUp, each(len), training, uses)
    }

    /// A launch with all that it reads and writes.
    pub(super) fn launch(self, kernel: TrainKernel, grid: [u32; 3], training: Training, uses: Uses<'_>) -> Launch {
        let (reads, writes) = (regions(uses.reads), regions(uses.writes));
        let small = [&training.x, &training.y, &training.z].into_iter().all(Batch::is_small);
        let end = uses.reads.iter().chain(uses.writes).map(Region::end).max().filter(|_| small).unwrap_or(i64::MAX);
        let f16 = self.f16 && (kernel as usize) < TrainKernel::AddUp as usize;
        Launch {
            kernel: Kernel::Train(kernel, f16),
            grid,
            shared: 0,
            arguments: KernelArguments::Train(training),
            reads,
            writes,
            end,
        }
    }
}

/// The bytes that a launch reads, and those that it writes.
pub(super) struct Uses<'a> {
    pub reads: &'a [Region],
    pub writes: &'a [Region],
}

/// The region of an array.
pub(super) fn array(at: i64, bytes: i64) -> Region {
    Region { at, pitch: bytes, width: bytes, rows: 1 }
}

/// The region of so many f32 values from a byte on.
pub(super) fn values(at: usize, len: i64) -> Region {
    array(byte(at), len.saturating_mul(4))
}

pub(super) fn byte(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX / 2)
}

/// A thread for every value.
pub(super) fn each(len: i64) -> [u32; 3] {
    [count(len.max(1), 256), 1, 1]
}

/// How a reduction over pixels is cut: pixels of a part, and parts. Enough parts for a large GPU, few enough to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    pub(super) rows: usize,
    /// How many.
    pub count: usize,
}

impl Parts {
    /// Of a reduction per channel.
    pub fn of(pixels: usize) -> Self {
        Self::cut(pixels, pixels.div_ceil(128).max(128))
    }

    /// Of sums over ranks, of which each has found one part.
    pub fn of_ranks(ranks: usize) -> Self {
        Self { rows: 1, count: ranks }
    }

    pub(super) fn cut(pixels: usize, rows: usize) -> Self {
        let rows = rows.max(1);
        Self { rows, count: pixels.div_ceil(rows).max(1) }
    }
}
