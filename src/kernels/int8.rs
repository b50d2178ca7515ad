//! Convolutions in int8 (Jacob et al., "Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference", 2018): inputs of 0 to 255 with one scale and zero point for a tensor, weights of
//! -127 to 127 with one scale for each output channel, sums in i32.
//!
//! Every instruction set forms the same sums to the bit, and so does a GPU.

use super::Isa;
use super::conv::{Algorithm, ChannelScale, ConvSpec, pack_low_precision};
use super::isa::packed::PackedIsa;
use crate::graph::MAX_INT8_DEPTH;

/// The scale of weights whose greatest magnitude is `most`: a step of which 127 reach that. Its mantissa has 16 bits,
/// so that an f32 holds every multiple of the scale exactly, and quantizes to the same scale and integer again.
pub fn weight_scale(most: f32) -> f32 {
    let short = |v: f32| f32::from_bits(v.to_bits() & !0xff);
    let step = short(most / 127.0);
    if step * 127.0 < most { f32::from_bits(step.to_bits() + 0x100) } else { step }
}

/// Quantizes a weight: its number of steps, -127 to 127.
pub fn quantize_weight(weight: f32, scale: f32) -> i32 {
    if scale > 0.0 { (weight / scale).round().clamp(-127.0, 127.0) as i32 } else { 0 }
}

/// Rounds a kernel `[channels, ...]` to what int8 computes with: every channel's weights to multiples of its scale.
pub fn quantize_kernel(kernel: &mut [f32], channels: usize) {
    let per_channel = (kernel.len() / channels.max(1)).max(1);
    for channel in kernel.chunks_mut(per_channel) {
        let scale = weight_scale(channel.iter().fold(0.0, |most, w| w.abs().max(most)));
        channel.iter_mut().for_each(|w| *w = quantize_weight(*w, scale) as f32 * scale);
    }
}

/// How the inputs of a layer become integers: `(value * factor)`, clamped to `least..=most` and rounded to the nearest
/// number, of two the even one, is the integer less the zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputSteps {
    scale: f32,
    factor: f32,
    least: f32,
    most: f32,
}

impl InputSteps {
    /// The steps of a range, which is widened to hold 0.
    pub fn of(range: [f32; 2]) -> Self {
        let (scale, zero) = input_scale(range);
        Self { scale, factor: 1.0 / scale, least: -zero, most: 255.0 - zero }
    }

    /// Scale, factor, and the least and the greatest number of steps.
    pub(super) fn values(self) -> [f32; 4] {
        [self.scale, self.factor, self.least, self.most]
    }

    /// The value that int8 computes with in place of one.
    #[inline(always)]
    pub fn rounded(self, value: f32) -> f32 {
        let steps = value * self.factor;
        let steps = if steps < self.least { self.least } else { steps };
        let steps = if steps > self.most { self.most } else { steps };
        steps.round_ties_even() * self.scale
    }

    /// Whether a value lies inside the range, so that it is rounded and not clamped.
    #[inline(always)]
    pub fn holds(self, value: f32) -> bool {
        let steps = value * self.factor;
        steps >= self.least && steps <= self.most
    }
}

/// Scale and zero point of values of a range, which is widened to hold 0: `value = (number - zero) * scale`.
pub fn input_scale([low, high]: [f32; 2]) -> (f32, f32) {
    let (low, high) = (low.min(0.0), high.max(0.0));
    let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
    (scale, (-low / scale).round().clamp(0.0, 255.0))
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]` for inputs of a range.
///
/// # Panics
/// If a length is wrong, or the sums may be too large.
pub fn pack_int8(isa: Isa, spec: &ConvSpec, weights: &[f32], bias: &[f32], range: [f32; 2], packed: &mut [f32]) {
    assert!(spec.algorithm == Algorithm::Int8 && spec.c_in * spec.kernel * spec.kernel <= MAX_INT8_DEPTH);
    let (input, zero) = input_scale(range);
    let InputSteps { factor, least, most, .. } = InputSteps::of(range);
    let isa = PackedIsa::int8(isa);
    let offset = isa.packing().offset;
    let quantization = [factor, least, most, zero];
    pack_low_precision(isa, spec, (weights, bias), quantization, packed, |kernel, bits| {
        let scale = weight_scale(kernel.iter().fold(0.0, |most, w| w.abs().max(most)));
        let mut sum = 0;
        for (bits, weight) in bits.iter_mut().zip(kernel) {
            let steps = quantize_weight(*weight, scale);
            sum += steps;
            *bits = steps as u32;
        }
        ChannelScale { scale: input * scale, start: (-(zero as i32 - offset) * sum) as u32 }
    });
}
