//! Dense convolutions in whole numbers of 8 bits (Jacob et al., "Quantization and Training of Neural Networks for
//! Efficient Integer-Arithmetic-Only Inference", 2018): inputs of 0 to 255 with one scale and zero point for a tensor,
//! weights of -127 to 127 with one scale for each output channel, sums in i32.
//!
//! Tensors stay f32 between the layers. The input is rounded once into words of some channels each, which lie as a tensor
//! of f32 would; over these runs [`direct`], whose tile multiplies words in place of values ([`Dots`]). Every
//! instruction set forms the same sums to the bit, so that only activation functions differ in their last places.

use super::conv::{Algorithm, ConvSpec, Operands};
use super::lanes::{Dots, Lanes, MAX_LANES, load_up_to};
use super::product::panels;
use super::{Buffer, Isa, Kernels, View, conv, direct};
use crate::graph::MAX_INT8_DEPTH;

/// Words of a packed kernel that tell how inputs are rounded: a factor, the least and the greatest value, the zero point.
const ROUNDING: usize = 16;

/// How many words a thread rounds at a time, about.
const PART: usize = 4096;

/// What multiplies whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Pairs,
    #[cfg(target_arch = "aarch64")]
    Bytes,
    #[cfg(target_arch = "aarch64")]
    Dots,
}

impl Unit {
    /// The best that goes with an instruction set which this machine has.
    pub(super) fn of(isa: Isa) -> Self {
        match isa {
            Isa::Portable => Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if std::arch::is_x86_feature_detected!("avx512vnni") => Self::Vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if !Isa::all().any(|isa| isa == Isa::Avx2) => Self::Portable,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => Self::Pairs,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => Self::Dots,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Self::Bytes,
        }
    }

    /// Lanes, values per word, and what is taken from a value before it is stored.
    fn sizes(self) -> (usize, usize, i32) {
        fn of<D: Dots>() -> (usize, usize, i32) {
            (D::LANES, D::PER_WORD, D::SHIFT)
        }
        match self {
            Self::Portable => of::<super::plain::Bytes>(),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => of::<super::avx512::Vnni>(),
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => of::<super::avx2::Pairs>(),
            #[cfg(target_arch = "aarch64")]
            Self::Bytes => of::<super::neon::Bytes<false>>(),
            #[cfg(target_arch = "aarch64")]
            Self::Dots => of::<super::neon::Bytes<true>>(),
        }
    }
}

/// Calls a generic kernel for the words of a unit, compiled with its instruction set's features.
macro_rules! for_unit {
    ($name:ident, $generic:ident, $args:ty) => {
        /// # Safety
        /// As the generic function; the unit must be one that this machine has.
        unsafe fn $name(unit: super::int8::Unit, args: &$args, item: usize, worker: usize) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn pairs(args: &$args, item: usize, worker: usize) {
                // SAFETY: passed on to the caller.
                unsafe { $generic::<super::avx2::Pairs>(args, item, worker) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vnni")]
            unsafe fn vnni(args: &$args, item: usize, worker: usize) {
                // SAFETY: passed on to the caller.
                unsafe { $generic::<super::avx512::Vnni>(args, item, worker) }
            }
            // SAFETY: passed on to the caller; `Unit::of` found the features.
            unsafe {
                match unit {
                    super::int8::Unit::Portable => $generic::<super::plain::Bytes>(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    super::int8::Unit::Vnni => vnni(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    super::int8::Unit::Pairs => pairs(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    super::int8::Unit::Bytes => $generic::<super::neon::Bytes<false>>(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    super::int8::Unit::Dots => $generic::<super::neon::Bytes<true>>(args, item, worker),
                }
            }
        }
    };
}
pub(super) use for_unit;

/// The same convolution over words.
fn over_words(isa: Isa, spec: &ConvSpec) -> ConvSpec {
    ConvSpec { c_in: spec.c_in.div_ceil(Unit::of(isa).sizes().1), ..*spec }
}

/// What follows the starts of the sums and the weights: factor and summand of every channel, and how to round.
fn tail(spec: &ConvSpec) -> usize {
    2 * spec.biases() + ROUNDING
}

/// Words that the packed kernel takes.
pub(super) fn packed_len(isa: Isa, spec: &ConvSpec) -> usize {
    let lanes = Unit::of(isa).sizes().0;
    spec.biases() + spec.c_out.next_multiple_of(lanes) * over_words(isa, spec).depth() + tail(spec)
}

/// Values of the buffer that [`conv_int8`] needs to round an input of `height` x `width`.
pub fn int8_shared(isa: Isa, spec: &ConvSpec, height: usize, width: usize) -> usize {
    // The zero points of a window's row lie behind the pixels.
    (height * width + spec.kernel) * over_words(isa, spec).c_in
}

/// The scale of weights whose greatest magnitude is `most`: a step of which 127 reach it. Its mantissa has 16 bits, so
/// that a weight of a whole number of steps is an f32 without rounding, and gives the same scale and number again.
pub fn weight_scale(most: f32) -> f32 {
    let short = |v: f32| f32::from_bits(v.to_bits() & !0xff);
    let step = short(most / 127.0);
    if step * 127.0 < most { f32::from_bits(step.to_bits() + 0x100) } else { step }
}

/// The number of steps, -127 to 127, that a weight is rounded to.
pub fn weight_number(weight: f32, scale: f32) -> i32 {
    if scale > 0.0 { (weight / scale).round().clamp(-127.0, 127.0) as i32 } else { 0 }
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
    let taps = spec.kernel * spec.kernel;
    let (lanes, per_word, shift) = Unit::of(isa).sizes();
    assert_eq!((weights.len(), bias.len()), (spec.c_out * spec.c_in * taps, spec.c_out));
    assert!(packed.len() == packed_len(isa, spec) && spec.c_in * taps <= MAX_INT8_DEPTH && !spec.planar);
    let (input, zero) = input_scale(range);
    let words = over_words(isa, spec);
    packed.fill(0.0);
    let (head, rest) = packed.split_at_mut(packed_len(isa, spec) - tail(spec));
    let (starts, values) = head.split_at_mut(spec.biases());
    let (scales, rest) = rest.split_at_mut(spec.biases());
    let (shifts, rounding) = rest.split_at_mut(spec.biases());
    rounding[..4].copy_from_slice(&[1.0 / input, -zero, 255.0 - zero, zero]);
    shifts[..spec.c_out].copy_from_slice(bias);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
    let size = 4 / per_word;
    for panel in panels(spec.c_out, lanes) {
        let width = panel.vectors * lanes;
        for lane in 0..panel.channels {
            let channel = panel.start + lane;
            let kernel = &weights[channel * spec.c_in * taps..][..spec.c_in * taps];
            let scale = weight_scale(kernel.iter().fold(0.0, |most, w| w.abs().max(most)));
            let mut sum = 0;
            for (at, weight) in kernel.iter().enumerate() {
                let number = weight_number(*weight, scale);
                sum += number;
                let (ci, tap) = (at / taps, at % taps);
                let word = panel.start * words.depth() + (tap * words.c_in + ci / per_word) * width + lane;
                bytes[4 * word + ci % per_word * size..][..size].copy_from_slice(&number.to_le_bytes()[..size]);
            }
            scales[channel] = input * scale;
            starts[channel] = f32::from_bits((-(zero as i32 - shift) * sum) as u32);
        }
    }
}

/// `dst = act(conv(src) + bias) + residual` in whole numbers, with what [`pack_int8`] packed for the same instruction set.
/// `shared` is working space of [`int8_shared`] values.
///
/// # Panics
/// If views or sizes do not fit: a mistake of the caller.
pub fn conv_int8(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    spec: &ConvSpec,
    packed: &[f32],
    src: View,
    dst: View,
    residual: Option<View>,
    shared: View,
) {
    [src, shared].iter().for_each(|view| view.check(buffer));
    assert!(src.c == spec.c_in && src.disjoint(&dst) && !spec.planar && spec.algorithm == Algorithm::Int8);
    assert!(shared.c * shared.area() >= int8_shared(kernels.isa, spec, src.h, src.w) && shared.pitch == shared.c);
    assert!([Some(src), Some(dst), residual].iter().flatten().all(|view| view.disjoint(&shared)));
    // SAFETY: both views were checked.
    let (from, words) = unsafe { (src.ptr(buffer), shared.ptr(buffer)) };
    conv::convolve(kernels, buffer, spec, packed, (from, src), dst, residual, words);
}

/// Rounds the input, then convolves its words.
pub(super) fn run(kernels: &mut Kernels, mut operands: Operands) {
    let (isa, spec, from) = (kernels.isa, operands.spec, operands.from);
    let unit = Unit::of(isa);
    let words = over_words(isa, &spec);
    let rest = operands.bias.wrapping_add(packed_len(isa, &spec) - tail(&spec));
    (operands.scale, operands.shift) = (rest, rest.wrapping_add(spec.biases()));
    let (part, parts) = kernels.parts(from.area(), (PART / words.c_in).max(1), 1);
    let args = Rounding {
        numbers: rest.wrapping_add(2 * spec.biases()),
        src: operands.src,
        from,
        to: operands.shared,
        pitch: words.c_in,
        part,
        parts,
        zeros: spec.kernel,
    };
    // SAFETY: `conv_int8` checked all sizes. Items write different pixels, and one more what lies behind them.
    kernels.pool.run(parts + 1, &|item, worker| unsafe { run_round(unit, &args, item, worker) });
    operands.src = operands.shared;
    operands.zeros = operands.shared.wrapping_add(from.area() * words.c_in);
    operands.from = View { offset: 0, pitch: words.c_in, c: words.c_in, ..from };
    operands.spec = words;
    direct::run(kernels, operands);
}

/// How the pixels of a view become words.
struct Rounding {
    numbers: *const f32,
    src: *const f32,
    from: View,
    to: *mut f32,
    /// Words of a pixel.
    pitch: usize,
    /// Pixels of an item, and items.
    part: usize,
    parts: usize,
    /// Pixels behind the last that are all zero points.
    zeros: usize,
}

// SAFETY: the pointers are those of buffers that outlive the call; see `run` on who writes what.
unsafe impl Sync for Rounding {}

for_unit!(run_round, round, Rounding);

#[inline(always)]
unsafe fn round<D: Dots>(args: &Rounding, item: usize, _worker: usize) {
    let (area, c, pitch) = (args.from.area(), args.from.c, args.pitch);
    let per_register = D::LANES / D::PER_WORD;
    // SAFETY: pixels and channels are inside the view, words inside the working space. A register of words is written at
    // once only where that many belong to the pixel.
    unsafe {
        let [factor, least, most, zero] = args.numbers.cast::<[f32; 4]>().read().map(|v| D::Float::splat(v));
        let put = |values: D::Float, to: *mut f32, words: usize| {
            if words >= per_register {
                D::store_values(values, to);
                return;
            }
            let mut some = [0.0f32; MAX_LANES];
            D::store_values(values, some.as_mut_ptr());
            (0..words).for_each(|i| to.add(i).cast::<u32>().write(some[i].to_bits()));
        };
        if item == args.parts {
            let words = args.zeros * pitch;
            for at in (0..words).step_by(per_register) {
                put(zero, args.to.add(area * pitch + at), words - at);
            }
            return;
        }
        for pixel in item * args.part..((item + 1) * args.part).min(area) {
            let (from, to) = (args.src.add(pixel * args.from.pitch), args.to.add(pixel * pitch));
            let mut channel = 0;
            while channel < c {
                let value: D::Float = load_up_to(from.add(channel), c - channel);
                let number = value.mul(factor).max(least).min(most).round().add(zero);
                put(number, to.add(channel / D::PER_WORD), pitch - channel / D::PER_WORD);
                channel += D::LANES;
            }
        }
    }
}
