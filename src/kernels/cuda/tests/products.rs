//! The products on tensor cores, on every tile: in f16 and f32 against sums in f64, in int8 against the CPU's int8.

use super::super::super::{self as cpu, Algorithm, Buffer, ConvSpec, Isa, Kernels, PackedConv, View};
use super::super::launch::Launch;
use super::super::{
    Channels, ConvTensors, ConvWeights, Device, Float, Quantize, Tensor, emulated, pack_int8_product, packed_int8_bytes,
};
use crate::graph::Activation;
use half::f16;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Sizes of a random convolution, with a window up to the widest.
fn spec(rng: &mut StdRng, algorithm: Algorithm, widest: usize) -> (ConvSpec, usize, usize) {
    let kernel: usize = [1, 1, 2, 3, 3, 5, widest][rng.random_range(0..7)];
    let padding = if kernel == 1 { rng.random_range(0..2) } else { rng.random_range(0..=kernel / 2) };
    let (h, w) = (rng.random_range(kernel..17), rng.random_range(kernel..17));
    let spec = ConvSpec {
        c_in: rng.random_range(1..70),
        c_out: rng.random_range(1..90),
        kernel,
        stride: rng.random_range(1..3),
        padding,
        act: [Activation::Identity, Activation::Silu, Activation::Relu][rng.random_range(0..3)],
        algorithm,
        planar: false,
    };
    (spec, h, w)
}

/// Channels in one run or two.
fn channels(rng: &mut StdRng, count: usize) -> Channels {
    let cut = rng.random_range(0..count);
    let behind = cut.next_multiple_of(8);
    let positions = (0..count).map(|i| if i < cut { i } else { behind + i - cut }).collect();
    Channels { positions, padded: behind + (count - cut).next_multiple_of(8) }
}

/// Bytes of a device's memory, at first NaN.
struct Memory {
    device: Device,
    bytes: Vec<u8>,
}

impl Memory {
    fn new() -> Option<Self> {
        Some(Self { device: emulated::device()?, bytes: Vec::new() })
    }

    fn take(&mut self, len: usize) -> usize {
        let at = self.bytes.len().next_multiple_of(256);
        self.bytes.resize(at + len, 0xff);
        at
    }

    /// A tensor in floats, wider than its channels, of random values; what fills it up is zero.
    fn floats(&mut self, rng: &mut StdRng, float: Float, channels: &Channels, size: (usize, usize)) -> (Tensor, View) {
        let ((h, w), bytes) = (size, float.bytes());
        let (before, after) = (8 * rng.random_range(0..3), 8 * rng.random_range(0..3));
        let pitch = before + channels.padded + after;
        let at = self.take(bytes * pitch * h * w);
        let view = View { offset: before, pitch, c: channels.padded, h, w };
        for pixel in 0..h * w {
            for position in 0..channels.padded {
                let value = if channels.positions.contains(&position) { rng.random_range(-1.0..1.0) } else { 0.0 };
                let at = at + bytes * (before + pixel * pitch + position);
                match float {
                    Float::F16 => self.bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                    Float::F32 => self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()),
                }
            }
        }
        (Tensor::floats(at, view, float), View { offset: at / bytes + before, ..view })
    }

    /// A tensor in f32 of random values.
    fn single(&mut self, rng: &mut StdRng, c: usize, h: usize, w: usize) -> View {
        let pitch = c + rng.random_range(0..5);
        let at = self.take(4 * pitch * h * w);
        for value in self.bytes[at..].chunks_exact_mut(4) {
            value.copy_from_slice(&rng.random_range(-1.0f32..1.0).to_le_bytes());
        }
        View { offset: at / 4, pitch, c, h, w }
    }

    fn run(&mut self, launches: &[&Launch]) -> Vec<u8> {
        let mut values: Vec<f32> = vec![0.0; self.bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut(&mut values)[..self.bytes.len()].copy_from_slice(&self.bytes);
        self.device.reserve(values.len()).unwrap();
        self.device.upload(0, &values).unwrap();
        launches.iter().for_each(|launch| self.device.launch(launch).unwrap());
        self.device.download(0, &mut values).unwrap();
        bytemuck::cast_slice(&values)[..self.bytes.len()].to_vec()
    }
}

fn float_at(float: Float, bytes: &[u8], at: usize) -> f64 {
    match float {
        Float::F16 => f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f64(),
        Float::F32 => single_at(bytes, at).into(),
    }
}

fn single_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(bytes[4 * at..4 * at + 4].try_into().unwrap())
}

/// What a network of floats holds of a value.
fn held(float: Float, value: f32) -> f32 {
    match float {
        Float::F16 => f16::from_f32(value).to_f32(),
        Float::F32 => value,
    }
}

fn activated(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

/// The sum of a window in f64.
fn window(
    spec: &ConvSpec,
    kernel: &[f32],
    (h, w): (usize, usize),
    at: [usize; 3],
    src: impl Fn(usize, usize) -> f64,
) -> f64 {
    let ([y, x, co], k) = (at, spec.kernel);
    let mut sum = 0.0;
    for (down, right) in (0..k).flat_map(|down| (0..k).map(move |right| (down, right))) {
        let side = |at: usize, step: usize, most: usize| {
            (at * spec.stride + step).checked_sub(spec.padding).filter(|v| *v < most)
        };
        let (Some(y), Some(x)) = (side(y, down, h), side(x, right, w)) else { continue };
        for ci in 0..spec.c_in {
            let weight = kernel[((co * spec.c_in + ci) * k + down) * k + right];
            sum += f64::from(weight) * src(y * w + x, ci);
        }
    }
    sum
}

#[test]
fn products_in_f16_are_right_on_every_tile() {
    products_in_floats(Float::F16, 11, 1e-3);
}

#[test]
fn products_in_f32_are_right_on_every_tile() {
    products_in_floats(Float::F32, 13, 5e-6);
}

/// Eight products, each half of the last bit that tensor cores keep beside a bias of 1: in f16, where sums begin with the
/// bias, none counts; in f32 all do.
#[test]
fn tensor_cores_cut_off_what_they_add_up_and_f32_does_without_it() {
    let Some(mut memory) = Memory::new() else { return };
    let spec = ConvSpec {
        c_in: 8,
        c_out: 8,
        kernel: 1,
        stride: 1,
        padding: 0,
        act: Activation::Identity,
        algorithm: Algorithm::Direct,
        planar: false,
    };
    let small = (-13.0f32).exp2();
    for (float, sign, wanted) in [
        (Float::F16, 1.0, 1.0),
        (Float::F16, -1.0, 1.0),
        (Float::F32, 1.0, 1.0 + 2.0 * f32::EPSILON),
        (Float::F32, -1.0, 1.0 - 2.0 * f32::EPSILON),
    ] {
        memory.bytes.clear();
        let at = memory.take(8 * float.bytes());
        for value in memory.bytes[at..].chunks_exact_mut(float.bytes()) {
            match float {
                Float::F16 => value.copy_from_slice(&f16::from_f32(small).to_le_bytes()),
                Float::F32 => value.copy_from_slice(&small.to_le_bytes()),
            }
        }
        let results = memory.take(4 * 8);
        let weights = ConvWeights::dense(float, spec, Channels::dense(8), Channels::dense(8));
        let packed = memory.take(weights.bytes());
        weights.pack(&[sign * 1.9 * small; 64], &[1.0; 8], &mut memory.bytes[packed..]);
        let src = Tensor::floats(at, View::dense(0, 8, 1, 1), float);
        let tensors = ConvTensors { packed, src, dst: Tensor::planes(results, 8, 1, 1), other: None, member: None };
        let launch = Launch::float_conv(&weights, tensors, 8);
        for tile in 0..5 {
            let found = memory.run(&[&launch.with_tile(tile).unwrap()]);
            for channel in 0..8 {
                assert_eq!(single_at(&found, results / 4 + channel), wanted, "{float:?}, {sign}, tile {tile}");
            }
        }
    }
}

/// Convolutions between runs of channels, within a tolerance of sums in f64; and nothing else changes.
fn products_in_floats(float: Float, seed: u64, tolerance: f64) {
    let Some(mut memory) = Memory::new() else { return };
    let mut rng = StdRng::seed_from_u64(seed);
    for case in 0..60 {
        memory.bytes.clear();
        let (spec, h, w) = spec(&mut rng, Algorithm::Direct, 5);
        let (from, to) = (channels(&mut rng, spec.c_in), channels(&mut rng, spec.c_out));
        let (oh, ow) = (spec.side(h), spec.side(w));
        let planes = case % 3 == 2;
        let to = if planes { Channels::dense(spec.c_out) } else { to };
        let (src, src_view) = memory.floats(&mut rng, float, &from, (h, w));
        let (dst, dst_view) = memory.floats(&mut rng, float, &to, (oh, ow));
        let other = (!planes && rng.random_bool(0.5)).then(|| memory.floats(&mut rng, float, &to, (oh, ow)));
        let results = memory.take(4 * spec.c_out * oh * ow);
        let spread = (1.0 / (spec.c_in * spec.kernel * spec.kernel) as f32).sqrt();
        let mut values = |count: usize, most: f32| -> Vec<f32> {
            (0..count).map(|_| held(float, rng.random_range(-most..most))).collect()
        };
        let kernel = values(spec.c_out * spec.c_in * spec.kernel * spec.kernel, spread);
        let bias = values(spec.c_out, 1.0);
        let weights = ConvWeights::dense(float, spec, from.clone(), to.clone());
        let packed = memory.take(weights.bytes());
        weights.pack(&kernel, &bias, &mut memory.bytes[packed..]);
        let dst = if planes { Tensor::planes(results, spec.c_out, oh, ow) } else { dst };
        let tensors = ConvTensors { packed, src, dst, other: other.map(|(tensor, _)| tensor), member: None };
        let before = memory.bytes.clone();
        let chosen = Launch::float_conv(&weights, tensors, 8);
        let case = format!("case {case}: {spec:?} {h} x {w}, planes {planes}, {other:?}");
        for tile in 0..5 {
            let found = memory.run(&[&chosen.with_tile(tile).unwrap()]);
            for (y, x, co) in
                (0..oh * ow * spec.c_out).map(|i| (i / spec.c_out / ow, i / spec.c_out % ow, i % spec.c_out))
            {
                let sum = window(&spec, &kernel, (h, w), [y, x, co], |pixel, ci| {
                    float_at(float, &before, src_view.offset + pixel * src_view.pitch + from.positions[ci])
                });
                let at = |view: &View| view.offset + (y * ow + x) * view.pitch + to.positions[co];
                let other = other.map_or(0.0, |(_, view)| float_at(float, &before, at(&view)));
                let wanted = activated(spec.act, sum + f64::from(bias[co])) + other;
                let got = match planes {
                    true => single_at(&found, results / 4 + (co * oh + y) * ow + x).into(),
                    false => float_at(float, &found, at(&dst_view)),
                };
                assert!(
                    (got - wanted).abs() <= tolerance * (1.0 + wanted.abs()),
                    "{case}, tile {tile}, {y} {x} {co}: {got}, not {wanted}"
                );
            }
            // Nothing else changed, and what fills up is zero.
            let area = (oh * ow) as i64;
            let bytes = float.bytes();
            for (i, (found, before)) in found.chunks(bytes).zip(before.chunks(bytes)).enumerate() {
                let within = (i as i64 - dst_view.offset as i64).rem_euclid(dst_view.pitch as i64) as usize;
                let row = (i as i64 - dst_view.offset as i64).div_euclid(dst_view.pitch as i64);
                let inside = !planes && (0..area).contains(&row) && within < to.padded;
                let written = planes && (results..results + 4 * spec.c_out * oh * ow).contains(&(bytes * i));
                let filling = inside && !to.positions.contains(&within);
                assert!(
                    !filling || found.iter().all(|byte| *byte == 0),
                    "{case}, tile {tile}: position {within} of pixel {row} is {found:?}"
                );
                assert!(inside || written || found == before, "{case}, tile {tile}: bytes {} changed", bytes * i);
            }
        }
    }
}

#[test]
fn products_in_int8_give_the_numbers_of_the_cpu_on_every_tile() {
    let Some(mut memory) = Memory::new() else { return };
    let mut rng = StdRng::seed_from_u64(12);
    for case in 0..60 {
        memory.bytes.clear();
        let (spec, h, w) = spec(&mut rng, Algorithm::Int8, 7);
        let (oh, ow) = (spec.side(h), spec.side(w));
        let src = memory.single(&mut rng, spec.c_in, h, w);
        let dst = memory.single(&mut rng, spec.c_out, oh, ow);
        let other = rng.random_bool(0.5).then(|| memory.single(&mut rng, spec.c_out, oh, ow));
        let values = memory.bytes.len() / 4;
        let kernel: Vec<f32> =
            (0..spec.c_out * spec.c_in * spec.kernel * spec.kernel).map(|_| rng.random_range(-1.0..1.0)).collect();
        let bias: Vec<f32> = (0..spec.c_out).map(|_| rng.random_range(-1.0..1.0)).collect();
        let range = [rng.random_range(-1.0..0.1), rng.random_range(0.2..1.0)];
        let next = [rng.random_range(-2.0..0.0), rng.random_range(0.5..4.0)];
        // The CPU's.
        let isa = Isa::detect();
        let mut buffer = Buffer::zeroed(values + 4096 + cpu::quantized_len(isa, &spec, h, w)).unwrap();
        let room = View::dense(values.next_multiple_of(16), cpu::quantized_len(isa, &spec, h, w).max(1), 1, 1);
        bytemuck::cast_slice_mut(buffer.as_mut_slice())[..memory.bytes.len()].copy_from_slice(&memory.bytes);
        let mut weights = vec![0.0; cpu::packed_conv_len(isa, &spec)];
        cpu::pack_int8(isa, &spec, &kernel, &bias, range, &mut weights);
        let mut kernels = Kernels::new(isa, 1, 1 << 18, 1 << 14).unwrap();
        let shared = (cpu::quantized_len(isa, &spec, h, w) > 0).then_some(room);
        let conv = PackedConv { spec: &spec, weights: &weights };
        cpu::conv_low_precision(&mut kernels, &mut buffer, conv, src, dst, other, shared);
        // The GPU's.
        let quantized = memory.take(Tensor::int8_bytes(spec.c_in, h, w));
        let requantized = memory.take(Tensor::int8_bytes(spec.c_out, oh, ow));
        let again = memory.take(Tensor::int8_bytes(spec.c_out, oh, ow));
        let packed = memory.take(packed_int8_bytes(&spec));
        pack_int8_product(&spec, &kernel, &bias, range, &mut memory.bytes[packed..]);
        let single = |view: &View| Tensor::f32(0, *view);
        let input = Tensor::int8(quantized, spec.c_in, h, w);
        let output = |at: usize| Tensor::int8(at, spec.c_out, oh, ow);
        let tensors =
            ConvTensors { packed, src: input, dst: single(&dst), other: other.as_ref().map(single), member: None };
        let quantize = Launch::quantize(Quantize::of(range), single(&src), input);
        let product = Launch::int8_conv(&spec, tensors, None, 8);
        // `dst` of the fused one keeps its real number of channels.
        let fused =
            Launch::int8_conv(&spec, ConvTensors { dst: output(requantized), ..tensors }, Some(Quantize::of(next)), 8);
        let after = Launch::quantize(Quantize::of(next), single(&dst), output(again));
        let case = format!("case {case}: {spec:?} {h} x {w}, {range:?}, {other:?}");
        for tile in 0..5 {
            // Windows wider than 5 have a kernel without tiles.
            let on_tile = |launch: &Launch| launch.with_tile(tile).unwrap_or(*launch);
            let found = memory.run(&[&quantize, &on_tile(&product), &on_tile(&fused), &after]);
            for (i, wanted) in buffer.as_slice()[..values].iter().enumerate() {
                let got = single_at(&found, i);
                let same = match spec.act {
                    Activation::Silu => super::same(got, *wanted, 2e-6),
                    _ => got == *wanted,
                };
                assert!(
                    same || (got.is_nan() && wanted.is_nan()),
                    "{case}, tile {tile}: value {i} is {got}, not {wanted}"
                );
            }
            let pitch = spec.c_out.next_multiple_of(16);
            for (pixel, co) in (0..oh * ow * spec.c_out).map(|i| (i / spec.c_out, i % spec.c_out)) {
                let (a, b) = (found[requantized + pixel * pitch + co] as i8, found[again + pixel * pitch + co] as i8);
                assert_eq!(a, b, "{case}, tile {tile}: pixel {pixel}, channel {co}");
                let value = single_at(&found, dst.offset + pixel * dst.pitch + co);
                let (scale, zero) = cpu::input_scale(next);
                let number = (value * (1.0 / scale)).clamp(-zero, 255.0 - zero).round_ties_even() + zero;
                assert_eq!(f32::from(b), number - 128.0, "{case}: pixel {pixel}, channel {co}");
            }
        }
    }
}
