//! How kernels of convolutions are packed for the products of `product.h`.
//!
//! Channels of a tensor in floats lie in runs that are filled up to multiples of 8 ([`Channels`]), so that every slice of
//! a tensor begins at 16 bytes, whatever its width. Packed kernels follow the positions of both sides; what was filled up
//! has zero weights and becomes zero.

use super::arguments::{CHUNK, DEPTH_STEP, Float, INT8_CHUNK, Product, RUN_STEP, act, int};
use super::single::{pack_conv, pack_depthwise, packed_conv_len, packed_depthwise_len};
use crate::kernels::{ConvSpec, input_scale, quantize_weight, weight_scale};
use half::f16;

/// Where the channels of a run lie: the position of each, and how many positions there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// By channel.
    pub positions: Vec<usize>,
    /// A multiple of [`RUN_STEP`].
    pub padded: usize,
}

impl Channels {
    /// One run, filled up at its end.
    pub fn dense(channels: usize) -> Self {
        Self { positions: (0..channels).collect(), padded: channels.next_multiple_of(RUN_STEP) }
    }
}

/// The largest window of the products: the mask of a window has a bit for every tap.
pub(super) const MAX_WINDOW: usize = 5;

/// Whether the products take a window of so many chunks: their way to divide a chunk's number must be exact.
pub(super) fn takes(kernel: usize, c_chunks: usize) -> bool {
    kernel <= MAX_WINDOW && (kernel * kernel * c_chunks + 4 * DEPTH_STEP).saturating_mul(c_chunks) < 1 << 20
}

/// How a convolution in floats is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Product,
    /// What the products do not take.
    Direct,
    /// The first layer in f16, from an image of three planes.
    Stem,
    Depthwise,
}

/// A packed kernel in floats: where it comes from, and where its parts lie.
#[derive(Clone, Debug)]
pub struct ConvWeights {
    pub(super) spec: ConvSpec,
    pub(super) method: Method,
    pub(super) float: Float,
    from: Channels,
    to: Channels,
}

impl ConvWeights {
    /// Of a dense convolution between runs of channels.
    pub fn dense(float: Float, spec: ConvSpec, from: Channels, to: Channels) -> Self {
        let method = match takes(spec.kernel, from.padded * float.bytes() / CHUNK) {
            true => Method::Product,
            false => Method::Direct,
        };
        Self { spec, method, float, from, to }
    }

    /// Of a dense convolution to planes.
    pub fn planes(float: Float, spec: ConvSpec, from: Channels) -> Self {
        let mut weights = Self::dense(float, spec, from, Channels::dense(spec.c_out));
        if weights.single().is_some() {
            weights.to.padded = spec.c_out;
        }
        weights
    }

    /// Of a depthwise convolution; both sides have the same channels.
    pub fn depthwise(float: Float, spec: ConvSpec, to: Channels) -> Self {
        Self { spec, method: Method::Depthwise, float, from: to.clone(), to }
    }

    /// Of the first layer of an image of this size. In f16 `None` where that is not one of three planes, a window of 3,
    /// stride 2 and sides that are multiples of 4.
    pub fn image(float: Float, spec: ConvSpec, (h, w): (usize, usize), to: Channels) -> Option<Self> {
        let planes = Channels { positions: (0..spec.c_in).collect(), padded: spec.c_in };
        if float == Float::F32 {
            return Some(Self { spec, method: Method::Direct, float, from: planes, to });
        }
        let fits = (spec.c_in, spec.kernel, spec.stride, spec.padding) == (3, 3, 2, 1);
        let sides = h.is_multiple_of(4) && w.is_multiple_of(4);
        (fits && sides).then_some(Self { spec, method: Method::Stem, float, from: Channels::dense(3), to })
    }

    /// The convolution over all positions that a kernel in f32 outside the tensor cores computes; `None` where another one
    /// does.
    pub(super) fn single(&self) -> Option<ConvSpec> {
        let is_single = self.float == Float::F32 && self.method != Method::Product;
        is_single.then_some(ConvSpec { c_in: self.from.padded, c_out: self.to.padded, ..self.spec })
    }

    /// Bytes of the biases, which come first; there is one for every column, 16 at a time.
    fn bias_bytes(&self) -> usize {
        4 * self.to.padded.next_multiple_of(16)
    }

    fn k_chunks(&self) -> usize {
        self.spec.kernel * self.spec.kernel * self.from.padded * self.float.bytes() / CHUNK
    }

    fn k_pitch(&self) -> usize {
        self.k_chunks().next_multiple_of(DEPTH_STEP) * CHUNK
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        if let Some(spec) = self.single() {
            return 4 * if self.method == Method::Depthwise {
                packed_depthwise_len(&spec)
            } else {
                packed_conv_len(&spec)
            };
        }
        let taps = self.spec.kernel * self.spec.kernel;
        let weights = match self.method {
            Method::Product | Method::Direct => self.to.padded * self.k_pitch(),
            Method::Stem => self.to.padded.next_multiple_of(16) * 96,
            Method::Depthwise => taps * self.to.padded * 2,
        };
        self.bias_bytes() + weights
    }

    /// Packs a kernel `[c_out, c_in / groups, k, k]` and a bias `[c_out]`.
    ///
    /// # Panics
    /// If a length is wrong, or in f32 `packed` does not begin at a multiple of 4 bytes.
    pub fn pack(&self, kernel: &[f32], bias: &[f32], packed: &mut [u8]) {
        let (k, taps) = (self.spec.kernel, self.spec.kernel * self.spec.kernel);
        assert_eq!((packed.len(), bias.len()), (self.bytes(), self.spec.c_out));
        if let Some(spec) = self.single() {
            let (kernel, bias) = self.filled_up(kernel, bias);
            let pack = if self.method == Method::Depthwise { pack_depthwise } else { pack_conv };
            return pack(&spec, &kernel, &bias, bytemuck::cast_slice_mut(packed));
        }
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
                    Method::Product | Method::Direct => {
                        let position = tap * self.from.padded + self.from.positions[channel];
                        column * self.k_pitch() + self.float.bytes() * position
                    }
                    Method::Stem => column * 96 + tap / k * 32 + tap % k * 8 + 2 * channel,
                    Method::Depthwise => 2 * (tap * self.to.padded + column),
                };
                match self.float {
                    Float::F16 => weights[at..at + 2].copy_from_slice(&f16::from_f32(*value).to_le_bytes()),
                    Float::F32 => weights[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                }
            }
        }
    }

    /// Kernel and bias over all positions of both sides; zero where a position is no channel.
    fn filled_up(&self, kernel: &[f32], bias: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let taps = self.spec.kernel * self.spec.kernel;
        let depth = if self.method == Method::Depthwise { 1 } else { self.from.padded };
        let (mut all, mut biases) = (vec![0.0; self.to.padded * depth * taps], vec![0.0; self.to.padded]);
        let windows = kernel.chunks((kernel.len() / self.spec.c_out.max(1)).max(1));
        for ((column, bias), window) in self.to.positions.iter().zip(bias).zip(windows) {
            biases[*column] = *bias;
            for (position, values) in self.from.positions.iter().zip(window.chunks(taps)) {
                let position = if self.method == Method::Depthwise { 0 } else { *position };
                all[(column * depth + position) * taps..][..taps].copy_from_slice(values);
            }
        }
        (all, biases)
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
