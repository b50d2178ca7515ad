//! What the compiler must know of a kind of processor: how it computes convolutions, and what that takes.

use crate::graph::{Attention, Conv, Dtype, Shape};
use crate::kernels::{self, Algorithm, ConvSpec, Isa};

/// A kind of processor with kernels of its own. All sizes are in values.
pub(super) trait Processor {
    /// How a dense convolution with an output of this shape is computed. Numbers that a processor has no kernels for it
    /// computes in f32.
    fn algorithm(&self, conv: &Conv, out: Shape, dtype: Dtype) -> Algorithm;

    /// Size of a packed kernel with its biases.
    fn packed_len(&self, spec: &ConvSpec, depthwise: bool) -> usize;

    /// Packs a kernel `[c_out, c_in / groups, k, k]` and a bias `[c_out]`. The range of the inputs matters to whole numbers
    /// only.
    fn pack(&self, spec: &ConvSpec, depthwise: bool, kernel: &[f32], bias: &[f32], range: [f32; 2], packed: &mut [f32]);

    /// Working space per thread, and zeros to read, that a dense convolution needs.
    fn working_space(&self, spec: &ConvSpec) -> (usize, usize);

    /// Space shared by all threads for an input of this shape that is rounded into words; 0 if none is needed.
    fn rounded_len(&self, spec: &ConvSpec, input: Shape) -> usize;

    /// Working space of an attention over so many pixels: shared by all threads, and per thread.
    fn attention_space(&self, op: &Attention, pixels: usize) -> (usize, usize);
}

/// A processor as plans see it. For what another machine's engine will hold, whether that one computes in halves matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The instruction set.
    pub isa: Isa,
    /// Whether it computes in half precision; if not, halves are stored only, and layers computed in f32.
    pub halves: bool,
}

impl Cpu {
    /// This machine's.
    pub fn here() -> Self {
        Isa::detect().into()
    }
}

impl From<Isa> for Cpu {
    fn from(isa: Isa) -> Self {
        Self { isa, halves: kernels::computes_halves(isa) }
    }
}

impl Processor for Cpu {
    fn algorithm(&self, conv: &Conv, out: Shape, dtype: Dtype) -> Algorithm {
        match dtype {
            Dtype::Int8 => Algorithm::Int8,
            Dtype::F16 if self.halves => Algorithm::Half,
            _ => Algorithm::choose(conv.kernel, conv.stride, out.h, out.w),
        }
    }

    fn packed_len(&self, spec: &ConvSpec, depthwise: bool) -> usize {
        if depthwise { kernels::packed_depthwise_len(spec) } else { kernels::packed_conv_len(self.isa, spec) }
    }

    fn pack(
        &self,
        spec: &ConvSpec,
        depthwise: bool,
        kernel: &[f32],
        bias: &[f32],
        range: [f32; 2],
        packed: &mut [f32],
    ) {
        match (depthwise, spec.algorithm) {
            (true, _) => kernels::pack_depthwise(spec, kernel, bias, packed),
            (_, Algorithm::Int8) => kernels::pack_int8(self.isa, spec, kernel, bias, range, packed),
            (_, Algorithm::Half) => kernels::pack_half(self.isa, spec, kernel, bias, packed),
            _ => kernels::pack_conv(self.isa, spec, kernel, bias, packed),
        }
    }

    fn working_space(&self, spec: &ConvSpec) -> (usize, usize) {
        (kernels::conv_scratch(self.isa, spec), kernels::conv_zeros(spec))
    }

    fn rounded_len(&self, spec: &ConvSpec, input: Shape) -> usize {
        kernels::words_shared(self.isa, spec, input.h, input.w)
    }

    fn attention_space(&self, op: &Attention, pixels: usize) -> (usize, usize) {
        kernels::attention_scratch(self.isa, op, pixels)
    }
}
