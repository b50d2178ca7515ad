//! Sizes of a dense convolution, and how it is computed.
//!
//! The algorithm depends on the window and the image alone, never on the number of channels, so that time and memory
//! are smooth functions of the widths.

use crate::graph::{Activation, Conv, Dtype, Shape};
use crate::kernels::Isa;
use crate::kernels::isa::lanes::MAX_LANES;
use crate::kernels::isa::packed::PackedIsa;

/// Sizes of a dense convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvSpec {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Side of the window.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
    /// Function applied to every sum.
    pub act: Activation,
    /// How it is computed.
    pub algorithm: Algorithm,
    /// Whether the input is an image `[c_in, h, w]`, plane after plane, and no view. Only with [`Algorithm::Direct`].
    pub planar: bool,
}

/// A convolution with its packed kernel and biases.
#[derive(Clone, Copy, Debug)]
pub struct PackedConv<'a> {
    /// Sizes and algorithm.
    pub spec: &'a ConvSpec,
    /// What the packing function for this algorithm and the same instruction set wrote.
    pub weights: &'a [f32],
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Tap by tap.
    Direct,
    /// Winograd's minimal filtering, 4 x 4 outputs of a 3 x 3 window at a time.
    Winograd,
    /// Tap by tap in int8 ([`conv_low_precision`](super::conv_low_precision)).
    Int8,
    /// Tap by tap in f16 ([`conv_low_precision`](super::conv_low_precision)).
    F16,
}

/// Outputs of a Winograd tile along a side.
pub(super) const WINOGRAD_OUT: usize = 4;

/// Inputs of a Winograd tile along a side.
pub(super) const WINOGRAD_IN: usize = 6;

/// Products of a Winograd tile.
pub(super) const WINOGRAD_POSITIONS: usize = WINOGRAD_IN * WINOGRAD_IN;

/// Winograd tiles of an output image.
pub(super) fn winograd_tiles(height: usize, width: usize) -> usize {
    height.div_ceil(WINOGRAD_OUT) * width.div_ceil(WINOGRAD_OUT)
}

impl Algorithm {
    /// The faster f32 algorithm for a window and an output image.
    pub fn choose(kernel: usize, stride: usize, height: usize, width: usize) -> Self {
        // Below some tiles the transformed kernels, four times as large, cost more than they save.
        let enough = winograd_tiles(height, width) >= 16;
        if kernel == 3 && stride == 1 && enough { Self::Winograd } else { Self::Direct }
    }

    /// How a convolution with an output of this shape is computed in f32, in a network of a dtype: the faster way, but in a
    /// network of int8 the one whose sums every device forms in the same order.
    pub fn of_f32(conv: &Conv, out: Shape, network: Dtype) -> Self {
        let faster = Self::choose(conv.kernel, conv.stride, out.h, out.w);
        if network == Dtype::Int8 { Self::Direct } else { faster }
    }

    /// Values of a packed kernel per product of an input and an output channel.
    pub fn taps(self, kernel: usize) -> usize {
        match self {
            Self::Direct | Self::Int8 | Self::F16 => kernel * kernel,
            Self::Winograd => WINOGRAD_POSITIONS,
        }
    }

    /// Whether the input is quantized to int8 or narrowed to f16.
    pub fn is_low_precision(self) -> bool {
        matches!(self, Self::Int8 | Self::F16)
    }

    /// The instructions of a low-precision algorithm that go with an instruction set; `None` for those in f32.
    pub(in crate::kernels) fn packed_isa(self, isa: Isa) -> Option<PackedIsa> {
        match self {
            Self::Int8 => Some(PackedIsa::int8(isa)),
            Self::F16 => Some(PackedIsa::f16(isa)),
            Self::Direct | Self::Winograd => None,
        }
    }
}

impl ConvSpec {
    /// Output rows or columns for an input side.
    pub(in crate::kernels) fn side(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Planes of the input, and channels of one.
    pub(super) fn planes(&self) -> (usize, usize) {
        if self.planar { (self.c_in, 1) } else { (1, self.c_in) }
    }

    /// Rows of packed weights.
    pub(super) fn depth(&self) -> usize {
        self.algorithm.taps(self.kernel) * self.c_in
    }

    /// Values before the first panel, so that panels start on a cache line.
    pub(super) fn biases(&self) -> usize {
        self.c_out.next_multiple_of(MAX_LANES)
    }

    /// Whether an output pixel reads only the input pixel at its own position.
    pub(super) fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.padding) == (1, 1, 0)
    }
}
