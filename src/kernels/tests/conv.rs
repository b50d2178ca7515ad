//! Convolutions in f32 of every kind, and SiLU over its whole range.

use super::*;

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
                depthwise(kernels, buffer, packed_conv(&spec, &packed), src, dst, residual);
            } else {
                let mut packed = vec![f32::NAN; packed_conv_len(isa, &spec)];
                pack_conv(isa, &spec, &weights, &bias, &mut packed);
                match kind {
                    Kind::Image => {
                        let mut image = vec![0.0; c_in * h * w];
                        export(kernels, buffer, src, &mut image);
                        let image = Image { values: &image, height: h, width: w };
                        conv_image(kernels, buffer, packed_conv(&spec, &packed), image, dst, residual);
                    }
                    Kind::Planes => {
                        let mut tensor = vec![f32::NAN; c_out * oh * ow];
                        conv_planes(kernels, buffer, packed_conv(&spec, &packed), src, &mut tensor);
                        import(&tensor, buffer, dst);
                    }
                    _ => conv(kernels, buffer, packed_conv(&spec, &packed), src, dst, residual),
                }
            }
        },
    );
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
        conv(&mut kernels, &mut buffer, packed_conv(&spec, &packed), src, dst, None);
        for (x, y) in inputs.iter().zip(&buffer.as_slice()[n..]) {
            let wanted = act(Activation::Silu, f64::from(*x));
            assert!((f64::from(*y) - wanted).abs() <= 1e-6 * wanted.abs() + 1e-30, "{isa:?}: {x} -> {y}, not {wanted}");
        }
    }
}
