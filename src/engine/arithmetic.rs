//! What the compiler must know of the arithmetic that a network will run on: which algorithm computes a convolution,
//! how its weights are packed, and how much working space the kernels take.

use crate::graph::{Attention, Conv, Dtype, Shape};
use crate::kernels::{Algorithm, ConvSpec};

/// The arithmetic of the CPU or of a CUDA device. All sizes are in values of f32.
pub(super) trait Arithmetic {
    /// How a dense convolution with an output of this shape is computed, in a network of a dtype. A dtype that there are no
    /// kernels for is computed in f32. In a network of int8 every device gives the same bits.
    fn algorithm(&self, conv: &Conv, out: Shape, dtype: Dtype, network: Dtype) -> Algorithm;

    /// Size of a packed kernel with its biases.
    fn packed_len(&self, spec: &ConvSpec, depthwise: bool) -> usize;

    /// Packs a kernel `[c_out, c_in / groups, k, k]` and a bias `[c_out]`. The range of the inputs matters to int8
    /// only.
    fn pack(&self, spec: &ConvSpec, depthwise: bool, kernel: &[f32], bias: &[f32], range: [f32; 2], packed: &mut [f32]);

    /// Working space per thread, and zeros to read, that a dense convolution needs.
    fn working_space(&self, spec: &ConvSpec) -> (usize, usize);

    /// Space shared by all threads for the quantized input of a convolution; 0 if none is needed.
    fn quantized_len(&self, spec: &ConvSpec, input: Shape) -> usize;

    /// Working space of an attention over so many pixels: shared by all threads, and per thread.
    fn attention_space(&self, op: &Attention, pixels: usize) -> (usize, usize);
}
