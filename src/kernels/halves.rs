//! Convolutions in half precision, IEEE 754 binary16: inputs and weights of 11 bits.
//!
//! A word is two channels. Sums are halves too, those of even and of odd channels apart from each other until the end.
//! Where a processor has no such arithmetic, weights are only stored so, and it computes in f32.

use super::Isa;
use super::conv::{Algorithm, ConvSpec};
use super::words::{self, Unit};
use half::f16;

/// Where inputs are cut off. The magnitudes of an output channel's weights add up to less than 2, and rounding at most
/// doubles what a step adds to a sum, so no sum reaches the greatest half, 65504, whatever comes.
const MOST: f32 = 16000.0;

/// Whether an instruction set computes in halves on this machine, twice as many at a time as f32.
pub fn computes_halves(isa: Isa) -> bool {
    Unit::of_halves(isa).is_some()
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`. The weights of an output channel are divided by a power of
/// two, which its sums are multiplied with: their magnitudes add up to 1 or more, and less than 2.
///
/// # Panics
/// If a length is wrong.
pub fn pack_half(isa: Isa, spec: &ConvSpec, weights: &[f32], bias: &[f32], packed: &mut [f32]) {
    assert_eq!(spec.algorithm, Algorithm::Half);
    words::pack(isa, spec, (weights, bias), [1.0, -MOST, MOST, 0.0], packed, |kernel, numbers| {
        let total: f32 = kernel.iter().map(|w| w.abs()).sum();
        // Without the mantissa; kept where a division by it is exact.
        let scale = f32::from_bits(total.to_bits() & 0x7f80_0000).clamp(2.0f32.powi(-100), 2.0f32.powi(100));
        for (number, weight) in numbers.iter_mut().zip(kernel) {
            *number = f16::from_f32(weight / scale).to_bits().into();
        }
        (scale, 0)
    });
}
