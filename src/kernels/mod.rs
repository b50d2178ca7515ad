//! The arithmetic of the CPU engine on slices of one buffer.
//!
//! Tensors lie pixel after pixel with the channels of a pixel together (NHWC, N = 1), each pixel `pitch` values after
//! the one before. A run of channels of a wider tensor is therefore a [`View`] like any other: splitting and joining
//! channels moves nothing, and a convolution reads its window through pointers, without an im2col matrix
//! (indirect convolution; Dukhan, "The Indirect Convolution Algorithm", 2019).
//!
//! Every kernel is written once over a vector register ([`lanes`]) and compiled for AVX-512, AVX2 + FMA, NEON and plain
//! Rust, each in a file of its own; which one runs is decided once, by [`Kernels`]. Results do not depend on the number of threads: a value is always
//! computed by the same operations in the same order.
//!
//! This is the only place with `unsafe`: each public function checks its views against the buffer before it starts.
#![allow(unsafe_code)]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
pub mod clock;
mod conv;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
mod depthwise;
mod direct;
mod halves;
mod int8;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod peak;
mod pin;
mod pixels;
mod plain;
mod pool;
mod product;
mod simple;
#[cfg(feature = "candle")]
pub mod train;
mod winograd;
mod words;

use lanes::Register;

pub use attention::{attention, attention_scratch};
pub use buffer::{Buffer, View};
pub use conv::{
    Algorithm, ConvSpec, conv, conv_image, conv_planes, conv_scratch, conv_zeros, pack_conv, packed_conv_len,
};
pub use depthwise::{depthwise, pack_depthwise, packed_depthwise_len};
pub use halves::{computes_halves, pack_half};
pub use int8::{input_scale, pack_int8, weight_number, weight_scale};
pub use peak::peak_flops;
pub use pixels::{activate, unfold};
pub use pool::{Pool, available};
pub use simple::{add, copy, export, global_average, import, max_pool, upsample, values};
pub use words::{conv_words, words_shared};

/// The instruction set that the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX-512F of x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA of x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Advanced SIMD of 64-bit ARM.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best that this machine has.
    pub fn detect() -> Self {
        Self::all().next().unwrap_or(Self::Portable)
    }

    /// All that this machine has, the best first.
    pub fn all() -> impl Iterator<Item = Self> {
        let every = [
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, std::arch::is_x86_feature_detected!("avx512f")),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")),
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, std::arch::is_aarch64_feature_detected!("neon")),
            (Self::Portable, true),
        ];
        every.into_iter().filter(|(_, there)| *there).map(|(isa, _)| isa)
    }

    /// Values of a vector register.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable => plain::Plain::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::Neon::LANES,
        }
    }
}

/// What the kernels share: instruction set, threads, and working space of each thread.
pub struct Kernels {
    isa: Isa,
    pool: Pool,
    /// Values of working space per thread.
    space: usize,
    workspace: Buffer,
    zeros: Buffer,
}

impl Kernels {
    /// Kernels on `threads` threads with `space` values of working space for each, and `zeros` zeros to read where a
    /// window leaves the image. `None` if there is not enough memory.
    pub fn new(isa: Isa, threads: usize, space: usize, zeros: usize) -> Option<Self> {
        let threads = threads.clamp(1, 256);
        let space = space.next_multiple_of(buffer::ALIGN);
        Some(Self {
            isa,
            pool: Pool::new(threads),
            space,
            workspace: Buffer::zeroed(space * threads)?,
            zeros: Buffer::zeroed(zeros)?,
        })
    }

    /// The bytes that [`Kernels::new`] holds for these arguments.
    pub fn bytes(threads: usize, space: usize, zeros: usize) -> usize {
        Buffer::bytes(space.next_multiple_of(buffer::ALIGN) * threads.clamp(1, 256)) + Buffer::bytes(zeros)
    }

    /// Binds every thread, the caller's included, to a processor of its own, so that none moves while frames run.
    pub fn pin(&mut self) {
        self.pool = Pool::start(self.threads(), true);
        pin::pin_thread(0);
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Splits `total` things into parts of at most `most`, as many for each thread, each a multiple of `step`.
    fn parts(&self, total: usize, most: usize, step: usize) -> (usize, usize) {
        let threads = self.threads();
        let count = total.div_ceil(most).next_multiple_of(threads);
        let part = total.div_ceil(count).next_multiple_of(step);
        (part, total.div_ceil(part))
    }
}

/// Calls a generic kernel for the lanes of an instruction set, compiled with that instruction set's features.
macro_rules! for_isa {
    ($name:ident, $generic:ident, $args:ty) => {
        /// # Safety
        /// As the generic function; the instruction set must be one that this machine has.
        unsafe fn $name(isa: super::Isa, args: &$args, item: usize, worker: usize) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2(args: &$args, item: usize, worker: usize) {
                // SAFETY: passed on to the caller.
                unsafe { $generic::<super::avx2::Avx2>(args, item, worker) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            unsafe fn avx512(args: &$args, item: usize, worker: usize) {
                // SAFETY: passed on to the caller.
                unsafe { $generic::<super::avx512::Avx512>(args, item, worker) }
            }
            // SAFETY: passed on to the caller; `Isa::all` found the features.
            unsafe {
                match isa {
                    super::Isa::Portable => $generic::<super::plain::Plain>(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    super::Isa::Avx512 => avx512(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    super::Isa::Avx2 => avx2(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    super::Isa::Neon => $generic::<super::neon::Neon>(args, item, worker),
                }
            }
        }
    };
}
pub(crate) use for_isa;

#[cfg(test)]
mod tests;
