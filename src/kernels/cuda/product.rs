//! Launches of convolutions on tensor cores, and the arguments of all kernels on chunks. Positions count bytes.

use super::arguments::{Arguments, CHUNK, Float, INT8_CHUNK, KernelArguments, Product, Region, Tensor, count, int};
use super::kernel::{F16Kernel, Kernel};
use super::launch::{Launch, regions};
use super::single::Operands;
use super::tile::{self, Form, Output, tiles};
use super::weights::{ConvWeights, Int8Layout, MAX_WINDOW, Method, takes};
use crate::graph::Attention;
use crate::kernels::{ConvSpec, input_scale};

/// How values become int8, as the CPU does it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantize {
    steps: f32,
    least: f32,
    most: f32,
    zero: i32,
}

impl Quantize {
    /// For inputs of a range.
    pub fn of(range: [f32; 2]) -> Self {
        let (scale, zero) = input_scale(range);
        Self { steps: 1.0 / scale, least: -zero, most: 255.0 - zero, zero: zero as i32 - 128 }
    }

    fn into(self, arguments: Arguments) -> Arguments {
        let Self { steps, least, most, zero } = self;
        Arguments { steps, least, most, zero, ..arguments }
    }
}

/// The tensors of a convolution and where its packed kernel lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConvTensors {
    /// First byte of the packed kernel.
    pub packed: usize,
    /// Input.
    pub src: Tensor,
    /// Output.
    pub dst: Tensor,
    /// The second summand, added after the activation.
    pub other: Option<Tensor>,
    /// What lies in the place of some channels of `src`; of a 1x1 convolution.
    pub member: Option<Member>,
}

/// A tensor that a 1x1 convolution reads in the place of some channels of its input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Member {
    /// Its channels are as many as it stands for.
    pub tensor: Tensor,
    /// The first channel of the input that it stands for.
    pub first: usize,
    /// How often each pixel is repeated along either side: a power of 2.
    pub factor: usize,
}

impl Member {
    /// # Panics
    /// If it does not fit.
    fn into(self, arguments: Arguments, size: i32) -> Arguments {
        let Self { tensor, first, factor } = self;
        let times = |side: i32| side.saturating_mul(int(factor));
        assert!(factor.is_power_of_two() && (arguments.kernel, arguments.stride, arguments.padding) == (1, 1, 0));
        assert_eq!((times(tensor.h), times(tensor.w)), (arguments.src.h, arguments.src.w));
        let chunks = |channels: i32| channels * size / CHUNK as i32;
        Arguments {
            member: tensor,
            member_first: chunks(int(first)),
            member_chunks: chunks(tensor.c),
            shift: factor.trailing_zeros() as i32,
            ..arguments
        }
    }
}

impl Launch {
    /// `dst = act(conv(src) + bias) + other` in floats, on a device of so many multiprocessors. `dst` may be planes in
    /// f32, without a second summand.
    pub fn float_conv(weights: &ConvWeights, operands: ConvTensors, multiprocessors: u32) -> Self {
        if let Some(spec) = weights.single() {
            let ConvTensors { packed, src, dst, other, .. } = operands;
            let operands = Operands { packed: packed / 4, residual: other.map(|other| other.values()) };
            let make = if weights.method == Method::Depthwise { Self::depthwise } else { Self::conv };
            return make(&spec, operands, src.values(), dst.values());
        }
        let size = weights.float.bytes() as i32;
        let arguments = window(&weights.spec, weights.product(operands.packed), &operands, size);
        let arguments = operands.member.map_or(arguments, |member| member.into(arguments, size));
        assert!(operands.member.is_none() || weights.method == Method::Product);
        let end = operands.packed.saturating_add(weights.bytes());
        match weights.method {
            Method::Stem => {
                let grid = [
                    count(operands.dst.w.into(), 32),
                    count(operands.dst.h.into(), 8),
                    count(operands.dst.c.into(), 16),
                ];
                Self { shared: 17 * 74 * 8, ..Self::packed(Kernel::F16(F16Kernel::Stem), grid, arguments, end) }
            }
            Method::Depthwise => {
                assert_eq!(arguments.src.c, arguments.dst.c);
                Self::f16_depthwise(&weights.spec, arguments, end)
            }
            Method::Direct => Self::direct(F16Kernel::Direct, arguments, end),
            Method::Product => {
                // Planes have their pixels one after the other; elsewhere a pixel takes whole chunks.
                let output = match (weights.float, operands.dst.pitch == 4) {
                    (Float::F16, false) => Output::F16,
                    (Float::F16, true) => Output::Planes,
                    (Float::F32, false) => Output::Single,
                    (Float::F32, true) => Output::SinglePlanes,
                };
                Self::product(&weights.spec, output, arguments, end, multiprocessors)
            }
        }
    }

    /// A depthwise convolution of the values of a packed input of attention, whose queries, keys and values are filled up.
    pub fn depthwise_of_values(weights: &ConvWeights, op: &Attention, operands: ConvTensors) -> Self {
        let ConvTensors { packed, src, dst, other, .. } = operands;
        let [all, values] = [src, dst].map(|tensor| tensor.c.max(0) as usize / op.heads.max(1));
        if let Some(spec) = weights.single() {
            let op = Attention { key_dim: (all - values) / 2, head_dim: values, ..*op };
            let operands = Operands { packed: packed / 4, residual: other.map(|other| other.values()) };
            return Self::single_depthwise_of_values(&spec, &op, operands, src.values(), dst.values());
        }
        let chunks = |channels: usize| int(channels * weights.float.bytes() / CHUNK);
        let arguments = Arguments {
            c_chunks: chunks(dst.c.max(0) as usize),
            heads: int(op.heads),
            key_chunks: chunks((all - values) / 2),
            value_chunks: chunks(values),
            ..window(&weights.spec, weights.product(packed), &operands, weights.float.bytes() as i32)
        };
        Self::f16_depthwise(&weights.spec, arguments, packed.saturating_add(weights.bytes()))
    }

    /// `dst = act(scale * conv(src) + shift) + other` of a quantized input, to f32 or, with `requantize`, to the int8
    /// input of another convolution.
    pub fn int8_conv(
        spec: &ConvSpec,
        operands: ConvTensors,
        requantize: Option<Quantize>,
        multiprocessors: u32,
    ) -> Self {
        let layout = Int8Layout::of(spec);
        let (product, outside) = layout.product(spec, operands.packed);
        let arguments = Arguments { outside, ..window(spec, product, &operands, 1) };
        let end = operands.packed.saturating_add(layout.bytes());
        let (output, arguments) = match requantize {
            Some(quantize) => (Output::Int8, quantize.into(arguments)),
            None => (Output::F32, arguments),
        };
        match takes(spec.kernel, spec.c_in.div_ceil(INT8_CHUNK)) {
            true => Self::product(spec, output, arguments, end, multiprocessors),
            false => Self::direct(F16Kernel::Int8Direct, arguments, end),
        }
    }

    /// A window that the products do not take: a thread for 8 columns of a pixel.
    fn direct(kernel: F16Kernel, arguments: Arguments, end: usize) -> Self {
        let grid =
            [count(arguments.dst.area(), F16Kernel::THREADS.into()), count(arguments.product.columns.into(), 8), 1];
        Self::packed(Kernel::F16(kernel), grid, arguments, end)
    }

    /// The quantized input of a product: `dst` from [`Tensor::int8`], `src` in f32.
    pub fn quantize(quantize: Quantize, src: Tensor, dst: Tensor) -> Self {
        let c_chunks = int(dst.c as usize / INT8_CHUNK);
        let arguments = quantize.into(Arguments { src, dst, c_chunks, ..Arguments::default() });
        Self::chunks(F16Kernel::Quantize, arguments)
    }

    fn product(spec: &ConvSpec, output: Output, arguments: Arguments, end: usize, multiprocessors: u32) -> Self {
        let form = match (spec.kernel, spec.padding) {
            (1, 0) if arguments.member_chunks > 0 => Form::Pair,
            (1, 0) => Form::Point,
            _ => Form::Window,
        };
        let Arguments { src, dst, product, .. } = &arguments;
        let (pixels, columns) = (dst.area().max(0) as usize, product.columns.max(0) as usize);
        let tile = tile::choose(output, form, [pixels, columns, product.k_chunks.max(0) as usize], multiprocessors);
        let small = src.is_small()
            && dst.area().saturating_mul(dst.w.into()) < 1 << 32
            && i64::from(product.columns).saturating_mul(product.k_pitch.into()) < 1 << 32;
        let end = if small { end } else { usize::MAX };
        Self::on_tile(output, form, tile, arguments, end)
    }

    /// A product on the tile of a position.
    fn on_tile(output: Output, form: Form, tile: usize, arguments: Arguments, end: usize) -> Self {
        let shape = &tiles(form)[tile];
        let product = &arguments.product;
        let grid =
            [count(arguments.dst.area(), shape.rows as i64), count(product.columns.into(), shape.columns as i64), 1];
        let shared = shape.shared(product.k_chunks.max(0) as usize);
        Self { shared, ..Self::packed(Kernel::Product(output, form, tile), grid, arguments, end) }
    }

    /// The same product on another tile; `None` for other kernels.
    #[cfg(test)]
    pub(super) fn with_tile(&self, tile: usize) -> Option<Self> {
        match (self.kernel, self.arguments) {
            (Kernel::Product(output, form, _), KernelArguments::Packed(arguments)) => {
                Some(Self::on_tile(output, form, tile, arguments, usize::try_from(self.end).ok()?))
            }
            _ => None,
        }
    }

    /// A kernel on chunks; `end` is the byte after its packed kernel.
    pub(super) fn packed(kernel: Kernel, grid: [u32; 3], arguments: Arguments, end: usize) -> Self {
        let region = |tensor: &Tensor, is_there: bool| if is_there { tensor.region() } else { Region::default() };
        let reads = [
            region(&arguments.src, true),
            region(&arguments.other, arguments.others == 1),
            region(&arguments.member, arguments.member_chunks > 0),
        ];
        Self::touching(kernel, grid, arguments, end, (&reads, &[arguments.dst.region()]))
    }

    /// The same with what it reads and writes.
    pub(super) fn touching(
        kernel: Kernel,
        grid: [u32; 3],
        arguments: Arguments,
        end: usize,
        (reads, writes): (&[Region], &[Region]),
    ) -> Self {
        let tensors = reads.iter().chain(writes).map(Region::end).max().unwrap_or(0);
        let end = tensors.max(i64::try_from(end_of(&arguments, end)).unwrap_or(i64::MAX));
        let (reads, writes) = (regions(reads), regions(writes));
        Self { kernel, grid, shared: 0, arguments: KernelArguments::Packed(arguments), reads, writes, end }
    }
}

/// The byte after the packed kernel; beyond all memory where the kernels cannot count so far.
fn end_of(arguments: &Arguments, end: usize) -> usize {
    let small = |tensor: &Tensor| tensor.area() < 1 << 31 && tensor.pitch < i32::MAX && tensor.step < i32::MAX;
    let all = [&arguments.src, &arguments.dst, &arguments.other];
    if all.into_iter().all(small) { end } else { usize::MAX }
}

/// The arguments of a convolution over values of `size` bytes.
fn window(spec: &ConvSpec, product: Product, operands: &ConvTensors, size: i32) -> Arguments {
    let ConvTensors { src, dst, other, .. } = *operands;
    let side = |side: i32| int(spec.side(side as usize));
    assert_eq!((dst.h, dst.w), (side(src.h), side(src.w)), "{spec:?}");
    // The channels of an int8 output are filled up.
    let fits = |other: Tensor| (other.h, other.w) == (dst.h, dst.w) && (other.c == dst.c || dst.step == 1);
    assert!(other.is_none_or(fits), "{other:?} {dst:?}");
    let c_chunks = src.c * size / CHUNK as i32;
    let small_magic = |divisor: i32| (1 << 20) / divisor.max(1) as u32 + 1;
    let magic = |divisor: i32| if divisor == 1 { 0 } else { (1u64 << 32).div_ceil(divisor.max(1) as u64) as u32 };
    let k = spec.kernel.min(MAX_WINDOW);
    Arguments {
        src,
        dst,
        other: other.unwrap_or_default(),
        product,
        others: other.is_some().into(),
        kernel: int(spec.kernel),
        stride: int(spec.stride),
        padding: int(spec.padding),
        c_chunks,
        c_magic: small_magic(c_chunks),
        k_magic: small_magic(int(spec.kernel)),
        w_magic: magic(dst.w),
        pattern: (0..k).fold(0, |bits, i| bits | 1 << (i * k)),
        ..Arguments::default()
    }
}
