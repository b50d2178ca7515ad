//! Tensors with many zeros in a model file: a bit per value, and the values that are not zero.
//!
//! A kernel `KEY` of which a quarter or more is zero is stored as two tensors: `KEY.nonzero` (U8, one bit per
//! value, the first value in the lowest bit of the first byte, row-major, unused bits of the last byte zero) and
//! `KEY.values` (F32, the values whose bit is set, in order). Its shape follows from the graph.

use super::{Tensor, Weights};
use crate::graph::Graph;
use safetensors::{Dtype, SafeTensors};

/// Suffixes of the two tensors.
pub(super) const BITS: &str = ".nonzero";
pub(super) const VALUES: &str = ".values";

/// A tensor in parts.
pub(super) struct Packed {
    pub bits: Vec<u8>,
    pub values: Vec<f32>,
}

/// The parts of a kernel with many zeros; `None` for vectors and for kernels with few zeros. Negative zeros count as
/// values, so that the unpacked kernel is the same to the bit.
pub(super) fn pack(tensor: &Tensor) -> Option<Packed> {
    let set = |v: &f32| v.to_bits() != 0;
    let count = tensor.data().iter().filter(|v| set(v)).count();
    if tensor.shape().len() < 2 || 4 * (tensor.data().len() - count) < tensor.data().len().max(1) {
        return None;
    }
    let mut bits = vec![0u8; tensor.data().len().div_ceil(8)];
    for (at, _) in tensor.data().iter().enumerate().filter(|(_, v)| set(v)) {
        bits[at / 8] |= 1 << (at % 8);
    }
    Some(Packed { bits, values: tensor.data().iter().copied().filter(set).collect() })
}

/// Puts the packed kernels of a file, which the graph names, into its weights. What comes out is at most 32 times as
/// large as the bits in the file.
///
/// # Errors
/// Names the tensor whose parts do not fit each other or the graph.
pub(super) fn unpack(graph: &Graph, file: &SafeTensors, weights: &mut Weights) -> Result<(), String> {
    for param in graph.params() {
        let (bits_key, values_key) = (format!("{}{BITS}", param.key), format!("{}{VALUES}", param.key));
        let Ok(bits) = file.tensor(&bits_key) else { continue };
        let size = param.shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side));
        let size = size.ok_or_else(|| format!("`{}` has the absurd shape {:?}", param.key, param.shape))?;
        if bits.dtype() != Dtype::U8 || bits.data().len() != size.div_ceil(8) {
            let (found, expected) = (bits.data().len(), size.div_ceil(8));
            return Err(format!("`{bits_key}` has {found} bytes of {:?}, expected {expected} of U8", bits.dtype()));
        }
        let set = |at: usize| bits.data()[at / 8] >> (at % 8) & 1 == 1;
        if (size..8 * bits.data().len()).any(set) {
            return Err(format!("`{bits_key}` has bits beyond its {size} values"));
        }
        let count: usize = bits.data().iter().map(|byte| byte.count_ones() as usize).sum();
        let values = weights.remove(&values_key).map(Tensor::into_data).unwrap_or_default();
        if values.len() != count {
            return Err(format!("`{values_key}` has {} values, `{bits_key}` has {count} bits", values.len()));
        }
        let mut values = values.into_iter();
        let data = (0..size).map(|at| if set(at) { values.next().unwrap_or(0.0) } else { 0.0 }).collect();
        weights.insert(param.key, Tensor::new(param.shape, data));
    }
    Ok(())
}
