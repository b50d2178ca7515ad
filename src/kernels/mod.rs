//! The arithmetic of the CPU engine on slices of one buffer.
//!
//! Tensors lie pixel after pixel with the channels of a pixel together (NHWC, N = 1), each pixel `pitch` values after
//! the one before. A run of channels of a wider tensor is therefore a [`View`] like any other: splitting and joining
//! channels moves nothing, and a convolution reads its window through pointers, without an im2col matrix
//! (indirect convolution; Dukhan, "The Indirect Convolution Algorithm", 2019).
//!
//! Every kernel is written once over a vector register ([`isa::lanes`]) and compiled for AVX-512, AVX2 + FMA, NEON and
//! portable Rust, each in a file of its own; [`Kernels`] decides once which one runs. Results do not depend on the
//! number of threads: a value is always computed by the same operations in the same order.
//!
//! `unsafe` is fenced in here: each public function checks its views against the buffer before it starts.
#![allow(unsafe_code)]

mod attention;
mod buffer;
pub mod clock;
mod conv;
pub mod cuda;
mod depthwise;
mod f16;
mod int8;
mod isa;
mod peak;
mod pin;
mod pixels;
mod pool;
mod product;
mod simple;
mod tile;

pub use attention::{attention, attention_scratch};
pub use buffer::{Buffer, View};
pub use conv::{
    Algorithm, ConvSpec, Image, PackedConv, conv, conv_image, conv_low_precision, conv_planes, conv_scratch,
    conv_zeros, pack_conv, packed_conv_len, quantized_len,
};
pub use depthwise::{depthwise, pack_depthwise, packed_depthwise_len};
pub use f16::{computes_f16, pack_f16};
pub use int8::{InputSteps, input_scale, pack_int8, quantize_kernel, quantize_weight, weight_scale};
pub use isa::Isa;
pub use peak::peak_flops;
pub use pixels::{activate, pixel_shuffle};
pub use pool::{Pool, available};
pub use simple::{add, attention_values, copy, export, global_average, import, max_pool, upsample};

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

    /// Binds every thread, the caller's included, to a CPU core of its own, so that none moves while frames run.
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

#[cfg(test)]
mod tests;
