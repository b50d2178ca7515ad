//! Convolutions in half precision, IEEE 754 binary16: inputs and weights of 11 bits.
//!
//! A packed lane is two channels. Sums are f16 too, those of even and of odd channels apart from each other until the
//! end. Where a CPU has no such arithmetic, weights are only stored in f16, and it computes in f32.

use super::Isa;
use super::conv::{Algorithm, ChannelScale, ConvSpec, pack_low_precision};
use super::isa::packed::PackedIsa;
use half::f16;

/// Where inputs saturate. The magnitudes of an output channel's weights add up to less than 2, and rounding at most
/// doubles what a step adds to a sum, so no sum reaches the greatest f16, 65504, whatever the input.
const MOST: f32 = 16000.0;

/// Whether an instruction set computes in f16 on this machine, twice as many values at a time as in f32.
pub fn computes_f16(isa: Isa) -> bool {
    PackedIsa::native_f16(isa).is_some()
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`. The weights of an output channel are divided by a power
/// of two, which its sums are multiplied with: their magnitudes add up to 1 or more, and less than 2.
///
/// # Panics
/// If a length is wrong.
pub fn pack_f16(isa: Isa, spec: &ConvSpec, weights: &[f32], bias: &[f32], packed: &mut [f32]) {
    assert_eq!(spec.algorithm, Algorithm::F16);
    let isa = PackedIsa::f16(isa);
    pack_low_precision(isa, spec, (weights, bias), [1.0, -MOST, MOST, 0.0], packed, |kernel, bits| {
        let total: f32 = kernel.iter().map(|w| w.abs()).sum();
        // Without the mantissa; kept where a division by it is exact.
        let scale = f32::from_bits(total.to_bits() & 0x7f80_0000).clamp(2.0f32.powi(-100), 2.0f32.powi(100));
        for (bits, weight) in bits.iter_mut().zip(kernel) {
            *bits = f16::from_f32(weight / scale).to_bits().into();
        }
        ChannelScale { scale, start: 0 }
    });
}
