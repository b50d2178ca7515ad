//! The loops against their formulas in f64, at lengths that leave every remainder.

use super::lanes;
use crate::graph::Activation;

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
            let (mut y, mut dt) = (vec![0.0; len], vec![0.0; len]);
            lanes::affine(act, scale as f32, shift as f32, &z, &mut y);
            let sums = lanes::affine_slopes(act, scale as f32, shift as f32, mean as f32, &z, &dy, &mut dt);
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
