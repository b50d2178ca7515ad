//! Launches of the kernels in f16 that are no products: 8 channels of a pixel a thread.

use super::arguments::{Arguments, CHUNK, F16_CHUNK, Float, KernelArguments, Tensor, act, count, int};
use super::kernel::{F16Kernel, Kernel};
use super::launch::Launch;
use crate::graph::{Activation, Attention};
use crate::kernels::ConvSpec;

/// Chunks of the keys, and of the values, that the kernel of attention on tensor cores takes at most.
const MAX_KEY_CHUNKS: usize = 4;
const MAX_VALUE_CHUNKS: usize = 8;

/// Rows of the output that a block of pools computes, as `f16.h` has it.
const POOL_ROWS: usize = 5;

/// Bytes of shared memory that every launch may take.
const MAX_SHARED: usize = 48 << 10;

impl Launch {
    /// The planes `dst` of an image, values 0 to 1, from its bytes, which begin at byte `at`, a multiple of 4. The last four
    /// are read whole.
    pub fn from_bytes(at: usize, dst: Tensor) -> Self {
        let values = dst.c.max(0) as usize * dst.area().max(0) as usize;
        let src = Tensor::bytes(at, values.next_multiple_of(4));
        let arguments = Arguments { src, dst, channels: int(values), ..Arguments::default() };
        let grid = [count(values as i64, 4 * i64::from(F16Kernel::THREADS)).max(1), 1, 1];
        Self::packed(Kernel::F16(F16Kernel::FromBytes), grid, arguments, 0)
    }

    /// The same launch on the bytes of its image, which begin at byte `at`, a multiple of 4; `None` unless it is the first
    /// layer in f16. Its results are those of the values of [`Launch::from_bytes`], to the bit.
    pub fn of_bytes(&self, at: usize) -> Option<Self> {
        let (Kernel::F16(F16Kernel::Stem), KernelArguments::Packed(arguments)) = (self.kernel, self.arguments) else {
            return None;
        };
        let src = Tensor::byte_planes(at, &arguments.src);
        let mut launch = *self;
        launch.kernel = Kernel::F16(F16Kernel::StemBytes);
        launch.arguments = KernelArguments::Packed(Arguments { src, ..arguments });
        launch.reads[0] = src.region();
        launch.end = launch.end.max(src.region().end());
        Some(launch)
    }

    /// A run of channels `[c, h, w]` of an image, plane after plane in f32, to f16; `dst` is filled up with zeros.
    ///
    /// # Panics
    /// If sizes do not fit: a mistake of the caller. So it is with all of these.
    pub fn f16_import(src: Tensor, dst: Tensor) -> Self {
        assert!((src.h, src.w) == (dst.h, dst.w) && src.c <= dst.c);
        let arguments = Arguments { src, dst, channels: src.c, ..Arguments::default() };
        Self::packed(Kernel::F16(F16Kernel::Import), planes(&dst), arguments, 0)
    }

    /// A run of channels to planes in f32.
    pub fn f16_export(src: Tensor, dst: Tensor) -> Self {
        assert!((src.h, src.w) == (dst.h, dst.w) && dst.c <= src.c);
        let arguments = Arguments { src, dst, channels: dst.c, ..Arguments::default() };
        Self::packed(Kernel::F16(F16Kernel::Export), planes(&src), arguments, 0)
    }

    pub(super) fn f16_depthwise(spec: &ConvSpec, arguments: Arguments, end: usize) -> Self {
        let chunks = i64::from(arguments.c_chunks);
        let (w, h) = (i64::from(arguments.dst.w), int(arguments.dst.h.max(0) as usize) as u32);
        // A row of pixels is a row of blocks, of which there may be so many.
        let few = h < 1 << 16;
        let (kernel, grid) = match (spec.kernel, spec.stride, spec.padding) {
            (3, 1, 1) if few => (F16Kernel::Depthwise3, [count((w + 1) / 2 * chunks, 128), h, 1]),
            (3, 2, 1) if few => (F16Kernel::Depthwise3Stride2, [count(w * chunks, 128), h, 1]),
            _ => (F16Kernel::Depthwise, each(&arguments)),
        };
        Self::packed(Kernel::F16(kernel), grid, arguments, end)
    }

    /// A kernel with a thread for every chunk of the output.
    pub(super) fn chunks(kernel: F16Kernel, arguments: Arguments) -> Self {
        Self::packed(Kernel::F16(kernel), each(&arguments), arguments, 0)
    }

    /// Upsamples by repeating the nearest pixel; by 1 a copy.
    pub fn f16_upsample(factor: usize, src: Tensor, dst: Tensor) -> Self {
        let factor = int(factor);
        assert_eq!(dst.size(), (src.c, src.h.saturating_mul(factor), src.w.saturating_mul(factor)));
        Self::chunks(F16Kernel::Upsample, Arguments { factor, ..between(src, dst) })
    }

    /// Pixel shuffle: squares of `factor` x `factor` pixels of `dst` lie in the channels of the pixels of `src`.
    pub fn f16_pixel_shuffle(factor: usize, src: Tensor, dst: Tensor) -> Self {
        let factor = int(factor);
        let times = |side: i32| side.saturating_mul(factor);
        assert_eq!((src.c, times(src.h), times(src.w)), (times(times(dst.c)), dst.h, dst.w));
        Self::chunks(F16Kernel::PixelShuffle, Arguments { factor, ..between(src, dst) })
    }

    /// Maximum over windows `(side, stride, padding)`.
    pub fn f16_max_pool((kernel, stride, padding): (usize, usize, usize), src: Tensor, dst: Tensor) -> Self {
        let side = |side: i32| int((side as usize + 2 * padding - kernel) / stride + 1);
        assert_eq!(dst.size(), (src.c, side(src.h), side(src.w)));
        let [kernel, stride, padding] = [kernel, stride, padding].map(int);
        Self::chunks(F16Kernel::MaxPool, Arguments { kernel, stride, padding, ..between(src, dst) })
    }

    /// Maxima of 5x5 windows at stride 1 and padding 2, each of the one before. `None` where the three do not lie equally far
    /// apart, or a row is too wide for the memory of a block.
    pub fn pools(float: Float, src: Tensor, dst: [Tensor; 3]) -> Option<Self> {
        assert!(dst.iter().all(|dst| dst.size() == src.size()));
        let [first, second, third] = dst;
        let (rows, w) = (POOL_ROWS + 12, src.w.max(0) as usize);
        let shared = CHUNK.saturating_mul(rows).saturating_mul(w + 12 + 3 * w);
        let alike =
            second.at - first.at == third.at - second.at && first.pitch == second.pitch && second.pitch == third.pitch;
        if !alike || shared > MAX_SHARED {
            return None;
        }
        let kernel = if float == Float::F16 { F16Kernel::Pools } else { F16Kernel::PoolsF32 };
        let chunks = count(i64::from(src.c) * float.bytes() as i64, CHUNK as i64);
        let grid = [count(src.h.into(), POOL_ROWS as i64), chunks, 1];
        let arguments = Arguments { outside: second.at - first.at, ..between(src, first) };
        let writes = dst.map(|dst| dst.region());
        let launch = Self::touching(Kernel::F16(kernel), grid, arguments, 0, (&[src.region()], &writes));
        Some(Self { shared: shared as u32, ..launch })
    }

    /// `dst = act(src) + other`.
    pub fn f16_elementwise(function: Activation, src: Tensor, other: Option<Tensor>, dst: Tensor) -> Self {
        assert!(src.size() == dst.size() && other.is_none_or(|other| other.size() == dst.size()));
        let mut arguments = between(src, dst);
        arguments.product.act = act(function);
        let (others, other) = (other.is_some().into(), other.unwrap_or_default());
        Self::chunks(F16Kernel::Elementwise, Arguments { others, other, ..arguments })
    }

    /// Mean over all pixels.
    pub fn f16_average(src: Tensor, dst: Tensor) -> Self {
        assert_eq!(dst.size(), (src.c, 1, 1));
        let grid = [count(src.c.into(), F16_CHUNK as i64), 1, 1];
        Self::packed(Kernel::F16(F16Kernel::Average), grid, between(src, dst), 0)
    }

    /// `softmax(scale * q^T k)` applied to the values, head after head. Queries, keys and values of every head are filled
    /// up, to so many positions as follow from the channels of both sides.
    pub fn f16_attention(op: &Attention, src: Tensor, dst: Tensor) -> Self {
        let chunks = |tensor: &Tensor| tensor.c.max(0) as usize / F16_CHUNK / op.heads.max(1);
        let values = chunks(&dst);
        let keys = chunks(&src).saturating_sub(values) / 2;
        assert!(
            (src.h, src.w) == (dst.h, dst.w) && keys * F16_CHUNK >= op.key_dim && values * F16_CHUNK >= op.head_dim
        );
        assert_eq!(src.c, int(op.heads * (2 * keys + values) * F16_CHUNK));
        let [heads, key_chunks, value_chunks] = [op.heads, keys, values].map(int);
        let arguments = Arguments { heads, key_chunks, value_chunks, scale: op.scale, ..between(src, dst) };
        if keys <= MAX_KEY_CHUNKS && values <= MAX_VALUE_CHUNKS {
            let grid = [count(src.area(), 16), heads as u32, 1];
            // Two stages of 32 keys and values for each of four warps.
            let shared = 4 * 2 * 32 * (CHUNK * (MAX_KEY_CHUNKS + MAX_VALUE_CHUNKS)) as u32;
            return Self { shared, ..Self::packed(Kernel::F16(F16Kernel::Attention), grid, arguments, 0) };
        }
        let grid = [count(src.area(), 4), heads as u32, count(i64::from(value_chunks) * 8, 128)];
        Self::packed(Kernel::F16(F16Kernel::AttentionAny), grid, arguments, 0)
    }
}

fn between(src: Tensor, dst: Tensor) -> Arguments {
    Arguments { src, dst, c_chunks: int(dst.c.max(0) as usize / F16_CHUNK), ..Arguments::default() }
}

/// A thread for every chunk of the output.
fn each(arguments: &Arguments) -> [u32; 3] {
    [count(arguments.dst.area().saturating_mul(arguments.c_chunks.into()), F16Kernel::THREADS.into()), 1, 1]
}

/// A thread for every pixel of a run, a row of blocks for every chunk.
fn planes(run: &Tensor) -> [u32; 3] {
    [count(run.area(), F16Kernel::THREADS.into()), count(run.c.into(), F16_CHUNK as i64), 1]
}
