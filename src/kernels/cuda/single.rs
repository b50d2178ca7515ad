//! Launches of the kernels in f32 outside the tensor cores, which give the bits of the CPU's: their arguments, and how
//! their weights are packed. Positions count values.

use super::arguments::{KernelArguments, Params, Region, TensorView, act, count, int};
use super::kernel::{F32Kernel, Kernel};
use super::launch::{Launch, regions};
use crate::graph::{Activation, Attention};
use crate::kernels::ConvSpec;

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

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`: the biases, then a row for every tap and input channel, of a
/// planar input for every channel and tap.
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
            let row = if spec.planar { ci * taps + tap } else { tap * spec.c_in + ci };
            rows[row * columns + co] = *value;
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
            ..=16 => (F32Kernel::Conv64x16, blocks(64, 16)),
            _ if few(blocks(64, 64)) => (F32Kernel::Conv32x32, blocks(32, 32)),
            17..=32 => (F32Kernel::Conv64x32, blocks(64, 32)),
            _ => (F32Kernel::Conv64x64, blocks(64, 64)),
        };
        let packed = PackedLen { biases: columns(spec), all: packed_conv_len(spec) };
        Self::convolution((kernel, [x, y, 1]), spec, packed, operands, src, dst)
    }

    /// As [`Launch::conv`], channel by channel.
    pub fn depthwise(spec: &ConvSpec, operands: Operands, src: TensorView, dst: TensorView) -> Self {
        assert_eq!(src.c, dst.c);
        let packed = PackedLen { biases: spec.c_out, all: packed_depthwise_len(spec) };
        Self::convolution((F32Kernel::Depthwise, each(&dst)), spec, packed, operands, src, dst)
    }

    /// As [`Launch::depthwise`] of the values of a packed input of attention.
    pub(super) fn single_depthwise_of_values(
        spec: &ConvSpec,
        op: &Attention,
        operands: Operands,
        src: TensorView,
        dst: TensorView,
    ) -> Self {
        let values = Self::depthwise(spec, operands, src.narrowed(dst.c), dst);
        let KernelArguments::F32(params) = values.arguments else { return values };
        let [heads, key_dim, head_dim] = [op.heads, op.key_dim, op.head_dim].map(int);
        assert_eq!((src.c, dst.c), (int(op.heads * op.packed()), heads * head_dim));
        let launch = Self::new(F32Kernel::Depthwise, values.grid, Params { src, heads, key_dim, head_dim, ..params });
        Self { end: launch.end.max(values.end), ..launch }
    }

    fn convolution(
        (kernel, grid): (F32Kernel, [u32; 3]),
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
            by_plane: spec.planar.into(),
            ..Params::default()
        };
        let launch = Self::new(kernel, grid, params);
        // The kernels count the depth of the product with 32 bits.
        let all = i32::try_from(all).map_or(i64::MAX, i64::from);
        Self { end: launch.end.max(bias.saturating_add(all).saturating_mul(4)), ..launch }
    }

    /// Maximum over windows `(side, stride, padding)`.
    pub fn max_pool((kernel, stride, padding): (usize, usize, usize), src: TensorView, dst: TensorView) -> Self {
        let side = |side: i32| int((side as usize + 2 * padding - kernel) / stride + 1);
        assert_eq!(dst.size(), (src.c, side(src.h), side(src.w)));
        let [kernel, stride, padding] = [kernel, stride, padding].map(int);
        Self::new(F32Kernel::MaxPool, each(&dst), Params { src, dst, kernel, stride, padding, ..Params::default() })
    }

    /// Upsamples by repeating the nearest pixel; by 1 a copy, also from and to planes.
    pub fn upsample(factor: usize, src: TensorView, dst: TensorView) -> Self {
        let factor = int(factor);
        assert_eq!(dst.size(), (src.c, src.h.saturating_mul(factor), src.w.saturating_mul(factor)));
        Self::new(F32Kernel::Upsample, each(&dst), Params { src, dst, factor, ..Params::default() })
    }

    /// A run of channels of an image, plane after plane; what `dst` has more of becomes zero.
    pub fn import(src: TensorView, dst: TensorView) -> Self {
        assert!((src.h, src.w) == (dst.h, dst.w) && src.c <= dst.c);
        Self::new(F32Kernel::Upsample, each(&dst), Params { src, dst, factor: 1, ..Params::default() })
    }

    /// Pixel shuffle: squares of `factor` x `factor` pixels of `dst` lie in the channels of the pixels of `src`.
    pub fn pixel_shuffle(factor: usize, src: TensorView, dst: TensorView) -> Self {
        let factor = int(factor);
        let times = |side: i32| side.saturating_mul(factor);
        assert_eq!((src.c, times(src.h), times(src.w)), (times(times(dst.c)), dst.h, dst.w));
        Self::new(F32Kernel::PixelShuffle, each(&dst), Params { src, dst, factor, ..Params::default() })
    }

    /// `dst = act(src)`.
    pub fn activate(function: Activation, src: TensorView, dst: TensorView) -> Self {
        assert_eq!(src.size(), dst.size());
        Self::new(F32Kernel::Activate, each(&dst), Params { src, dst, act: act(function), ..Params::default() })
    }

    /// `dst = a + b`.
    pub fn add(a: TensorView, b: TensorView, dst: TensorView) -> Self {
        assert!(a.size() == dst.size() && b.size() == dst.size());
        Self::new(F32Kernel::Add, each(&dst), Params { src: a, other: b, has_other: 1, dst, ..Params::default() })
    }

    /// Mean over all pixels.
    pub fn average(src: TensorView, dst: TensorView) -> Self {
        assert_eq!(dst.size(), (src.c, 1, 1));
        Self::new(F32Kernel::Average, each(&dst), Params { src, dst, ..Params::default() })
    }

    /// `softmax(scale * q^T k)` applied to the values, head after head.
    pub fn attention(op: &Attention, src: TensorView, dst: TensorView) -> Self {
        let grid = [count(src.area(), 4), int(op.heads) as u32, count(int(op.head_dim).into(), 128)];
        Self::heads(F32Kernel::Attention, grid, op, src, dst)
    }

    /// The attention values of a packed input, head after head.
    pub fn attention_values(op: &Attention, src: TensorView, dst: TensorView) -> Self {
        Self::heads(F32Kernel::AttentionValues, each(&dst), op, src, dst)
    }

    fn heads(kernel: F32Kernel, grid: [u32; 3], op: &Attention, src: TensorView, dst: TensorView) -> Self {
        let [heads, key_dim, head_dim] = [op.heads, op.key_dim, op.head_dim].map(int);
        assert_eq!((src.c, src.h, src.w), (int(op.heads * op.packed()), dst.h, dst.w));
        assert_eq!(dst.c, heads * head_dim);
        let params = Params { src, dst, heads, key_dim, head_dim, scale: op.scale, ..Params::default() };
        Self::new(kernel, grid, params)
    }

    fn new(kernel: F32Kernel, grid: [u32; 3], params: Params) -> Self {
        let Params { src, dst, other, has_other, .. } = &params;
        let small =
            |s: &TensorView| s.area() < 1 << 31 && s.len() < 1 << 36 && s.pixel < i32::MAX && s.channel < i32::MAX;
        let other_region = if *has_other == 1 { other.region() } else { Region::default() };
        let (reads, writes) = ([src.region(), other_region], dst.region());
        let fits = [src, dst, other].into_iter().all(small);
        let end = reads.iter().chain([&writes]).map(Region::end).max().filter(|_| fits).unwrap_or(i64::MAX);
        Self {
            kernel: Kernel::F32(kernel),
            grid,
            shared: 0,
            arguments: KernelArguments::F32(params),
            reads: regions(&reads),
            writes: regions(&[writes]),
            end,
        }
    }
}

/// A thread for every value.
fn each(dst: &TensorView) -> [u32; 3] {
    [count(dst.len(), F32Kernel::Upsample.threads().into()), 1, 1]
}
