//! Dense convolutions of words: four bytes that hold some channels each, in numbers of fewer bits than f32
//! ([`int8`](super::int8), [`halves`](super::halves)).
//!
//! Tensors stay f32 between the layers. The input is rounded into words, which lie as a tensor of f32 would; over these
//! runs [`direct`], whose tile multiplies words in place of values ([`Words`]).

use super::conv::{Algorithm, ConvSpec, Operands};
use super::lanes::{Lanes, MAX_LANES, Register, Words, load_up_to};
use super::product::panels;
use super::{Buffer, Isa, Kernels, View, conv, direct};

/// Words of a packed kernel that tell how inputs are rounded: a factor, the least and the greatest value, the zero point.
const ROUNDING: usize = 16;

/// How many words a thread rounds at a time, about.
const PART: usize = 4096;

/// What multiplies words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    PortableBytes,
    PortableHalves,
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Pairs,
    #[cfg(target_arch = "x86_64")]
    Fp16,
    #[cfg(target_arch = "aarch64")]
    Bytes,
    #[cfg(target_arch = "aarch64")]
    Dots,
    #[cfg(target_arch = "aarch64")]
    Halves,
}

impl Unit {
    /// The best for an algorithm over words that goes with an instruction set which this machine has.
    pub(super) fn of(isa: Isa, algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Half => Self::of_halves(isa).unwrap_or(Self::PortableHalves),
            _ => Self::of_bytes(isa),
        }
    }

    fn of_bytes(isa: Isa) -> Self {
        match isa {
            Isa::Portable => Self::PortableBytes,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if std::arch::is_x86_feature_detected!("avx512vnni") => Self::Vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if !Isa::all().any(|isa| isa == Isa::Avx2) => Self::PortableBytes,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => Self::Pairs,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => Self::Dots,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Self::Bytes,
        }
    }

    /// None where halves are only stored, and computed with as f32.
    pub(super) fn of_halves(isa: Isa) -> Option<Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => std::arch::is_x86_feature_detected!("avx512fp16").then_some(Self::Fp16),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("fp16").then_some(Self::Halves),
            _ => None,
        }
    }

    /// Lanes, values per word, and what is taken from a value before it is stored.
    fn sizes(self) -> (usize, usize, i32) {
        fn of<W: Words>() -> (usize, usize, i32) {
            (W::LANES, W::PER_WORD, W::SHIFT)
        }
        match self {
            Self::PortableBytes => of::<super::plain::Bytes>(),
            Self::PortableHalves => of::<super::plain::Halves>(),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => of::<super::avx512::Vnni>(),
            #[cfg(target_arch = "x86_64")]
            Self::Pairs => of::<super::avx2::Pairs>(),
            #[cfg(target_arch = "x86_64")]
            Self::Fp16 => of::<super::avx512::Fp16>(),
            #[cfg(target_arch = "aarch64")]
            Self::Bytes => of::<super::neon::Bytes<false>>(),
            #[cfg(target_arch = "aarch64")]
            Self::Dots => of::<super::neon::Bytes<true>>(),
            #[cfg(target_arch = "aarch64")]
            Self::Halves => of::<super::neon::Halves>(),
        }
    }
}

/// Calls a generic kernel for the words of a unit, compiled with its instruction set's features.
macro_rules! for_unit {
    ($name:ident, $generic:ident, $args:ty) => {
        /// # Safety
        /// As the generic function; the unit must be one that this machine has.
        unsafe fn $name(unit: super::words::Unit, args: &$args, item: usize, worker: usize) {
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
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512fp16")]
            unsafe fn fp16(args: &$args, item: usize, worker: usize) {
                // SAFETY: passed on to the caller.
                unsafe { $generic::<super::avx512::Fp16>(args, item, worker) }
            }
            use super::words::Unit;
            // SAFETY: passed on to the caller; `Unit::of` found the features.
            unsafe {
                match unit {
                    Unit::PortableBytes => $generic::<super::plain::Bytes>(args, item, worker),
                    Unit::PortableHalves => $generic::<super::plain::Halves>(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    Unit::Vnni => vnni(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    Unit::Pairs => pairs(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    Unit::Fp16 => fp16(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    Unit::Bytes => $generic::<super::neon::Bytes<false>>(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    Unit::Dots => $generic::<super::neon::Bytes<true>>(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    Unit::Halves => $generic::<super::neon::Halves>(args, item, worker),
                }
            }
        }
    };
}
pub(super) use for_unit;

/// The same convolution over words.
fn over_words(isa: Isa, spec: &ConvSpec) -> ConvSpec {
    ConvSpec { c_in: spec.c_in.div_ceil(Unit::of(isa, spec.algorithm).sizes().1), ..*spec }
}

/// What follows the starts of the sums and the weights: factor and summand of every channel, and how to round.
fn tail(spec: &ConvSpec) -> usize {
    2 * spec.biases() + ROUNDING
}

/// Words that the packed kernel takes.
pub(super) fn packed_len(isa: Isa, spec: &ConvSpec) -> usize {
    let lanes = Unit::of(isa, spec.algorithm).sizes().0;
    spec.biases() + spec.c_out.next_multiple_of(lanes) * over_words(isa, spec).depth() + tail(spec)
}

/// Values of the buffer that [`conv_words`] needs to round an input of `height` x `width`; 0 where it needs none.
pub fn words_shared(isa: Isa, spec: &ConvSpec, height: usize, width: usize) -> usize {
    // The zero points of a window's row lie behind the pixels.
    if is_pointwise(spec) { 0 } else { (height * width + spec.kernel) * over_words(isa, spec).c_in }
}

/// Values of working space that a thread needs.
pub(super) fn scratch(isa: Isa, spec: &ConvSpec) -> usize {
    let words = over_words(isa, spec);
    direct::scratch(&words) + if is_pointwise(spec) { direct::run_pixels(&words) * words.c_in } else { 0 }
}

/// Packs a kernel `[c_out, c_in, k, k]` and a bias `[c_out]`. `rounding` are the factor, the least and the greatest value
/// and the zero point of inputs. `encode` turns the weights of an output channel into numbers, whose lowest bits are
/// stored, and tells what its sums are multiplied with and what they start with, as bits.
pub(super) fn pack(
    isa: Isa,
    spec: &ConvSpec,
    (weights, bias): (&[f32], &[f32]),
    rounding: [f32; 4],
    packed: &mut [f32],
    encode: impl Fn(&[f32], &mut [u32]) -> (f32, u32),
) {
    let taps = spec.kernel * spec.kernel;
    let (lanes, per_word, _) = Unit::of(isa, spec.algorithm).sizes();
    assert_eq!((weights.len(), bias.len()), (spec.c_out * spec.c_in * taps, spec.c_out));
    assert!(packed.len() == packed_len(isa, spec) && !spec.planar);
    let words = over_words(isa, spec);
    packed.fill(0.0);
    let (head, rest) = packed.split_at_mut(packed_len(isa, spec) - tail(spec));
    let (starts, values) = head.split_at_mut(spec.biases());
    let (scales, rest) = rest.split_at_mut(spec.biases());
    let (shifts, numbers_of_input) = rest.split_at_mut(spec.biases());
    numbers_of_input[..4].copy_from_slice(&rounding);
    shifts[..spec.c_out].copy_from_slice(bias);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
    let size = 4 / per_word;
    let mut numbers = vec![0; spec.c_in * taps];
    for panel in panels(spec.c_out, lanes) {
        let width = panel.vectors * lanes;
        for lane in 0..panel.channels {
            let channel = panel.start + lane;
            let (scale, start) = encode(&weights[channel * spec.c_in * taps..][..spec.c_in * taps], &mut numbers);
            for (at, number) in numbers.iter().enumerate() {
                let (ci, tap) = (at / taps, at % taps);
                let word = panel.start * words.depth() + (tap * words.c_in + ci / per_word) * width + lane;
                bytes[4 * word + ci % per_word * size..][..size].copy_from_slice(&number.to_le_bytes()[..size]);
            }
            scales[channel] = scale;
            starts[channel] = f32::from_bits(start);
        }
    }
}

/// What is taken from whole numbers of 0 to 255 before they are stored.
pub(super) fn shift(isa: Isa, spec: &ConvSpec) -> i32 {
    Unit::of(isa, spec.algorithm).sizes().2
}

/// `dst = act(conv(src) + bias) + residual` by an algorithm over words, with what [`pack_int8`](super::pack_int8) or
/// [`pack_half`](super::pack_half) packed for the same instruction set. `shared` is working space of [`words_shared`]
/// values, if that is not 0.
///
/// # Panics
/// If views or sizes do not fit: a mistake of the caller.
pub fn conv_words(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    spec: &ConvSpec,
    packed: &[f32],
    src: View,
    dst: View,
    residual: Option<View>,
    shared: Option<View>,
) {
    [Some(src), shared].iter().flatten().for_each(|view| view.check(buffer));
    assert!(src.c == spec.c_in && src.disjoint(&dst) && !spec.planar && spec.algorithm.over_words());
    let needed = words_shared(kernels.isa, spec, src.h, src.w);
    assert!(shared.map_or(0, |shared| shared.c * shared.area()) >= needed);
    let apart = |shared: View| [Some(src), Some(dst), residual].iter().flatten().all(|view| view.disjoint(&shared));
    assert!(shared.is_none_or(|shared| shared.pitch == shared.c && apart(shared)));
    // SAFETY: the view was checked.
    let from = unsafe { src.ptr(buffer) };
    let used = shared.filter(|_| needed > 0);
    // SAFETY: as above.
    let words = used.map_or(std::ptr::null_mut(), |view| unsafe { view.ptr(buffer) });
    conv::convolve(kernels, buffer, spec, packed, (from, src), dst, residual, words);
}

/// Whether an output pixel reads the input pixel at its own place alone: then every run of pixels rounds what it reads
/// itself, while that is in the thread's cache.
pub(super) fn is_pointwise(spec: &ConvSpec) -> bool {
    (spec.kernel, spec.stride, spec.padding) == (1, 1, 0)
}

/// Rounds the input, unless each run does so, and convolves its words.
pub(super) fn run(kernels: &mut Kernels, mut operands: Operands) {
    let (isa, spec, from) = (kernels.isa, operands.spec, operands.from);
    let unit = Unit::of(isa, spec.algorithm);
    let words = over_words(isa, &spec);
    let rest = operands.bias.wrapping_add(packed_len(isa, &spec) - tail(&spec));
    (operands.scale, operands.shift) = (rest, rest.wrapping_add(spec.biases()));
    operands.rounding = rest.wrapping_add(2 * spec.biases());
    operands.spec = words;
    if !is_pointwise(&spec) {
        let (part, parts) = kernels.parts(from.area(), (PART / words.c_in).max(1), 1);
        let args = Args { operands, pitch: words.c_in, part, parts };
        // SAFETY: `conv_words` checked all sizes. Items write different pixels, and one more what lies behind them.
        kernels.pool.run(parts + 1, &|item, worker| unsafe { run_round(unit, &args, item, worker) });
        operands = args.operands;
        operands.src = operands.shared;
        operands.zeros = operands.shared.wrapping_add(from.area() * words.c_in);
        operands.from = View { offset: 0, pitch: words.c_in, c: words.c_in, ..from };
    }
    direct::run(kernels, operands);
}

/// How the pixels of a view become words.
struct Args {
    operands: Operands,
    /// Words of a pixel.
    pitch: usize,
    /// Pixels of an item, and items.
    part: usize,
    parts: usize,
}

for_unit!(run_round, round, Args);

#[inline(always)]
unsafe fn round<W: Words>(args: &Args, item: usize, _worker: usize) {
    let o = &args.operands;
    let area = o.from.area();
    // SAFETY: pixels are inside the view, words inside the working space.
    unsafe {
        if item == args.parts {
            let zero = W::Float::splat(o.rounding.add(3).read());
            let words = o.spec.kernel * args.pitch;
            for at in (0..words).step_by(W::LANES / W::PER_WORD) {
                store_words::<W>(zero, o.shared.add(area * args.pitch + at), words - at);
            }
        } else {
            let first = item * args.part;
            round_pixels::<W>(o, first, args.part.min(area - first), o.shared.add(first * args.pitch), args.pitch);
        }
    }
}

/// Rounds `count` pixels of the input from the given one on to words of `pitch` a pixel.
///
/// # Safety
/// The pixels must be inside the view, and there must be room for the words.
#[inline(always)]
pub(super) unsafe fn round_pixels<W: Words>(o: &Operands, first: usize, count: usize, to: *mut f32, pitch: usize) {
    let channels = o.from.c;
    // SAFETY: the promise of the caller; only channels of the view are read.
    unsafe {
        let [factor, least, most, zero] = o.rounding.cast::<[f32; 4]>().read().map(|v| W::Float::splat(v));
        for pixel in 0..count {
            let (from, to) = (o.src.add((first + pixel) * o.from.pitch), to.add(pixel * pitch));
            for channel in (0..channels).step_by(W::LANES) {
                let value: W::Float = load_up_to(from.add(channel), channels - channel);
                let number = value.mul(factor).max(least).min(most);
                let number = if W::WHOLE { number.round().add(zero) } else { number };
                store_words::<W>(number, to.add(channel / W::PER_WORD), pitch - channel / W::PER_WORD);
            }
        }
    }
}

/// Stores a register of numbers as words, or only the first few.
#[inline(always)]
unsafe fn store_words<W: Words>(numbers: W::Float, to: *mut f32, words: usize) {
    // SAFETY: passed on. A register of words is written at once only where that many belong to the pixel.
    unsafe {
        if words >= W::LANES / W::PER_WORD {
            W::store_values(numbers, to);
            return;
        }
        let mut some = [0.0f32; MAX_LANES];
        W::store_values(numbers, some.as_mut_ptr());
        (0..words).for_each(|i| to.add(i).cast::<u32>().write(some[i].to_bits()));
    }
}
