//! Bytes of a convolution's packed kernel as a function of its widths: on a CPU a value per weight, on a GPU with the depth
//! and the columns filled up as its kernels read them.

use super::Deployed;
use crate::graph::{Activation, Dtype, NodeId, Op, Shape};
use crate::kernels::cuda::{Channels, ConvWeights, Float, packed_conv_len, packed_depthwise_len, packed_int8_bytes};
use crate::kernels::{Algorithm, ConvSpec};

/// How a kernel is packed.
#[derive(Clone, Debug)]
pub(super) enum Packing {
    /// So many values per product of an input and an output channel, of so many bytes each, and f32 biases.
    Plain { taps: usize, depthwise: bool, weight: f64 },
    /// For a GPU; the channels of the spec are those of a plan.
    Gpu { spec: ConvSpec, depthwise: bool, arithmetic: Arithmetic },
}

/// The arithmetic of a layer on a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arithmetic {
    /// Of a network of floats.
    Of(Float),
    Int8,
    /// f32 with the bits of the CPU, in a network of int8.
    Exact,
}

impl Packing {
    /// Bytes for so many input and output channels.
    pub fn bytes(&self, c_in: usize, c_out: usize) -> f64 {
        match self {
            Self::Plain { taps, depthwise, weight } => {
                weight * (if *depthwise { 1 } else { c_in } * c_out * taps) as f64 + super::F32 * c_out as f64
            }
            Self::Gpu { spec, depthwise, arithmetic } => {
                let spec = ConvSpec { c_in, c_out, ..*spec };
                let bytes = match (*arithmetic, depthwise) {
                    (Arithmetic::Of(float), true) => {
                        ConvWeights::depthwise(float, spec, Channels::dense(c_out)).bytes()
                    }
                    (Arithmetic::Of(float), false) => {
                        ConvWeights::dense(float, spec, Channels::dense(c_in), Channels::dense(c_out)).bytes()
                    }
                    (Arithmetic::Int8, _) => packed_int8_bytes(&spec),
                    (Arithmetic::Exact, true) => super::F32 as usize * packed_depthwise_len(&spec),
                    (Arithmetic::Exact, false) => super::F32 as usize * packed_conv_len(&spec),
                };
                bytes as f64
            }
        }
    }
}

/// How the kernel of a node with an output of this shape is packed; none where it has none. `dtype` is that of its layer.
pub(super) fn packing(deployed: &Deployed, node: NodeId, out: Shape, dtype: Dtype) -> Option<Packing> {
    let Deployed { graph, device, .. } = *deployed;
    let (side, depthwise) = match &graph.node(node).op {
        Op::Conv(conv) => (conv.kernel, conv.is_depthwise()),
        Op::ConvTranspose(conv) => (conv.factor, false),
        _ => return None,
    };
    if device.is_cuda() {
        // A network in f16 is in f16 as a whole; in one of int8 what is not int8 is f32.
        let arithmetic = match (graph.dtype, dtype) {
            (Dtype::F32, _) => Arithmetic::Of(Float::F32),
            (Dtype::F16, _) => Arithmetic::Of(Float::F16),
            (Dtype::Int8, Dtype::Int8) => Arithmetic::Int8,
            (Dtype::Int8, _) => Arithmetic::Exact,
        };
        return Some(Packing::Gpu { spec: spec(side), depthwise, arithmetic });
    }
    let weight = match dtype {
        Dtype::F32 => super::F32,
        Dtype::F16 => 2.0,
        Dtype::Int8 => 1.0,
    };
    let taps = match &graph.node(node).op {
        Op::Conv(conv) if dtype.is_f32() && !depthwise => Algorithm::of_f32(conv, out, graph.dtype).taps(conv.kernel),
        _ => side * side,
    };
    Some(Packing::Plain { taps, depthwise, weight })
}

/// A window of which only the size matters.
fn spec(kernel: usize) -> ConvSpec {
    ConvSpec {
        c_in: 0,
        c_out: 0,
        kernel,
        stride: 1,
        padding: 0,
        act: Activation::Identity,
        algorithm: Algorithm::Direct,
        planar: false,
    }
}
