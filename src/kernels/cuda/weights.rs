//! How kernels of convolutions in f16 and int8 are packed for the products of `product.h`.
//!
//! Channels of a tensor in f16 lie in runs that are filled up to chunks of 8 ([`Channels`]), so that every slice of a
//! tensor begins at 16 bytes, whatever its width. Packed kernels follow the positions of both sides; what was filled up
//! has zero weights and becomes zero.

use super::arguments::{CHUNK, DEPTH_STEP, F16_CHUNK, INT8_CHUNK, Product, act, int};
use crate::kernels::{ConvSpec, input_scale, quantize_weight, weight_scale};
use half::f16;

/// Where the channels of a run lie: the position of each, and how many positions there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// By channel.
    pub positions: Vec<usize>,
    /// A multiple of [`F16_CHUNK`].
    pub padded: usize,
}

impl Channels {
    /// One run, filled up at its end.
    pub fn dense(channels: usize) -> Self {
        Self { positions: (0..channels).collect(), padded: channels.next_multiple_of(F16_CHUNK) }
    }
}

/// How a convolution in f16 is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Product,
    /// The first layer, from an image of three planes.
    Stem,
    Depthwise,
}

/// A packed kernel in f16: where it comes from, and where its parts lie.
#[derive(Clone, Debug)]
pub struct F16Weights {
    pub(super) spec: ConvSpec,
    pub(super) method: Method,
    pub(super) from: Channels,
    to: Channels,
}

impl F16Weights {
    /// Of a dense convolution between runs of channels.
    pub fn dense(spec: ConvSpec, from: Channels, to: Channels) -> Self {
        Self { spec, method: Method::Product, from, to }
    }

    /// Of a depthwise convolution; both sides have the same channels.
    pub fn depthwise(spec: ConvSpec, to: Channels) -> Self {
        Self { spec, method: Method::Depthwise, from: to.clone(), to }
    }

    /// Of the first layer of an image of this size; `None` where that is not one of three planes, a window of 3, stride
    /// 2 and sides that are multiples of 4.
    pub fn stem(spec: ConvSpec, (h, w): (usize, usize), to: Channels) -> Option<Self> {
        let fits = (spec.c_in, spec.kernel, spec.stride, spec.padding) == (3, 3, 2, 1);
        let sides = h.is_multiple_of(4) && w.is_multiple_of(4);
        (fits && sides).then_some(Self { spec, method: Method::Stem, from: Channels::dense(3), to })
    }

    /// Bytes of the biases, which come first; there is one for every column, 16 at a time.
    fn bias_bytes(&self) -> usize {
        4 * self.to.padded.next_multiple_of(16)
    }

    fn k_chunks(&self) -> usize {
        self.spec.kernel * self.spec.kernel * self.from.padded / F16_CHUNK
    }

    fn k_pitch(&self) -> usize {
        self.k_chunks().next_multiple_of(DEPTH_STEP) * CHUNK
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let taps = self.spec.kernel * self.spec.kernel;
        let weights = match self.method {
            Method::Product => self.to.padded * self.k_pitch(),
            Method::Stem => self.to.padded.next_multiple_of(16) * 96,
            Method::Depthwise => taps * self.to.padded * 2,
        };
        self.bias_bytes() + weights
    }

    /// Packs a kernel `[c_out, c_in / groups, k, k]` and a bias `[c_out]`.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn pack(&self, kernel: &[f32], bias: &[f32], packed: &mut [u8]) {
        let (k, taps) = (self.spec.kernel, self.spec.kernel * self.spec.kernel);
        assert_eq!((packed.len(), bias.len()), (self.bytes(), self.spec.c_out));
        packed.fill(0);
        let (biases, weights) = packed.split_at_mut(self.bias_bytes());
        for (column, value) in self.to.positions.iter().zip(bias) {
            biases[4 * column..][..4].copy_from_slice(&value.to_le_bytes());
        }
        let depth = kernel.len() / self.spec.c_out.max(1);
        for (column, window) in self.to.positions.iter().zip(kernel.chunks(depth.max(1))) {
            for (i, value) in window.iter().enumerate() {
                let (channel, tap) = (i / taps, i % taps);
                let at = match self.method {
                    Method::Product => {
                        column * self.k_pitch() + 2 * (tap * self.from.padded + self.from.positions[channel])
                    }
                    Method::Stem => column * 96 + tap / k * 32 + tap % k * 8 + 2 * channel,
                    Method::Depthwise => 2 * (tap * self.to.padded + column),
                };
                weights[at..at + 2].copy_from_slice(&f16::from_f32(*value).to_le_bytes());
            }
        }
    }

    /// Where the parts lie, packed from byte `at` on.
    pub(super) fn product(&self, at: usize) -> Product {
        let position = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
        Product {
            weights: position(at.saturating_add(self.bias_bytes())),
            bias: position(at),
            k_chunks: int(self.k_chunks()),
            k_pitch: int(self.k_pitch()),
            columns: int(self.to.padded),
            act: act(self.spec.act),
            ..Product::default()
        }
    }
}

/// The parts of a packed kernel in int8: begins of the sums, scales and shifts by column, a chunk outside the image,
/// then the weights.
pub(super) struct Int8Layout {
    columns: usize,
    k_chunks: usize,
    k_pitch: usize,
}

impl Int8Layout {
    pub fn of(spec: &ConvSpec) -> Self {
        let k_chunks = spec.kernel * spec.kernel * spec.c_in.div_ceil(INT8_CHUNK);
        let k_pitch = k_chunks.next_multiple_of(DEPTH_STEP) * CHUNK;
        Self { columns: spec.c_out.next_multiple_of(8), k_chunks, k_pitch }
    }

    fn weights(&self) -> usize {
        3 * 4 * self.columns.next_multiple_of(4) + CHUNK
    }

    /// Where the parts lie, packed from byte `at` on, and the chunk outside the image.
    pub fn product(&self, spec: &ConvSpec, at: usize) -> (Product, i64) {
        let place = |bytes: usize| i64::try_from(at.saturating_add(bytes)).unwrap_or(i64::MAX);
        let part = 4 * self.columns;
        let product = Product {
            weights: place(self.weights()),
            bias: place(0),
            scales: place(part),
            shifts: place(2 * part),
            k_chunks: int(self.k_chunks),
            k_pitch: int(self.k_pitch),
            columns: int(self.columns),
            act: act(spec.act),
        };
        (product, place(self.weights() - CHUNK))
    }

    pub fn bytes(&self) -> usize {
        self.weights() + self.columns * self.k_pitch
    }
}

/// Bytes of a packed kernel in int8.
pub fn packed_int8_bytes(spec: &ConvSpec) -> usize {
    Int8Layout::of(spec).bytes()
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]` for inputs of a range: the numbers of the CPU's kernels.
///
/// # Panics
/// If a length is wrong.
pub fn pack_int8_product(spec: &ConvSpec, kernel: &[f32], bias: &[f32], range: [f32; 2], packed: &mut [u8]) {
    let (layout, taps) = (Int8Layout::of(spec), spec.kernel * spec.kernel);
    assert_eq!((kernel.len(), bias.len()), (spec.c_out * spec.c_in * taps, spec.c_out));
    assert_eq!(packed.len(), layout.bytes());
    packed.fill(0);
    let (input, zero) = input_scale(range);
    let zero = zero as i32 - 128;
    let (head, weights) = packed.split_at_mut(layout.weights());
    let outside = head.len() - CHUNK;
    head[outside..].fill(zero as i8 as u8);
    let part = 4 * layout.columns;
    let channels = spec.c_in.next_multiple_of(INT8_CHUNK);
    for (column, window) in kernel.chunks(spec.c_in * taps).enumerate() {
        let scale = weight_scale(window.iter().fold(0.0, |most, w| w.abs().max(most)));
        let mut sum = 0;
        for (i, value) in window.iter().enumerate() {
            let steps = quantize_weight(*value, scale);
            sum += steps;
            weights[column * layout.k_pitch + i % taps * channels + i / taps] = steps as i8 as u8;
        }
        let figures = [(-zero * sum).to_le_bytes(), (input * scale).to_le_bytes(), bias[column].to_le_bytes()];
        for (which, bytes) in figures.iter().enumerate() {
            head[which * part + 4 * column..][..4].copy_from_slice(bytes);
        }
    }
}
