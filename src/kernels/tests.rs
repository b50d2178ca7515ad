//! Every instruction set against plain sums in f64, on random shapes, views and neighbours.

use super::*;
use crate::graph::{Activation, Attention};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

fn isas() -> Vec<Isa> {
    Isa::all().collect()
}

/// Numbers between -1 and 1, drawn once: tests take theirs from anywhere in them.
static DRAWN: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let mut rng = StdRng::seed_from_u64(0);
    (0..100_003).map(|_| rng.random_range(-1.0..1.0)).collect()
});

/// A buffer in which tensors lie between other values, which kernels must leave alone.
struct World {
    rng: StdRng,
    buffer: Buffer,
    used: usize,
    drawn: usize,
}

impl World {
    /// Values that are watched behind the last tensor.
    const BEHIND: usize = 1024;

    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let drawn = rng.random_range(0..DRAWN.len());
        Self { rng, buffer: Buffer::zeroed(1 << 17).unwrap(), used: 0, drawn }
    }

    /// A run of channels of a tensor that is often wider.
    fn tensor(&mut self, c: usize, h: usize, w: usize) -> View {
        let (before, after) = match self.rng.random_bool(0.5) {
            true => (0, 0),
            false => (self.rng.random_range(0..9), self.rng.random_range(0..9)),
        };
        let whole = View::dense(self.used, before + c + after, h, w);
        let end = self.used + whole.c * h * w + self.rng.random_range(0..5);
        let values = self.values(end + Self::BEHIND - self.used);
        self.buffer.as_mut_slice()[self.used..end + Self::BEHIND].copy_from_slice(&values);
        self.used = end;
        whole.channels(before, c)
    }

    fn at(&self, v: View, c: usize, y: usize, x: usize) -> f64 {
        f64::from(self.buffer.as_slice()[v.offset + (y * v.w + x) * v.pitch + c])
    }

    /// Runs a kernel for every instruction set and several threads; `expected(c, y, x)` with a tolerance.
    fn check(
        &mut self,
        case: &str,
        out: View,
        tolerance: f64,
        space: impl Fn(Isa) -> usize,
        expected: impl Fn(&Self, usize, usize, usize) -> f64,
        run: impl Fn(Isa, &mut Kernels, &mut Buffer),
    ) {
        let before = self.buffer.as_slice()[..self.used + Self::BEHIND].to_vec();
        let threads = [1, 1, 2, 3][self.rng.random_range(0..4)];
        let order = || (0..out.h).flat_map(move |y| (0..out.w).flat_map(move |x| (0..out.c).map(move |c| (c, y, x))));
        let wanted: Vec<f64> = order().map(|(c, y, x)| expected(self, c, y, x)).collect();
        for isa in isas() {
            let mut kernels = Kernels::new(isa, threads, space(isa), 4096).unwrap();
            self.buffer.as_mut_slice()[..before.len()].copy_from_slice(&before);
            run(isa, &mut kernels, &mut self.buffer);
            let mut inside = vec![false; before.len()];
            for ((c, y, x), wanted) in order().zip(&wanted) {
                let found = self.at(out, c, y, x);
                let close = (found - wanted).abs() <= tolerance * (1.0 + wanted.abs());
                assert!(close, "{case} {isa:?} {threads} threads: [{c}, {y}, {x}] is {found}, expected {wanted}");
                inside[out.offset + (y * out.w + x) * out.pitch + c] = true;
            }
            let after = self.buffer.as_slice();
            let touched = (0..before.len()).find(|i| !inside[*i] && before[*i].to_bits() != after[*i].to_bits());
            assert!(touched.is_none(), "{case} {isa:?}: wrote at {touched:?} outside {out:?}");
        }
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        let start = self.drawn;
        self.drawn = (start + n) % DRAWN.len();
        DRAWN.iter().cycle().skip(start).take(n).copied().collect()
    }

    /// The sums of products of a convolution's outputs, pixel by pixel, of inputs as `read` sees them.
    fn sums(&self, spec: &ConvSpec, deep: bool, src: View, weights: &[f64], read: impl Fn(f64) -> f64) -> Vec<f64> {
        let &ConvSpec { c_in, c_out, kernel, stride, padding, .. } = spec;
        let (h, w) = (src.h, src.w);
        let (oh, ow) = (out_side(h, kernel, stride, padding), out_side(w, kernel, stride, padding));
        let per_group = if deep { 1 } else { c_in };
        let inputs: Vec<f64> = (0..h * w)
            .flat_map(|p| (0..c_in).map(move |c| (p, c)))
            .map(|(p, c)| read(self.at(src, c, p / w, p % w)))
            .collect();
        // A row of weights for each tap and input channel: one for each output channel.
        let taps = kernel * kernel;
        let mut rows = vec![0.0; taps * per_group * c_out];
        for (i, weight) in weights.iter().enumerate() {
            let (co, ci, tap) = (i / taps / per_group, i / taps % per_group, i % taps);
            rows[(tap * per_group + ci) * c_out + co] = *weight;
        }
        let mut sums = vec![0.0; oh * ow * c_out];
        for (p, sums) in sums.chunks_exact_mut(c_out).enumerate() {
            for tap in 0..taps {
                let iy = (p / ow * stride + tap / kernel).checked_sub(padding).filter(|i| *i < h);
                let ix = (p % ow * stride + tap % kernel).checked_sub(padding).filter(|i| *i < w);
                let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                let pixel = &inputs[(iy * w + ix) * c_in..][..c_in];
                let rows = &rows[tap * per_group * c_out..][..per_group * c_out];
                if deep {
                    sums.iter_mut().zip(rows).zip(pixel).for_each(|((sum, weight), x)| *sum += x * weight);
                } else {
                    for (row, x) in rows.chunks_exact(c_out).zip(pixel) {
                        sums.iter_mut().zip(row).for_each(|(sum, weight)| *sum += x * weight);
                    }
                }
            }
        }
        sums
    }
}

fn wide_of(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn act(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

fn out_side(side: usize, kernel: usize, stride: usize, padding: usize) -> usize {
    (side + 2 * padding - kernel) / stride + 1
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Direct,
    Winograd,
    Depthwise,
    /// From the planes of an image.
    Image,
    /// To the planes of a tensor.
    Planes,
}

/// One random convolution.
fn convolution(seed: u64, kind: Kind) {
    let deep = kind == Kind::Depthwise;
    let mut world = World::new(seed);
    let rng = &mut world.rng;
    let (kernel, stride): (usize, usize) = match kind {
        Kind::Winograd => (3, 1),
        _ => ([1, 1, 2, 3, 3, 3, 5, 7][rng.random_range(0..8)], rng.random_range(1..4)),
    };
    let padding = rng.random_range(0..=kernel);
    let least = kernel.saturating_sub(2 * padding).max(1);
    // Some are wide, so that runs and tiles lie in the middle of a row.
    let wide = rng.random_bool(0.2);
    let (h, w) = match wide {
        true => (rng.random_range(least..least + 4), rng.random_range(least.max(30)..70)),
        false => (rng.random_range(least..14), rng.random_range(least..14)),
    };
    let c_in = rng.random_range(1..if wide { 20 } else { 40 });
    let c_out = if deep { c_in } else { rng.random_range(1..if wide { 40 } else { 72 }) };
    let act_of = [Activation::Identity, Activation::Silu, Activation::Relu][rng.random_range(0..3)];
    let with_residual = rng.random_bool(0.4);
    let algorithm = if kind == Kind::Winograd { Algorithm::Winograd } else { Algorithm::Direct };
    let planar = kind == Kind::Image;
    let spec = ConvSpec { c_in, c_out, kernel, stride, padding, act: act_of, algorithm, planar };
    let per_group = if deep { 1 } else { c_in };
    let (oh, ow) = (out_side(h, kernel, stride, padding), out_side(w, kernel, stride, padding));
    let (src, dst) = (world.tensor(c_in, h, w), world.tensor(c_out, oh, ow));
    let residual = (with_residual && kind != Kind::Planes).then(|| world.tensor(c_out, oh, ow));
    let (weights, bias) = (world.values(c_out * per_group * kernel * kernel), world.values(c_out));
    let case = format!("seed {seed} {kind:?} {spec:?} on {h} x {w}, {src:?} -> {dst:?} + {residual:?}");
    let sums = world.sums(&spec, deep, src, &wide_of(&weights), |x| x);
    let expected = |world: &World, co: usize, y: usize, x: usize| {
        let sum = sums[(y * ow + x) * c_out + co] + f64::from(bias[co]);
        act(act_of, sum) + residual.map_or(0.0, |r| world.at(r, co, y, x))
    };
    // Rounding grows with the square root of the number of summands; Winograd's transforms cost most of a digit.
    let tolerance = (1e-5 + 2e-6 * f64::from((per_group * kernel * kernel) as u32).sqrt())
        * if kind == Kind::Winograd { 5.0 } else { 1.0 };
    world.check(
        &case,
        dst,
        tolerance,
        |isa| conv_scratch(isa, &spec),
        expected,
        |isa, kernels, buffer| {
            if deep {
                let mut packed = vec![f32::NAN; packed_depthwise_len(&spec)];
                pack_depthwise(&spec, &weights, &bias, &mut packed);
                depthwise(kernels, buffer, &spec, &packed, src, dst, residual);
            } else {
                let mut packed = vec![f32::NAN; packed_conv_len(isa, &spec)];
                pack_conv(isa, &spec, &weights, &bias, &mut packed);
                match kind {
                    Kind::Image => {
                        let mut image = vec![0.0; c_in * h * w];
                        export(kernels, buffer, src, &mut image);
                        conv_image(kernels, &image, (h, w), buffer, &spec, &packed, dst, residual);
                    }
                    Kind::Planes => {
                        let mut tensor = vec![f32::NAN; c_out * oh * ow];
                        conv_planes(kernels, buffer, &spec, &packed, src, &mut tensor);
                        import(&tensor, buffer, dst);
                    }
                    _ => conv(kernels, buffer, &spec, &packed, src, dst, residual),
                }
            }
        },
    );
}

/// One random convolution in whole numbers, held against exact sums that are rounded as the definition says.
fn whole_numbers(seed: u64) {
    let mut world = World::new(seed);
    let rng = &mut world.rng;
    let (kernel, stride): (usize, usize) = ([1, 1, 1, 2, 3, 3, 3, 5][rng.random_range(0..8)], rng.random_range(1..4));
    let padding = rng.random_range(0..=kernel);
    let least = kernel.saturating_sub(2 * padding).max(1);
    let wide = rng.random_bool(0.2);
    let (h, w) = match wide {
        true => (rng.random_range(least..least + 4), rng.random_range(least.max(30)..70)),
        false => (rng.random_range(least..14), rng.random_range(least..14)),
    };
    let (c_in, c_out) =
        (rng.random_range(1..if wide { 20 } else { 70 }), rng.random_range(1..if wide { 40 } else { 72 }));
    let act_of = [Activation::Identity, Activation::Silu, Activation::Relu][rng.random_range(0..3)];
    let with_residual = rng.random_bool(0.4);
    // Some values are beyond it; some ranges do not hold 0, or hold nothing else.
    let range = [[-0.9f32, 0.8], [-0.3, 0.9], [0.0, 1.0], [-0.7, 0.0], [0.2, 0.9], [0.0, 0.0]][rng.random_range(0..6)];
    let algorithm = Algorithm::Int8;
    let spec = ConvSpec { c_in, c_out, kernel, stride, padding, act: act_of, algorithm, planar: false };
    let (oh, ow) = (out_side(h, kernel, stride, padding), out_side(w, kernel, stride, padding));
    let (src, dst) = (world.tensor(c_in, h, w), world.tensor(c_out, oh, ow));
    let residual = with_residual.then(|| world.tensor(c_out, oh, ow));
    let (mut weights, bias) = (world.values(c_out * c_in * kernel * kernel), world.values(c_out));
    if world.rng.random_bool(0.1) {
        weights[..c_in * kernel * kernel].fill(0.0);
    }
    let case = format!("seed {seed} {spec:?} {range:?} on {h} x {w}, {src:?} -> {dst:?} + {residual:?}");

    let (input, zero) = input_scale(range);
    let number = |x: f64| {
        let steps = x as f32 * (1.0 / input);
        f64::from(steps.clamp(-zero, 255.0 - zero).round_ties_even())
    };
    let scales: Vec<f32> = weights
        .chunks(c_in * kernel * kernel)
        .map(|kernel| weight_scale(kernel.iter().fold(0.0, |most, w| w.abs().max(most))))
        .collect();
    let steps: Vec<f64> = weights
        .iter()
        .enumerate()
        .map(|(i, w)| {
            let scale = scales[i / (c_in * kernel * kernel)];
            if scale > 0.0 { f64::from((w / scale).round()) } else { 0.0 }
        })
        .collect();
    assert!(steps.iter().all(|step| step.abs() <= 127.0), "{case}");
    let sums = world.sums(&spec, false, src, &steps, number);
    let expected = |world: &World, co: usize, y: usize, x: usize| {
        let sum = sums[(y * ow + x) * c_out + co];
        let value = sum as f32 * (input * scales[co]) + bias[co];
        match act_of {
            // Rounded as often as the kernel does, so that it must agree to the bit.
            Activation::Identity | Activation::Relu => {
                f64::from(act_of.apply(value) + residual.map_or(0.0, |r| world.at(r, co, y, x) as f32))
            }
            Activation::Silu => act(act_of, f64::from(value)) + residual.map_or(0.0, |r| world.at(r, co, y, x)),
        }
    };
    let tolerance = if act_of == Activation::Silu { 1e-6 } else { 0.0 };
    let used = world.used;
    world.check(
        &case,
        dst,
        tolerance,
        |isa| conv_scratch(isa, &spec),
        expected,
        |isa, kernels, buffer| {
            let mut packed = vec![f32::NAN; packed_conv_len(isa, &spec)];
            pack_int8(isa, &spec, &weights, &bias, range, &mut packed);
            on_words(kernels, buffer, used, &spec, &packed, src, dst, residual);
        },
    );
}

/// One random convolution in half precision, held against f64 on inputs and weights of 11 bits.
fn halves(seed: u64) {
    let mut world = World::new(seed);
    let rng = &mut world.rng;
    let (kernel, stride): (usize, usize) = ([1, 1, 1, 2, 3, 3, 3, 5][rng.random_range(0..8)], rng.random_range(1..4));
    let padding = rng.random_range(0..=kernel / 2);
    let least = kernel.saturating_sub(2 * padding).max(1);
    let wide = if rng.random_bool(0.2) { 50 } else { 14 };
    let (h, w) = (rng.random_range(least..14), rng.random_range(least..wide));
    let (c_in, c_out) = (rng.random_range(1..70), rng.random_range(1..72));
    let act_of = [Activation::Identity, Activation::Silu, Activation::Relu][rng.random_range(0..3)];
    // Large and small weights.
    let size = 2.0f32.powi([0, 0, 0, 12, -20, -90][rng.random_range(0..6)]);
    let with_residual = rng.random_bool(0.4);
    let spec =
        ConvSpec { c_in, c_out, kernel, stride, padding, act: act_of, algorithm: Algorithm::Half, planar: false };
    let (oh, ow) = (out_side(h, kernel, stride, padding), out_side(w, kernel, stride, padding));
    let (src, dst) = (world.tensor(c_in, h, w), world.tensor(c_out, oh, ow));
    let residual = with_residual.then(|| world.tensor(c_out, oh, ow));
    let round = |v: f32| half::f16::from_f32(v).to_f32();
    let weights: Vec<f32> = world.values(c_out * c_in * kernel * kernel).into_iter().map(|w| round(w) * size).collect();
    let bias = world.values(c_out);
    let case = format!("seed {seed} {spec:?} {size} on {h} x {w}, {src:?} -> {dst:?} + {residual:?}");
    let sums = world.sums(&spec, false, src, &wide_of(&weights), |x| f64::from(round(x as f32)));
    let expected = |world: &World, co: usize, y: usize, x: usize| {
        let sum = sums[(y * ow + x) * c_out + co] + f64::from(bias[co]);
        act(act_of, sum) + residual.map_or(0.0, |r| world.at(r, co, y, x))
    };
    // Partial sums grow with the root of the depth, and so does what all their roundings add up to: some units in the last
    // place of a sum of magnitudes, a quarter of the depth.
    let depth = (c_in * kernel * kernel) as f64;
    let tolerance = 2.0f64.powi(-10) * (0.25 * depth + 2.0) * f64::from(size) + 2e-6;
    let (used, space) = (world.used, |isa| conv_scratch(isa, &spec));
    world.check(&case, dst, tolerance, space, expected, |isa, kernels, buffer| {
        let mut packed = vec![f32::NAN; packed_conv_len(isa, &spec)];
        pack_half(isa, &spec, &weights, &bias, &mut packed);
        on_words(kernels, buffer, used, &spec, &packed, src, dst, residual);
    });
}

/// Runs a convolution over words whose working space lies in a second buffer, so that only the output changes in the first.
fn on_words(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    used: usize,
    spec: &ConvSpec,
    packed: &[f32],
    src: View,
    dst: View,
    residual: Option<View>,
) {
    let needed = words_shared(kernels.isa(), spec, src.h, src.w);
    let shared = (needed > 0).then(|| View::dense(used, needed, 1, 1));
    let mut whole = Buffer::zeroed(used + needed).unwrap();
    whole.as_mut_slice()[..used].copy_from_slice(&buffer.as_slice()[..used]);
    conv_words(kernels, &mut whole, spec, packed, src, dst, residual, shared);
    buffer.as_mut_slice()[..used].copy_from_slice(&whole.as_slice()[..used]);
}

#[test]
fn sums_of_halves_stay_finite_whatever_comes() {
    let (c_in, c_out) = (600, 3);
    let algorithm = Algorithm::Half;
    let act = Activation::Identity;
    let spec = ConvSpec { c_in, c_out, kernel: 1, stride: 1, padding: 0, act, algorithm, planar: false };
    let (src, dst) = (View::dense(0, c_in, 2, 2), View::dense(4 * c_in, c_out, 2, 2));
    for (isa, weight) in isas().into_iter().flat_map(|isa| [1e-3f32, 1.0, 1.7, 3e4].map(|weight| (isa, weight))) {
        let mut buffer = Buffer::zeroed(4 * (c_in + c_out)).unwrap();
        buffer.as_mut_slice().fill(1e9);
        let mut packed = vec![f32::NAN; packed_conv_len(isa, &spec)];
        pack_half(isa, &spec, &vec![weight; c_in * c_out], &[0.0; 3], &mut packed);
        let mut kernels = Kernels::new(isa, 1, conv_scratch(isa, &spec), conv_zeros(&spec)).unwrap();
        on_words(&mut kernels, &mut buffer, 4 * (c_in + c_out), &spec, &packed, src, dst, None);
        let found = &buffer.as_slice()[4 * c_in..];
        // As large as inputs that are cut off make it, but for what sums of halves lose.
        let least = 0.5 * 16_000.0 * weight * c_in as f32;
        assert!(found.iter().all(|v| v.is_finite() && *v > least), "{isa:?} {weight}: {found:?}");
    }
}

#[test]
fn convolutions_in_halves_of_any_shape_are_right() {
    (90_000..90_600).for_each(halves);
}

#[test]
fn convolutions_in_whole_numbers_of_any_shape_are_exact() {
    (80_000..81_000).for_each(whole_numbers);
}

#[test]
fn rounded_weights_are_whole_steps_and_stay_as_they_are() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..10_000 {
        let most = rng.random_range(-20.0f32..20.0).exp2();
        let step = weight_scale(most);
        assert!(127.0 * step >= most && 126.98 * step <= most, "{most}: {step}");
        for number in [1.0f32, 63.0, 126.0, 127.0] {
            let weight = number * step;
            assert_eq!((f64::from(weight), weight / step), (f64::from(number) * f64::from(step), number));
        }
        assert_eq!(weight_scale(127.0 * step), step);
    }
    assert_eq!(weight_scale(0.0), 0.0);
}

#[test]
fn dense_convolutions_of_any_shape_are_right() {
    (0..3000).for_each(|seed| convolution(seed, Kind::Direct));
}

#[test]
fn convolutions_from_and_to_planes_are_right() {
    (60_000..61_000).for_each(|seed| convolution(seed, Kind::Image));
    (70_000..71_000).for_each(|seed| convolution(seed, Kind::Planes));
}

#[test]
fn winograd_convolutions_of_any_shape_are_right() {
    (50_000..52_500).for_each(|seed| convolution(seed, Kind::Winograd));
}

#[test]
fn depthwise_convolutions_of_any_shape_are_right() {
    (10_000..11_500).for_each(|seed| convolution(seed, Kind::Depthwise));
}

#[test]
fn max_pools_of_any_shape_are_right() {
    for seed in 20_000..20_500 {
        let mut world = World::new(seed);
        let kernel: usize = world.rng.random_range(1..6);
        let (stride, padding) = (world.rng.random_range(1..4), world.rng.random_range(0..=kernel / 2));
        let (c, h, w) = (world.rng.random_range(1..20), world.rng.random_range(5..12), world.rng.random_range(5..12));
        let (src, dst) = (world.tensor(c, h, w), {
            world.tensor(c, out_side(h, kernel, stride, padding), out_side(w, kernel, stride, padding))
        });
        let expected = |world: &World, c: usize, y: usize, x: usize| {
            let inside = |o: usize, side: usize| {
                (0..kernel).filter_map(move |k| (o * stride + k).checked_sub(padding).filter(|i| *i < side))
            };
            let all = inside(y, h).flat_map(|iy| inside(x, w).map(move |ix| (iy, ix)));
            all.map(|(iy, ix)| world.at(src, c, iy, ix)).fold(f64::NEG_INFINITY, f64::max)
        };
        let case = format!("seed {seed}: {kernel}, {stride}, {padding} of {src:?}");
        world.check(
            &case,
            dst,
            0.0,
            |_| 0,
            expected,
            |_, kernels, buffer| {
                max_pool(kernels, buffer, (kernel, stride, padding), src, dst);
            },
        );
    }
}

#[test]
fn attention_of_any_shape_is_right() {
    for seed in 30_000..30_500 {
        let mut world = World::new(seed);
        let rng = &mut world.rng;
        let a = Attention {
            heads: rng.random_range(1..4),
            key_dim: rng.random_range(1..20),
            head_dim: rng.random_range(1..36),
            scale: rng.random_range(0.1..3.0),
        };
        let (h, w) = (rng.random_range(1..8), rng.random_range(1..8));
        let (src, dst) = (world.tensor(a.heads * a.packed(), h, w), world.tensor(a.heads * a.head_dim, h, w));
        let used = world.used;
        let expected = |world: &World, c: usize, y: usize, x: usize| {
            let (head, channel) = (c / a.head_dim, c % a.head_dim);
            let at = |c: usize, p: usize| world.at(src, head * a.packed() + c, p / w, p % w);
            let logit = |p: usize| {
                let products = (0..a.key_dim).map(|k| at(k, y * w + x) * at(a.key_dim + k, p));
                f64::from(a.scale) * products.sum::<f64>()
            };
            let weights: Vec<f64> = (0..h * w).map(|p| logit(p).exp()).collect();
            let mixed: f64 = weights.iter().enumerate().map(|(p, e)| e * at(2 * a.key_dim + channel, p)).sum();
            mixed / weights.iter().sum::<f64>()
        };
        let case = format!("seed {seed}: {a:?} on {h} x {w}");
        // The working space lies in a second buffer, so that only the output changes in the first.
        let space = |isa| attention_scratch(isa, &a, h * w).1;
        world.check(&case, dst, 1e-5, space, expected, |isa, kernels, buffer| {
            let shared_len = attention_scratch(isa, &a, h * w).0;
            let shared = View::dense(used, shared_len, 1, 1);
            let mut whole = Buffer::zeroed(shared.offset + shared_len).unwrap();
            whole.as_mut_slice()[..shared.offset].copy_from_slice(&buffer.as_slice()[..shared.offset]);
            attention(kernels, &mut whole, &a, src, dst, shared);
            buffer.as_mut_slice()[..shared.offset].copy_from_slice(&whole.as_slice()[..shared.offset]);
        });
    }
}

#[test]
fn moves_and_sums_are_exact() {
    for seed in 40_000..40_500 {
        let mut world = World::new(seed);
        let (c, h, w) = (world.rng.random_range(1..20), world.rng.random_range(1..9), world.rng.random_range(1..9));
        let factor = world.rng.random_range(1..4);
        let (a, b) = (world.tensor(c, h, w), world.tensor(c, h, w));
        let (copied, large) = (world.tensor(c, h, w), world.tensor(c, h * factor, w * factor));
        let (sum, mean) = (world.tensor(c, h, w), world.tensor(c, 1, 1));
        let case = format!("seed {seed}: {a:?}");
        world.check(
            &case,
            copied,
            0.0,
            |_| 0,
            |s, c, y, x| s.at(a, c, y, x),
            |_, kernels, buffer| copy(kernels, buffer, a, copied),
        );
        world.check(
            &case,
            large,
            0.0,
            |_| 0,
            |s, c, y, x| s.at(a, c, y / factor, x / factor),
            |_, kernels, buffer| {
                upsample(kernels, buffer, factor, a, large);
            },
        );
        world.check(
            &case,
            sum,
            1e-7,
            |_| 0,
            |s, c, y, x| s.at(a, c, y, x) + s.at(b, c, y, x),
            |_, kernels, buffer| {
                add(kernels, buffer, a, b, sum);
            },
        );
        let average = |s: &World, c: usize, _: usize, _: usize| {
            (0..h * w).map(|p| s.at(a, c, p / w, p % w)).sum::<f64>() / (h * w) as f64
        };
        world.check(&case, mean, 1e-6, |_| 0, average, |_, _, buffer| global_average(buffer, a, mean));

        let image = world.values(c * h * w);
        let mut back = vec![0.0; c * h * w];
        let planes = |_: &World, c: usize, y: usize, x: usize| f64::from(image[(c * h + y) * w + x]);
        world.check(&case, b, 0.0, |_| 0, planes, |_, _, buffer| import(&image, buffer, b));
        export(&mut Kernels::new(Isa::Portable, 2, 0, 0).unwrap(), &world.buffer, b, &mut back);
        assert_eq!(back, image, "{case}");
    }
}

#[test]
fn silu_is_right_over_the_whole_range() {
    // A convolution of 1 by 1 that passes its input on is a way to the function for every instruction set.
    let inputs: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.025).chain([-1e30, 1e30, -88.5, 88.5, 0.0]).collect();
    let spec = ConvSpec {
        c_in: 1,
        c_out: 1,
        kernel: 1,
        stride: 1,
        padding: 0,
        act: Activation::Silu,
        algorithm: Algorithm::Direct,
        planar: false,
    };
    let n = inputs.len();
    for isa in isas() {
        let mut buffer = Buffer::zeroed(2 * n).unwrap();
        buffer.as_mut_slice()[..n].copy_from_slice(&inputs);
        let mut packed = vec![0.0; packed_conv_len(isa, &spec)];
        pack_conv(isa, &spec, &[1.0], &[0.0], &mut packed);
        let mut kernels = Kernels::new(isa, 1, conv_scratch(isa, &spec), conv_zeros(&spec)).unwrap();
        let (src, dst) = (View::dense(0, 1, 1, n), View::dense(n, 1, 1, n));
        conv(&mut kernels, &mut buffer, &spec, &packed, src, dst, None);
        for (x, y) in inputs.iter().zip(&buffer.as_slice()[n..]) {
            let wanted = act(Activation::Silu, f64::from(*x));
            assert!((f64::from(*y) - wanted).abs() <= 1e-6 * wanted.abs() + 1e-30, "{isa:?}: {x} -> {y}, not {wanted}");
        }
    }
}

#[test]
fn a_pool_gives_every_item_to_one_thread_and_survives_many_jobs() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    for threads in 1..5 {
        let mut pool = Pool::new(threads);
        for items in (0..200).chain([5000]) {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.run(items, &|item, worker| {
                assert!(worker < threads);
                counts[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{items} items on {threads} threads");
        }
    }
}

#[test]
fn a_pool_wakes_threads_that_are_about_to_sleep() {
    // In a thread of its own, so that a pool that hangs is a failure.
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut rng = StdRng::seed_from_u64(9);
        let mut pool = Pool::new(2);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            // The pauses end about when the other thread gives up waiting.
            (0..rng.random_range(1000..40_000)).for_each(|_| std::hint::spin_loop());
            pool.run(2, &|_, _| ());
        }
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(60)).expect("a thread sleeps while there is work");
}

/// Threads that wait busily for threads without a processor would take a time slice, some milliseconds, for every job.
#[test]
fn many_more_threads_than_processors_still_end() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let threads = (4 * super::available()).max(16);
        let mut pool = Pool::new(threads);
        let count = AtomicUsize::new(0);
        for _ in 0..300 {
            pool.run(64, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        done.send(count.into_inner()).unwrap();
    });
    assert_eq!(finished.recv_timeout(Duration::from_secs(120)).expect("the threads keep each other waiting"), 300 * 64);
}

#[test]
#[should_panic(expected = "a kernel panicked")]
fn a_panic_in_a_job_reaches_the_caller() {
    Pool::new(3).run(100, &|item, _| assert_ne!(item, 57));
}
