//! The structs that kernels are called with, and the bytes that they name.

use super::training::Training;
use crate::graph::Activation;
use crate::kernels::View;

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 16;

/// Channels of a chunk in int8.
pub(super) const INT8_CHUNK: usize = 16;

/// Chunks that the depth of a packed kernel is a multiple of.
pub(super) const DEPTH_STEP: usize = 16;

/// Channels of a chunk in f16.
pub(super) const F16_CHUNK: usize = 8;

/// What runs of channels are filled up to in networks of floats: a chunk in f16, two in f32.
pub const RUN_STEP: usize = 8;

/// What the tensors of a network of floats hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// Multiplied as it is.
    F16,
    /// Multiplied as the sum of two TF32 values.
    F32,
}

impl Float {
    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A tensor in the memory of a device: value `(pixel, channel)` has the address `at + pixel * self.pixel + channel *
/// self.channel`, counted in values. The same layout as `TensorView` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TensorView {
    at: i64,
    pub(super) pixel: i32,
    pub(super) channel: i32,
    pub(super) c: i32,
    pub(super) h: i32,
    pub(super) w: i32,
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

    /// Its first channels.
    pub(super) fn narrowed(&self, c: i32) -> Self {
        Self { c, ..*self }
    }

    /// Number of values.
    pub(super) fn len(&self) -> i64 {
        i64::from(self.c) * self.area()
    }

    pub(super) fn area(&self) -> i64 {
        i64::from(self.h) * i64::from(self.w)
    }

    /// The bytes of its values.
    pub(super) fn region(&self) -> Region {
        let last = |count: i64, step: i32| (count - 1).saturating_mul(i64::from(step));
        let at = self.at.saturating_mul(4);
        if self.channel == 1 {
            let (pitch, width) = (i64::from(self.pixel) * 4, i64::from(self.c) * 4);
            return Region { at, pitch, width, rows: self.area() };
        }
        let values = last(self.area(), self.pixel).saturating_add(last(self.c.into(), self.channel)) + 1;
        let width = values.saturating_mul(4);
        Region { at, pitch: width, width, rows: 1 }
    }

    pub(super) fn size(&self) -> (i32, i32, i32) {
        (self.c, self.h, self.w)
    }
}

/// The arguments of a kernel. The same layout as `Params` in `kernels.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Params {
    pub src: TensorView,
    pub dst: TensorView,
    pub other: TensorView,
    pub weights: i64,
    pub bias: i64,
    pub has_other: i32,
    pub kernel: i32,
    pub stride: i32,
    pub padding: i32,
    pub act: i32,
    pub by_plane: i32,
    pub factor: i32,
    pub heads: i32,
    pub key_dim: i32,
    pub head_dim: i32,
    pub scale: f32,
}

/// A tensor on the device, in bytes. The same layout as `Tensor` in `product.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tensor {
    pub(super) at: i64,
    pub(super) pitch: i32,
    pub(super) step: i32,
    pub(super) c: i32,
    pub(super) h: i32,
    pub(super) w: i32,
    unused: i32,
}

impl Tensor {
    /// Pixel after pixel, of values of `size` bytes; the view counts values from byte `base` on.
    fn pixels(base: usize, view: View, size: usize) -> Self {
        let at = i64::try_from(base.saturating_add(view.offset.saturating_mul(size))).unwrap_or(i64::MAX);
        let [pitch, step, c, h, w] = [view.pitch.saturating_mul(size), size, view.c, view.h, view.w].map(int);
        Self { at, pitch, step, c, h, w, unused: 0 }
    }

    /// Pixel after pixel in floats: offset, pitch and channels of the view are multiples of [`RUN_STEP`].
    pub fn floats(base: usize, view: View, float: Float) -> Self {
        Self::pixels(base, view, float.bytes())
    }

    /// Pixel after pixel in f32, at any address.
    pub fn f32(base: usize, view: View) -> Self {
        Self::pixels(base, view, 4)
    }

    /// The quantized input of a product: `c` channels, filled up to chunks.
    pub fn int8(at: usize, c: usize, h: usize, w: usize) -> Self {
        Self::pixels(at, View::dense(0, c.next_multiple_of(INT8_CHUNK), h, w), 1)
    }

    /// Bytes of [`Tensor::int8`].
    pub fn int8_bytes(c: usize, h: usize, w: usize) -> usize {
        c.next_multiple_of(INT8_CHUNK) * h * w
    }

    /// So many bytes, one after the other.
    pub(super) fn bytes(at: usize, count: usize) -> Self {
        Self::pixels(at, View::dense(0, count, 1, 1), 1)
    }

    /// Plane after plane in f32, from byte `at` on.
    pub fn planes(at: usize, c: usize, h: usize, w: usize) -> Self {
        let tensor = Self::pixels(at, View::dense(0, c, h, w), 4);
        Self { pitch: 4, step: int(h.saturating_mul(w).saturating_mul(4)), ..tensor }
    }

    /// The same planes of bytes, from byte `at` on.
    pub(super) fn byte_planes(at: usize, planes: &Self) -> Self {
        Self { at: i64::try_from(at).unwrap_or(i64::MAX), pitch: 1, step: planes.step / 4, ..*planes }
    }

    /// Its first channels.
    pub fn channels(&self, count: usize) -> Self {
        Self { c: int(count), ..*self }
    }

    /// The same of f32 values, for the kernels that count those.
    pub fn values(&self) -> TensorView {
        let Self { at, pitch, step, c, h, w, unused } = *self;
        TensorView { at: at / 4, pixel: pitch / 4, channel: step / 4, c, h, w, unused }
    }

    pub(super) fn area(&self) -> i64 {
        i64::from(self.h) * i64::from(self.w)
    }

    pub(super) fn size(&self) -> (i32, i32, i32) {
        (self.c, self.h, self.w)
    }

    /// The bytes of its values.
    pub(super) fn region(&self) -> Region {
        let at = self.at;
        // Planes: the channels of a pixel lie further apart than pixels.
        if self.pitch < self.c.saturating_mul(self.step) {
            let width = i64::from(self.c).saturating_mul(self.pitch.into()).saturating_mul(self.area());
            return Region { at, pitch: width, width, rows: 1 };
        }
        let width = i64::from(self.c) * i64::from(self.step);
        Region { at, pitch: self.pitch.into(), width, rows: self.area() }
    }

    /// Whether 32 bits count its bytes.
    pub(super) fn is_small(&self) -> bool {
        self.area().saturating_mul(self.pitch.into()) < 1 << 31
    }
}

/// A product with a packed kernel. The same layout as `Product` in `product.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Product {
    pub weights: i64,
    pub bias: i64,
    pub scales: i64,
    pub shifts: i64,
    pub k_chunks: i32,
    pub k_pitch: i32,
    pub columns: i32,
    pub act: i32,
}

/// The arguments of a kernel on chunks. The same layout as `Arguments` in `product.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Arguments {
    pub src: Tensor,
    pub dst: Tensor,
    pub other: Tensor,
    pub member: Tensor,
    pub product: Product,
    pub outside: i64,
    pub others: i32,
    pub kernel: i32,
    pub stride: i32,
    pub padding: i32,
    pub c_chunks: i32,
    pub c_magic: u32,
    pub k_magic: u32,
    pub w_magic: u32,
    pub pattern: u32,
    pub factor: i32,
    pub heads: i32,
    pub key_chunks: i32,
    pub value_chunks: i32,
    pub channels: i32,
    pub scale: f32,
    pub steps: f32,
    pub least: f32,
    pub most: f32,
    pub zero: i32,
    pub member_first: i32,
    pub member_chunks: i32,
    pub shift: i32,
}

/// Levels of the outputs of cells, at most.
pub const MAX_LEVELS: usize = 8;

/// The outputs of a level: the first bytes of their planes in f32, its first cell and how many it has. The same layout as
/// in `cells.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CellLevel {
    pub boxes: i64,
    pub classes: i64,
    pub extra: i64,
    pub first: i32,
    pub area: i32,
}

/// The arguments of a kernel. The same layout as in `cells.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct CellArguments {
    pub levels: [CellLevel; MAX_LEVELS],
    pub least: i64,
    pub found: i64,
    pub table: i64,
    pub count: i32,
    pub cells: i32,
    pub most: i32,
    pub boxes: i32,
    pub classes: i32,
    pub extra: i32,
}

/// The second argument of a kernel, after the memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum KernelArguments {
    F32(Params),
    Packed(Arguments),
    Cells(CellArguments),
    Train(Training),
}

/// Bytes of the memory that lie as rows: `rows` times `width` bytes, `pitch` bytes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Region {
    pub at: i64,
    pub pitch: i64,
    pub width: i64,
    pub rows: i64,
}

impl Region {
    /// The byte after the last.
    pub fn end(&self) -> i64 {
        self.at.saturating_add((self.rows - 1).saturating_mul(self.pitch)).saturating_add(self.width)
    }

    /// Whether a byte belongs to both; where that is not simple, that it does.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.rows <= 0 || other.rows <= 0 || self.end() <= other.at || other.end() <= self.at {
            return false;
        }
        // Runs of channels of the same tensor.
        let apart = (other.at - self.at).rem_euclid(self.pitch.max(1));
        !(self.pitch == other.pitch && apart >= self.width && apart + other.width <= self.pitch)
    }
}

/// Blocks of `size` that cover `total`; saturates beyond what a launch can have.
pub(super) fn count(total: i64, size: i64) -> u32 {
    u32::try_from((total + size - 1) / size).unwrap_or(u32::MAX)
}

/// Saturates: what is too large for the kernels is refused by [`Launch::in_bounds`].
pub(super) fn int(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// The number of an activation function in the kernels.
pub(super) fn act(function: Activation) -> i32 {
    match function {
        Activation::Identity => 0,
        Activation::Silu => 1,
        Activation::Relu => 2,
    }
}
