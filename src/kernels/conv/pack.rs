//! Packs kernels and biases in the order in which convolutions read them: panels of output channels, each row after row
//! of the depth.

use super::spec::{Algorithm, ConvSpec};
use super::winograd;
use crate::kernels::Isa;
use crate::kernels::isa::packed::PackedIsa;
use crate::kernels::product::panels;

/// Values behind the weights of a low-precision kernel that hold how inputs are quantized: factor, least and greatest
/// value, zero point. Filled up to a cache line.
const PARAMETERS: usize = 16;

/// Values that the packed kernel and biases of a convolution take.
pub fn packed_conv_len(isa: Isa, spec: &ConvSpec) -> usize {
    match spec.algorithm.packed_isa(isa) {
        Some(isa) => low_precision_len(isa, spec),
        None => spec.biases() + spec.c_out.next_multiple_of(isa.lanes()) * spec.depth(),
    }
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`, for an algorithm in f32.
///
/// # Panics
/// If a length is wrong.
pub fn pack_conv(isa: Isa, spec: &ConvSpec, weights: &[f32], bias: &[f32], packed: &mut [f32]) {
    let (lanes, taps) = (isa.lanes(), spec.kernel * spec.kernel);
    assert_eq!((weights.len(), bias.len()), (spec.c_out * spec.c_in * taps, spec.c_out));
    assert!(packed.len() == packed_conv_len(isa, spec) && !spec.algorithm.is_low_precision());
    packed.fill(0.0);
    let (biases, values) = packed.split_at_mut(spec.biases());
    biases[..spec.c_out].copy_from_slice(bias);
    for panel in panels(spec.c_out, lanes) {
        let width = panel.vectors * lanes;
        let rows = &mut values[panel.start * spec.depth()..][..width * spec.depth()];
        // Channels inside, so that what is written of a row is written at once.
        for ci in 0..spec.c_in {
            for lane in 0..panel.channels {
                let window = &weights[((panel.start + lane) * spec.c_in + ci) * taps..][..taps];
                // In the order in which sums run: planes, taps, channels of a plane.
                let mut put = |position: usize, ci: usize, value: f32| {
                    let row = if spec.planar { ci * taps + position } else { position * spec.c_in + ci };
                    rows[row * width + lane] = value;
                };
                if spec.algorithm == Algorithm::Winograd {
                    let transformed = winograd::transform_kernel(window);
                    transformed.into_iter().enumerate().for_each(|(p, value)| put(p, ci, value));
                } else {
                    window.iter().enumerate().for_each(|(tap, value)| put(tap, ci, *value));
                }
            }
        }
    }
}

/// The same convolution with packed lanes for input channels.
pub(super) fn packed_spec(isa: PackedIsa, spec: &ConvSpec) -> ConvSpec {
    ConvSpec { c_in: spec.c_in.div_ceil(isa.packing().per_lane), ..*spec }
}

/// Values of a low-precision kernel with all that lies before and behind it.
fn low_precision_len(isa: PackedIsa, spec: &ConvSpec) -> usize {
    let weights = spec.c_out.next_multiple_of(isa.packing().lanes) * packed_spec(isa, spec).depth();
    spec.biases() + weights + 2 * spec.biases() + PARAMETERS
}

/// What lies behind the weights of a low-precision kernel: scale and shift of every output channel, and how inputs are
/// quantized.
pub(super) fn low_precision_tail<'a>(spec: &ConvSpec, packed: &'a [f32]) -> [&'a [f32]; 3] {
    let (rest, parameters) = packed.split_at(packed.len() - PARAMETERS);
    let (rest, shift) = rest.split_at(rest.len() - spec.biases());
    [&rest[rest.len() - spec.biases()..], shift, parameters]
}

/// The kernel of one output channel in low precision.
pub(in crate::kernels) struct ChannelScale {
    /// What its sums are multiplied with.
    pub scale: f32,
    /// What its sums start with, as bits.
    pub start: u32,
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`. `quantization` are factor, least and greatest value and
/// zero point of the inputs. `encode` narrows the weights of an output channel to bits, of which the lowest are stored.
///
/// # Panics
/// If a length is wrong.
pub(in crate::kernels) fn pack_low_precision(
    isa: PackedIsa,
    spec: &ConvSpec,
    (weights, bias): (&[f32], &[f32]),
    quantization: [f32; 4],
    packed: &mut [f32],
    encode: impl Fn(&[f32], &mut [u32]) -> ChannelScale,
) {
    let taps = spec.kernel * spec.kernel;
    let packing = isa.packing();
    let (lanes, per_lane) = (packing.lanes, packing.per_lane);
    assert_eq!((weights.len(), bias.len()), (spec.c_out * spec.c_in * taps, spec.c_out));
    assert!(packed.len() == low_precision_len(isa, spec) && !spec.planar);
    let packed_spec = packed_spec(isa, spec);
    packed.fill(0.0);
    let (head, rest) = packed.split_at_mut(packed.len() - 2 * spec.biases() - PARAMETERS);
    let (starts, values) = head.split_at_mut(spec.biases());
    let (scales, rest) = rest.split_at_mut(spec.biases());
    let (shifts, parameters) = rest.split_at_mut(spec.biases());
    parameters[..4].copy_from_slice(&quantization);
    shifts[..spec.c_out].copy_from_slice(bias);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
    let size = 4 / per_lane;
    let mut bits = vec![0; spec.c_in * taps];
    for panel in panels(spec.c_out, lanes) {
        let width = panel.vectors * lanes;
        for lane in 0..panel.channels {
            let channel = panel.start + lane;
            let kernel = &weights[channel * spec.c_in * taps..][..spec.c_in * taps];
            let ChannelScale { scale, start } = encode(kernel, &mut bits);
            for (at, bits) in bits.iter().enumerate() {
                let (ci, tap) = (at / taps, at % taps);
                let row = tap * packed_spec.c_in + ci / per_lane;
                let position = panel.start * packed_spec.depth() + row * width + lane;
                bytes[4 * position + ci % per_lane * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
            }
            scales[channel] = scale;
            starts[channel] = f32::from_bits(start);
        }
    }
}
