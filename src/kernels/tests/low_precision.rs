//! Convolutions in int8 and f16, and the scales of int8 weights.

use super::*;

/// One random convolution in int8 against exact sums of values quantized by definition.
fn int8(seed: u64) {
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
            on_low_precision(kernels, buffer, used, packed_conv(&spec, &packed), src, dst, residual);
        },
    );
}

/// One random convolution in f16 against f64 on inputs and weights of 11 bits.
fn f16(seed: u64) {
    let mut world = World::new(seed);
    world.same_bits = false;
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
    let spec = ConvSpec { c_in, c_out, kernel, stride, padding, act: act_of, algorithm: Algorithm::F16, planar: false };
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
    // Partial sums grow with the root of the depth, and so does what all their roundings add up to: some units in the
    // last place of a sum of magnitudes, a quarter of the depth.
    let depth = (c_in * kernel * kernel) as f64;
    let tolerance = 2.0f64.powi(-10) * (0.25 * depth + 2.0) * f64::from(size) + 2e-6;
    let (used, space) = (world.used, |isa| conv_scratch(isa, &spec));
    world.check(&case, dst, tolerance, space, expected, |isa, kernels, buffer| {
        let mut packed = vec![f32::NAN; packed_conv_len(isa, &spec)];
        pack_f16(isa, &spec, &weights, &bias, &mut packed);
        on_low_precision(kernels, buffer, used, packed_conv(&spec, &packed), src, dst, residual);
    });
}

/// Runs a low-precision convolution whose working space lies in a second buffer, so that only the output changes in the
/// first.
fn on_low_precision(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    used: usize,
    conv: PackedConv,
    src: View,
    dst: View,
    residual: Option<View>,
) {
    let needed = quantized_len(kernels.isa(), conv.spec, src.h, src.w);
    let shared = (needed > 0).then(|| View::dense(used, needed, 1, 1));
    let mut whole = Buffer::zeroed(used + needed).unwrap();
    whole.as_mut_slice()[..used].copy_from_slice(&buffer.as_slice()[..used]);
    conv_low_precision(kernels, &mut whole, conv, src, dst, residual, shared);
    buffer.as_mut_slice()[..used].copy_from_slice(&whole.as_slice()[..used]);
}

#[test]
fn f16_sums_stay_finite_whatever_the_input() {
    let (c_in, c_out) = (600, 3);
    let algorithm = Algorithm::F16;
    let act = Activation::Identity;
    let spec = ConvSpec { c_in, c_out, kernel: 1, stride: 1, padding: 0, act, algorithm, planar: false };
    let (src, dst) = (View::dense(0, c_in, 2, 2), View::dense(4 * c_in, c_out, 2, 2));
    for (isa, weight) in isas().into_iter().flat_map(|isa| [1e-3f32, 1.0, 1.7, 3e4].map(|weight| (isa, weight))) {
        let mut buffer = Buffer::zeroed(4 * (c_in + c_out)).unwrap();
        buffer.as_mut_slice().fill(1e9);
        let mut packed = vec![f32::NAN; packed_conv_len(isa, &spec)];
        pack_f16(isa, &spec, &vec![weight; c_in * c_out], &[0.0; 3], &mut packed);
        let mut kernels = Kernels::new(isa, 1, conv_scratch(isa, &spec), conv_zeros(&spec)).unwrap();
        on_low_precision(&mut kernels, &mut buffer, 4 * (c_in + c_out), packed_conv(&spec, &packed), src, dst, None);
        let found = &buffer.as_slice()[4 * c_in..];
        // As large as saturated inputs make it, but for what sums in f16 lose.
        let least = 0.5 * 16_000.0 * weight * c_in as f32;
        assert!(found.iter().all(|v| v.is_finite() && *v > least), "{isa:?} {weight}: {found:?}");
    }
}

#[test]
fn f16_convolutions_of_any_shape_are_right() {
    (90_000..90_600).for_each(f16);
}

#[test]
fn int8_convolutions_of_any_shape_are_exact() {
    (80_000..81_000).for_each(int8);
}

#[test]
fn quantized_weights_are_multiples_of_the_scale_and_quantize_to_themselves() {
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
