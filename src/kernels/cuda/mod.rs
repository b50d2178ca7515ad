//! The kernels of the CUDA engine, and the driver that runs them.
//!
//! `kernels.cu` has the arithmetic. This file decides how each of them is launched: all of it before the first frame,
//! from sizes alone, so that a frame neither allocates nor chooses. [`Device`] is the driver's interface, opened at run
//! time, so that a program with CUDA in it starts where there is none. Tests open an emulated driver instead, which
//! runs the same source on the CPU.

#[cfg(feature = "cuda")]
pub mod code;
mod driver;
#[cfg(test)]
pub(crate) mod emulated;
#[cfg(test)]
mod tests;

pub use driver::{CudaError, Device};

use super::{ConvSpec, View};
use crate::graph::{Activation, Attention};

/// A tensor in the memory of a device: value `(pixel, channel)` has the address `at + pixel * self.pixel + channel *
/// self.channel`, counted in values. The same layout as `TensorView` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TensorView {
    at: i64,
    pixel: i32,
    channel: i32,
    c: i32,
    h: i32,
    w: i32,
    unused: i32,
}

impl TensorView {
    /// A view of pixel-major tensors, which lie from `base` on.
    pub fn pixels(base: usize, view: View) -> Self {
        Self::new(base.saturating_add(view.offset), (view.pitch, 1), view)
    }

    /// A tensor `[c, h, w]`, which lies from `at` on.
    pub fn planes(at: usize, c: usize, h: usize, w: usize) -> Self {
        Self::new(at, (1, h.saturating_mul(w)), View::dense(0, c, h, w))
    }

    fn new(at: usize, (pixel, channel): (usize, usize), view: View) -> Self {
        let View { c, h, w, .. } = view;
        let [pixel, channel, c, h, w] = [pixel, channel, c, h, w].map(int);
        Self { at: i64::try_from(at).unwrap_or(i64::MAX), pixel, channel, c, h, w, unused: 0 }
    }

    /// Number of values.
    fn len(&self) -> i64 {
        i64::from(self.c) * self.area()
    }

    fn area(&self) -> i64 {
        i64::from(self.h) * i64::from(self.w)
    }

    /// The position after the last value.
    fn end(&self) -> i64 {
        let last = |count: i64, step: i32| (count - 1).saturating_mul(i64::from(step));
        self.at.saturating_add(last(self.area(), self.pixel)).saturating_add(last(self.c.into(), self.channel)) + 1
    }

    fn size(&self) -> (i32, i32, i32) {
        (self.c, self.h, self.w)
    }
}

/// Saturates: what is too large for the kernels is refused by [`Launch::in_bounds`].
fn int(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// The arguments of a kernel. The same layout as `Params` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Params {
    src: TensorView,
    dst: TensorView,
    other: TensorView,
    weights: i64,
    bias: i64,
    has_other: i32,
    kernel: i32,
    stride: i32,
    padding: i32,
    act: i32,
    factor: i32,
    heads: i32,
    key_dim: i32,
    head_dim: i32,
    scale: f32,
}

/// The functions of `kernels.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Conv64x64,
    Conv64x32,
    Conv64x16,
    Conv32x32,
    Depthwise,
    MaxPool,
    Upsample,
    PixelShuffle,
    AttentionValues,
    Activate,
    Add,
    Average,
    Attention,
}

impl Kernel {
    /// By position: name and threads of a block.
    const ALL: [(&'static std::ffi::CStr, u32); 13] = [
        (c"conv_64x64", 256),
        (c"conv_64x32", 128),
        (c"conv_64x16", 64),
        (c"conv_32x32", 64),
        (c"depthwise", 256),
        (c"max_pool", 256),
        (c"upsample", 256),
        (c"pixel_shuffle", 256),
        (c"attention_values", 256),
        (c"activate", 256),
        (c"add", 256),
        (c"average", 256),
        (c"attention", 128),
    ];

    /// Threads of a block.
    fn threads(self) -> u32 {
        Self::ALL[self as usize].1
    }
}

/// One call of a kernel, with all that it needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launch {
    kernel: Kernel,
    grid: [u32; 3],
    params: Params,
    /// The position after the last value that is read or written.
    end: i64,
}

/// Where the packed weights of a convolution lie, and the sum in its epilogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operands {
    /// First value of what [`pack_conv`] or [`pack_depthwise`] packed.
    pub packed: usize,
    /// The second summand.
    pub residual: Option<TensorView>,
}

/// Values of the packed weights of a convolution: of the biases, which come first, and of all.
struct PackedLen {
    biases: usize,
    all: usize,
}

/// Columns of a packed kernel: the kernels read four at a time.
fn columns(spec: &ConvSpec) -> usize {
    spec.c_out.next_multiple_of(4)
}

/// Values of a packed dense kernel with its biases.
pub fn packed_conv_len(spec: &ConvSpec) -> usize {
    columns(spec) * (spec.kernel * spec.kernel * spec.c_in + 1)
}

/// Values of a packed depthwise kernel with its biases.
pub fn packed_depthwise_len(spec: &ConvSpec) -> usize {
    spec.c_out * (spec.kernel * spec.kernel + 1)
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`: the biases, then a row for every tap and input channel.
///
/// # Panics
/// If a length is wrong.
pub fn pack_conv(spec: &ConvSpec, kernel: &[f32], bias: &[f32], packed: &mut [f32]) {
    let (columns, taps) = (columns(spec), spec.kernel * spec.kernel);
    assert_eq!((kernel.len(), bias.len()), (spec.c_out * spec.c_in * taps, spec.c_out));
    assert_eq!(packed.len(), packed_conv_len(spec));
    packed.fill(0.0);
    let (biases, rows) = packed.split_at_mut(columns);
    biases[..spec.c_out].copy_from_slice(bias);
    for (co, window) in kernel.chunks(spec.c_in * taps).enumerate() {
        for (i, value) in window.iter().enumerate() {
            let (ci, tap) = (i / taps, i % taps);
            rows[(tap * spec.c_in + ci) * columns + co] = *value;
        }
    }
}

/// Packs a kernel `[c, 1, k, k]` and a bias `[c]`: the biases, then a row for every tap.
///
/// # Panics
/// If a length is wrong.
pub fn pack_depthwise(spec: &ConvSpec, kernel: &[f32], bias: &[f32], packed: &mut [f32]) {
    let (c, taps) = (spec.c_out, spec.kernel * spec.kernel);
    assert_eq!((kernel.len(), bias.len(), packed.len()), (c * taps, c, packed_depthwise_len(spec)));
    let (biases, rows) = packed.split_at_mut(c);
    biases.copy_from_slice(bias);
    for (i, value) in kernel.iter().enumerate() {
        rows[i % taps * c + i / taps] = *value;
    }
}

impl Launch {
    /// `dst = act(conv(src) + bias) + residual`.
    ///
    /// # Panics
    /// If sizes do not fit: a mistake of the caller. So it is with all of these.
    pub fn conv(spec: &ConvSpec, operands: Operands, src: TensorView, dst: TensorView) -> Self {
        let (rows, width) = (dst.area(), i64::from(dst.c));
        let blocks = |tall: i64, wide: i64| (count(rows, tall), count(width, wide));
        // Small images would leave most of a GPU idle with large tiles.
        let few = |(x, y): (u32, u32)| u64::from(x) * u64::from(y) < 48;
        let (kernel, (x, y)) = match width {
            ..=16 => (Kernel::Conv64x16, blocks(64, 16)),
            _ if few(blocks(64, 64)) => (Kernel::Conv32x32, blocks(32, 32)),
            17..=32 => (Kernel::Conv64x32, blocks(64, 32)),
            _ => (Kernel::Conv64x64, blocks(64, 64)),
        };
        let packed = PackedLen { biases: columns(spec), all: packed_conv_len(spec) };
        Self::convolution((kernel, [x, y, 1]), spec, packed, operands, src, dst)
    }

    /// As [`Launch::conv`], channel by channel.
    pub fn depthwise(spec: &ConvSpec, operands: Operands, src: TensorView, dst: TensorView) -> Self {
        assert_eq!(src.c, dst.c);
        let packed = PackedLen { biases: spec.c_out, all: packed_depthwise_len(spec) };
        Self::convolution((Kernel::Depthwise, each(&dst)), spec, packed, operands, src, dst)
    }

    fn convolution(
        (kernel, grid): (Kernel, [u32; 3]),
        spec: &ConvSpec,
        PackedLen { biases, all }: PackedLen,
        Operands { packed, residual }: Operands,
        src: TensorView,
        dst: TensorView,
    ) -> Self {
        let side = |side: i32| int(spec.side(side as usize));
        assert_eq!((int(spec.c_in), dst.size()), (src.c, (int(spec.c_out), side(src.h), side(src.w))));
        assert!(residual.is_none_or(|r| r.size() == dst.size()));
        let bias = i64::try_from(packed).unwrap_or(i64::MAX);
        let params = Params {
            src,
            dst,
            other: residual.unwrap_or_default(),
            has_other: residual.is_some().into(),
            weights: bias.saturating_add(int(biases).into()),
            bias,
            kernel: int(spec.kernel),
            stride: int(spec.stride),
            padding: int(spec.padding),
            act: act(spec.act),
            ..Params::default()
        };
        let launch = Self::new(kernel, grid, params);
        // The kernels count the depth of the product with 32 bits.
        let all = i32::try_from(all).map_or(i64::MAX, i64::from);
        Self { end: launch.end.max(bias.saturating_add(all)), ..launch }
    }

    /// Maximum over windows `(side, stride, padding)`.
    pub fn max_pool((kernel, stride, padding): (usize, usize, usize), src: TensorView, dst: TensorView) -> Self {
        let side = |side: i32| int((side as usize + 2 * padding - kernel) / stride + 1);
        assert_eq!(dst.size(), (src.c, side(src.h), side(src.w)));
        let [kernel, stride, padding] = [kernel, stride, padding].map(int);
        Self::new(Kernel::MaxPool, each(&dst), Params { src, dst, kernel, stride, padding, ..Params::default() })
    }

    /// Upsamples by repeating the nearest pixel; by 1 a copy, also from and to planes.
    pub fn upsample(factor: usize, src: TensorView, dst: TensorView) -> Self {
        let factor = int(factor);
        assert_eq!(dst.size(), (src.c, src.h.saturating_mul(factor), src.w.saturating_mul(factor)));
        Self::new(Kernel::Upsample, each(&dst), Params { src, dst, factor, ..Params::default() })
    }

    /// Pixel shuffle: squares of `factor` x `factor` pixels of `dst` lie in the channels of the pixels of `src`.
    pub fn pixel_shuffle(factor: usize, src: TensorView, dst: TensorView) -> Self {
        let factor = int(factor);
        let times = |side: i32| side.saturating_mul(factor);
        assert_eq!((src.c, times(src.h), times(src.w)), (times(times(dst.c)), dst.h, dst.w));
        Self::new(Kernel::PixelShuffle, each(&dst), Params { src, dst, factor, ..Params::default() })
    }

    /// `dst = act(src)`.
    pub fn activate(function: Activation, src: TensorView, dst: TensorView) -> Self {
        assert_eq!(src.size(), dst.size());
        Self::new(Kernel::Activate, each(&dst), Params { src, dst, act: act(function), ..Params::default() })
    }

    /// `dst = a + b`.
    pub fn add(a: TensorView, b: TensorView, dst: TensorView) -> Self {
        assert!(a.size() == dst.size() && b.size() == dst.size());
        Self::new(Kernel::Add, each(&dst), Params { src: a, other: b, has_other: 1, dst, ..Params::default() })
    }

    /// Mean over all pixels.
    pub fn average(src: TensorView, dst: TensorView) -> Self {
        assert_eq!(dst.size(), (src.c, 1, 1));
        Self::new(Kernel::Average, [count(src.c.into(), 32), 1, 1], Params { src, dst, ..Params::default() })
    }

    /// `softmax(scale * q^T k)` applied to the values, head after head.
    pub fn attention(op: &Attention, src: TensorView, dst: TensorView) -> Self {
        let grid = [count(src.area(), 4), int(op.heads) as u32, count(int(op.head_dim).into(), 128)];
        Self::heads(Kernel::Attention, grid, op, src, dst)
    }

    /// The attention values of a packed input, head after head.
    pub fn attention_values(op: &Attention, src: TensorView, dst: TensorView) -> Self {
        Self::heads(Kernel::AttentionValues, each(&dst), op, src, dst)
    }

    fn heads(kernel: Kernel, grid: [u32; 3], op: &Attention, src: TensorView, dst: TensorView) -> Self {
        let [heads, key_dim, head_dim] = [op.heads, op.key_dim, op.head_dim].map(int);
        assert_eq!((src.c, src.h, src.w), (int(op.heads * op.packed()), dst.h, dst.w));
        assert_eq!(dst.c, heads * head_dim);
        let params = Params { src, dst, heads, key_dim, head_dim, scale: op.scale, ..Params::default() };
        Self::new(kernel, grid, params)
    }

    fn new(kernel: Kernel, grid: [u32; 3], params: Params) -> Self {
        let other = if params.has_other == 1 { params.other.end() } else { 0 };
        Self { kernel, grid, params, end: params.src.end().max(params.dst.end()).max(other) }
    }

    /// Bounds check: whether everything lies within so many values, and every size within what the kernels count with.
    pub fn in_bounds(&self, values: usize) -> bool {
        let Params { src, dst, other, .. } = &self.params;
        let small =
            |s: &TensorView| s.area() < 1 << 31 && s.len() < 1 << 36 && s.pixel < i32::MAX && s.channel < i32::MAX;
        [src, dst, other].into_iter().all(small)
            && usize::try_from(self.end).is_ok_and(|end| end <= values)
            && self.grid[1..].iter().all(|n| *n < 1 << 16)
    }
}

fn act(function: Activation) -> i32 {
    match function {
        Activation::Identity => 0,
        Activation::Silu => 1,
        Activation::Relu => 2,
    }
}

/// Blocks of `size` that cover `total`; saturates beyond what a launch can have.
fn count(total: i64, size: i64) -> u32 {
    u32::try_from((total + size - 1) / size).unwrap_or(u32::MAX)
}

/// A thread for every value.
fn each(dst: &TensorView) -> [u32; 3] {
    [count(dst.len(), Kernel::Upsample.threads().into()), 1, 1]
}
