//! The loops against their formulas in f64, at lengths that leave every remainder.

#![allow(unsafe_code)]

use super::conv;
use super::geometry::Geometry;
use super::lanes;
use crate::graph::Activation;
use crate::ranks::tree;
use std::mem::MaybeUninit;

fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 1000.0 - 5.0).collect()
}

#[test]
fn exponentials_are_exact_to_rounding() {
    for i in -87_000..=88_000 {
        let x = i as f32 / 1000.0;
        let (found, expected) = (f64::from(lanes::exp(x)), f64::from(x).exp());
        assert!((found - expected).abs() <= 3e-7 * expected, "exp({x}) = {found}, expected {expected}");
    }
    assert_eq!(lanes::exp(f32::MIN), lanes::exp(-87.0));
    assert_eq!(lanes::exp(f32::MAX), lanes::exp(88.0));
}

#[test]
fn loops_equal_their_formulas_at_every_length() {
    for len in (0..70).chain([1023, 1024, 1025, 2500]) {
        let (z, dy) = (numbers(len, 1), numbers(len, 2));
        let close = |what: &str, found: f64, expected: f64| {
            assert!(
                (found - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
                "{what}, {len}: {found}, expected {expected}"
            );
        };
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let (z64, dy64) = (wide(&z), wide(&dy));
        close("sum", lanes::sum(&z), z64.iter().sum());
        close("squares", lanes::squares(&z, 0.5), z64.iter().map(|z| (z - 0.5).powi(2)).sum());
        close("products", lanes::products(&z, &dy), z64.iter().zip(&dy64).map(|(z, d)| z * d).sum());
        let (scale, shift, mean) = (0.7, -0.4, 0.25);
        for act in [Activation::Identity, Activation::Relu, Activation::Silu] {
            let (mut y, mut dt) = (vec![MaybeUninit::new(f32::NAN); len], vec![MaybeUninit::new(f32::NAN); len]);
            lanes::affine(act, scale as f32, shift as f32, &z, &mut y);
            let sums = lanes::affine_slopes(act, scale as f32, shift as f32, mean as f32, &z, &dy, &mut dt);
            // SAFETY: they were numbers from the start.
            let [y, dt] =
                [y, dt].map(|values| values.into_iter().map(|v| unsafe { v.assume_init() }).collect::<Vec<_>>());
            let (mut plain, mut with_z) = (0.0, 0.0);
            for i in 0..len {
                let t = z64[i] * scale + shift;
                let s = 1.0 / (1.0 + (-t).exp());
                let (value, slope) = match act {
                    Activation::Identity => (t, 1.0),
                    Activation::Relu => (t.max(0.0), f64::from(t > 0.0)),
                    Activation::Silu => (t * s, s * (1.0 + t * (1.0 - s))),
                };
                close("value", f64::from(y[i]), value);
                close("slope", f64::from(dt[i]), dy64[i] * slope);
                plain += dy64[i] * slope;
                with_z += dy64[i] * slope * (z64[i] - mean);
            }
            close("sum of slopes", sums[0], plain);
            close("sum of slopes with z", sums[1], with_z);
        }
    }
}

/// Convolution by definition, in f64.
fn by_definition(g: &Geometry, x: &[f32], kernel: &[f32], (h, w): (usize, usize)) -> Vec<f64> {
    let (n, oh, ow, k) = (x.len() / (g.c_in * h * w), g.side(h), g.side(w), g.kernel);
    let per_output = if g.depthwise { 1 } else { g.c_in };
    let mut y = Vec::new();
    for (image, c, oy, ox) in
        (0..n * g.c_out * oh * ow).map(|i| (i / (g.c_out * oh * ow), i / (oh * ow) % g.c_out, i / ow % oh, i % ow))
    {
        let mut sum = 0.0;
        for (c_in, ky, kx) in (0..per_output * k * k).map(|i| (i / (k * k), i / k % k, i % k)) {
            let (y, x_at) = (oy * g.stride + ky, ox * g.stride + kx);
            if y < g.padding || x_at < g.padding || y - g.padding >= h || x_at - g.padding >= w {
                continue;
            }
            let plane = image * g.c_in + if g.depthwise { c } else { c_in };
            let pixel = x[(plane * h + y - g.padding) * w + x_at - g.padding];
            sum += f64::from(pixel) * f64::from(kernel[((c * per_output + c_in) * k + ky) * k + kx]);
        }
        y.push(sum);
    }
    y
}

/// Sizes at which images go alone, together, and as rows of one product.
#[test]
fn convolutions_and_their_gradients_are_those_of_the_definition() {
    let dense =
        |c_in, c_out, kernel, stride, padding| Geometry { c_in, c_out, kernel, stride, padding, depthwise: false };
    let depthwise =
        |c, kernel, stride, padding| Geometry { c_in: c, c_out: c, kernel, stride, padding, depthwise: true };
    let cases = [
        (dense(3, 5, 3, 1, 1), 3, (5, 7)),
        (dense(3, 5, 3, 2, 1), 41, (6, 5)),
        (dense(2, 3, 1, 1, 0), 40, (4, 3)),
        (dense(4, 3, 1, 1, 0), 2, (17, 18)),
        (dense(2, 3, 3, 1, 1), 2, (18, 17)),
        (dense(3, 2, 1, 2, 0), 5, (5, 4)),
        (dense(3, 37, 4, 1, 0), 35, (4, 4)),
        (dense(9, 4, 1, 1, 0), 18, (1, 1)),
        (dense(2, 2, 5, 1, 2), 2, (3, 2)),
        (dense(2, 2, 5, 3, 4), 3, (2, 9)),
        (depthwise(4, 3, 1, 1), 2, (5, 6)),
        (depthwise(3, 3, 2, 1), 3, (6, 7)),
    ];
    for (g, n, size) in cases {
        let x = numbers(n * g.c_in * size.0 * size.1, 1);
        let per_output = if g.depthwise { 1 } else { g.c_in };
        let kernel = numbers(g.c_out * per_output * g.kernel * g.kernel, 2);
        let dy = numbers(n * g.c_out * g.area(size.0, size.1), 3);
        let close = |what: &str, found: f64, expected: f64| {
            assert!(
                (found - expected).abs() < 2e-4 * (10.0 + expected.abs()),
                "{what} of {g:?}, {n} of {size:?}: {found}, {expected}"
            );
        };
        let y = conv::forward(&g, &x, &kernel, size, &[n]);
        let expected = by_definition(&g, &x, &kernel, size);
        assert_eq!(y.len(), expected.len());
        y.iter().zip(&expected).for_each(|(y, e)| close("output", f64::from(*y), *e));
        // The product of `dy` and the outputs is linear in the input and in the kernel; its slopes are the gradients.
        let product = |x: &[f32], kernel: &[f32]| {
            by_definition(&g, x, kernel, size).iter().zip(&dy).map(|(y, d)| y * f64::from(*d)).sum::<f64>()
        };
        let grads = conv::backward(&g, &x, &kernel, &dy, size, [true, true], &[n]);
        assert_eq!((grads.input.len(), grads.kernel.len()), (x.len(), kernel.len()));
        for at in (0..x.len()).step_by(x.len() / 23 + 1) {
            let mut one = vec![0.0; x.len()];
            one[at] = 1.0;
            close("input's gradient", f64::from(grads.input[at]), product(&one, &kernel));
        }
        for at in (0..kernel.len()).step_by(kernel.len() / 23 + 1) {
            let mut one = vec![0.0; kernel.len()];
            one[at] = 1.0;
            close("kernel's gradient", f64::from(grads.kernel[at]), product(&x, &one));
        }
        parts_are_computed_alone(&g, (&x, &kernel, &dy), n, size);
        let part = conv::backward(&g, &x, &kernel, &dy, size, [false, true], &[n]);
        assert_eq!((part.input.len(), part.kernel), (0, grads.kernel));
        let part = conv::backward(&g, &x, &kernel, &dy, size, [true, false], &[n]);
        assert_eq!((part.input, part.kernel.len()), (grads.input, 0));
    }
}

/// Four parts of a batch give the same bits whether they are computed at once or half by half.
fn parts_are_computed_alone(g: &Geometry, (x, kernel, dy): (&[f32], &[f32], &[f32]), n: usize, size: (usize, usize)) {
    let parts: Vec<usize> = (0..4).map(|part| (part + 1) * n / 4 - part * n / 4).collect();
    let half = n / 2;
    let ((x0, x1), (d0, d1)) = (x.split_at(x.len() / n * half), dy.split_at(dy.len() / n * half));
    let sides = [(x0, d0, &parts[..2]), (x1, d1, &parts[2..])];
    let whole = conv::backward(g, x, kernel, dy, size, [true, true], &parts);
    let grads = sides.map(|(x, dy, parts)| conv::backward(g, x, kernel, dy, size, [true, true], parts));
    let outputs = sides.map(|(x, _, parts)| conv::forward(g, x, kernel, size, parts));
    assert_eq!(conv::forward(g, x, kernel, size, &parts), outputs.concat(), "{g:?}");
    let [first, second] = grads;
    assert_eq!(whole.input, [first.input, second.input].concat(), "{g:?}");
    assert_eq!(whole.kernel, tree(vec![first.kernel, second.kernel]), "{g:?}");
}

#[test]
fn convolutions_with_a_fixed_kernel_are_those_of_the_patch_matrix() {
    for (padding, stride, kernel, size) in [
        (1, 1, 3, (18, 17)),
        (0, 1, 3, (21, 30)),
        (2, 1, 3, (16, 19)),
        (1, 2, 3, (33, 40)),
        (1, 1, 3, (5, 6)),
        (0, 1, 1, (20, 20)),
    ] {
        let g = Geometry { c_in: 5, c_out: 19, kernel, stride, padding, depthwise: false };
        let x = numbers(3 * g.c_in * size.0 * size.1, 1);
        let kernel = numbers(g.c_out * g.c_in * kernel * kernel, 2);
        let dy = numbers(3 * g.c_out * g.area(size.0, size.1), 3);
        let close = |found: &[f32], wanted: &[f32]| {
            let most = wanted.iter().fold(1.0f32, |a, b| a.max(b.abs()));
            assert_eq!(found.len(), wanted.len());
            for (a, b) in found.iter().zip(wanted) {
                assert!((a - b).abs() <= 2e-5 * most, "{a} for {b} of {g:?}, {size:?}");
            }
        };
        close(&conv::forward_fixed(&g, &x, &kernel, size, &[3]), &conv::forward(&g, &x, &kernel, size, &[3]));
        let found = conv::backward_fixed(&g, &x, &kernel, &dy, size, &[3]);
        close(&found.input, &conv::backward(&g, &x, &kernel, &dy, size, [true, false], &[3]).input);
        assert!(found.kernel.is_empty());
    }
}
