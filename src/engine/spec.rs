//! How the kernels of convolutions are asked for: by a graph's convolution, or by an operator that one computes.

use crate::graph::{Activation, Conv, ConvTranspose};
use crate::kernels::{Algorithm, ConvSpec};

/// The spec that the kernels want.
pub(super) fn spec(conv: &Conv, algorithm: Algorithm) -> ConvSpec {
    ConvSpec {
        algorithm,
        planar: false,
        c_in: conv.c_in,
        c_out: conv.c_out,
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv.padding,
        act: conv.act,
    }
}

/// The depthwise convolution that computes means over windows.
pub(super) fn mean_spec(kernel: usize, stride: usize, channels: usize) -> ConvSpec {
    ConvSpec {
        c_in: channels,
        c_out: channels,
        kernel,
        stride,
        padding: 0,
        act: Activation::Identity,
        algorithm: Algorithm::Direct,
        planar: false,
    }
}

/// The 1x1 convolution that computes all squares of a transposed one, each in the channels of one pixel.
pub(super) fn square_spec(conv: &ConvTranspose) -> ConvSpec {
    let c_out = conv.c_out * conv.factor * conv.factor;
    ConvSpec {
        c_in: conv.c_in,
        c_out,
        kernel: 1,
        stride: 1,
        padding: 0,
        act: Activation::Identity,
        algorithm: Algorithm::Direct,
        planar: false,
    }
}
