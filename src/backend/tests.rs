//! Every operation of our own against candle's, and the places where candle's are wrong against finite differences.

use super::*;

/// Values without a pattern that a layout error could hide in; no two are equal in small tensors.
fn values(shape: &[usize], seed: usize) -> Var {
    let len: usize = shape.iter().product();
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 5003.0 - 1.0;
    Var::from_tensor(&Tensor::from_vec((0..len).map(value).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap())
        .unwrap()
}

/// Gradients of `sum(y * r)` with a fixed `r`, and `y` itself.
fn gradients(y: &Tensor, vars: &[&Var]) -> Vec<Vec<f32>> {
    let r = values(y.dims(), 99);
    let grads = (y * r.as_detached_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    vars.iter().map(|v| flat(grads.get(v).unwrap())).chain([flat(y)]).collect()
}

fn check(what: &str, own: &[Vec<f32>], other: &[Vec<f32>]) {
    assert_eq!(own.len(), other.len());
    for (part, (own, other)) in own.iter().zip(other).enumerate() {
        let size = other.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        assert_eq!(own.len(), other.len(), "{what}, {part}");
        for (i, (a, b)) in own.iter().zip(other).enumerate() {
            assert!((a - b).abs() <= 2e-5 * size, "{what}, part {part}, {i}: {a}, expected {b}");
        }
    }
}

fn conv(c_in: usize, c_out: usize, kernel: usize, stride: usize, padding: usize, groups: usize) -> Conv {
    let act = Activation::Identity;
    Conv { weight: "w".into(), bias: None, norm: None, c_in, c_out, kernel, stride, padding, groups, act }
}

#[test]
fn convolutions_and_their_gradients_equal_candles() {
    let cases = [
        (conv(3, 5, 3, 1, 1, 1), 6, 7),
        (conv(3, 5, 3, 2, 1, 1), 8, 6),
        (conv(3, 5, 3, 2, 1, 1), 7, 5),
        (conv(4, 6, 1, 1, 0, 1), 5, 3),
        (conv(4, 6, 1, 2, 0, 1), 4, 4),
        (conv(2, 3, 5, 1, 2, 1), 3, 4),
        (conv(2, 3, 7, 2, 3, 1), 10, 8),
        (conv(6, 6, 3, 1, 1, 6), 5, 9),
        (conv(6, 6, 3, 2, 1, 6), 8, 7),
        (conv(6, 6, 5, 1, 2, 6), 1, 2),
    ];
    for (conv, h, w) in cases {
        let what = format!("{conv:?} on {h} x {w}");
        let (x, k) = (values(&[2, conv.c_in, h, w], 1), values(&conv.weight_shape(), 2));
        let own = x.apply_op2(&k, super::conv::ConvOp(super::conv::Geometry::of(&conv))).unwrap();
        let other = plain::conv(&x, &k, &conv).unwrap();
        check(&what, &gradients(&own, &[&x, &k]), &gradients(&other, &[&x, &k]));
    }
}

#[test]
fn normalisations_and_their_gradients_equal_candles() {
    for act in [Activation::Identity, Activation::Relu, Activation::Silu] {
        for batch in [true, false] {
            let (x, gamma, beta) = (values(&[3, 4, 5, 3], 1), values(&[4], 2), values(&[4], 3));
            let op = || {
                let moments = OnceLock::new();
                if !batch {
                    moments.get_or_init(|| Moments { mean: vec![0.1, -0.2, 0.0, 0.3], var: vec![0.5, 1.0, 2.0, 0.1] });
                }
                NormOp { act, eps: 1e-3, moments: Arc::new(moments), batch }
            };
            let (own, other) = (op(), op());
            let moments = own.moments.clone();
            let y = x.apply_op3(&gamma, &beta, own).unwrap();
            let z = plain::norm(&x, &gamma, &beta, &other).unwrap();
            let what = format!("{act:?}, batch {batch}");
            check(&what, &gradients(&y, &[&x, &gamma, &beta]), &gradients(&z, &[&x, &gamma, &beta]));
            let (a, b) = (moments.get().unwrap(), other.moments.get().unwrap());
            check(&what, &[a.mean.clone(), a.var.clone()], &[b.mean.clone(), b.var.clone()]);
        }
    }
}

#[test]
fn windows_and_their_gradients_equal_shifted_views() {
    for (kernel, stride, padding, h, w) in [(2, 2, 0, 6, 4), (5, 1, 2, 5, 4), (3, 2, 1, 7, 6), (3, 3, 0, 9, 6)] {
        let x = values(&[2, 3, h, w], 1);
        let own = x.apply_op1(window::MaxPool { kernel, stride, padding }).unwrap();
        let other = plain::max_pool(&x, kernel, stride, padding).unwrap();
        check(&format!("max-pool {kernel}, {stride}"), &gradients(&own, &[&x]), &gradients(&other, &[&x]));
    }
    for factor in [1, 2, 3] {
        let x = values(&[2, 3, 3, 4], 1);
        let own = x.apply_op1(window::Upsample { factor }).unwrap();
        let other = plain::upsample(&x, factor).unwrap();
        check(&format!("enlargement {factor}"), &gradients(&own, &[&x]), &gradients(&other, &[&x]));
    }
}

/// Finite differences of `sum(y * r)`.
fn differences(x: &Var, f: impl Fn(&Tensor) -> Tensor) {
    let y = f(x);
    let found = gradients(&y, &[x]).swap_remove(0);
    let r: Vec<f32> = values(y.dims(), 99).flatten_all().unwrap().to_vec1().unwrap();
    let base: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
    for (i, found) in found.into_iter().enumerate() {
        let at = |step: f32| {
            let mut moved = base.clone();
            moved[i] += step;
            let y = f(&Tensor::from_vec(moved, x.shape(), &Device::Cpu).unwrap());
            let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
            y.iter().zip(&r).map(|(y, r)| f64::from(*y) * f64::from(*r)).sum::<f64>()
        };
        let difference = (at(1.0 / 1024.0) - at(-1.0 / 1024.0)) * 512.0;
        assert!((difference - f64::from(found)).abs() < 2e-3, "{i}: {difference} against {found}");
    }
}

#[test]
fn the_traps_of_candle_are_avoided() {
    let x = values(&[1, 2, 4, 4], 5);
    // The input of an enlargement that is used again: candle's own gradient overwrites the other's.
    differences(&x, |x| {
        let wide = x.apply_op1(window::Upsample { factor: 2 }).unwrap();
        Tensor::cat(&[wide, plain::upsample(&(x * 2.0).unwrap(), 2).unwrap()], 1).unwrap()
    });
    differences(&x, |x| x.apply_op1(window::MaxPool { kernel: 2, stride: 2, padding: 0 }).unwrap());
    differences(&x, |x| x.apply_op1(window::MaxPool { kernel: 5, stride: 1, padding: 2 }).unwrap());
    differences(&x, |x| plain::max_pool(x, 2, 2, 0).unwrap());
    // Height even, width odd, stride 2.
    let x = values(&[1, 2, 4, 5], 5);
    let k = values(&[2, 2, 3, 3], 6);
    let geometry = super::conv::Geometry::of(&conv(2, 2, 3, 2, 1, 1));
    differences(&x, |x| x.apply_op2(&k, super::conv::ConvOp(geometry)).unwrap());
    // Softmax inside attention passes its gradient on.
    let attention = Attention { heads: 2, key_dim: 2, head_dim: 3, scale: 0.7 };
    let x = values(&[1, 14, 2, 3], 7);
    differences(&x, |x| attend(&attention, x).unwrap());
}

#[test]
fn masks_on_channels_pass_gradients_to_both() {
    let (x, mask) = (values(&[2, 3, 4, 2], 1), values(&[2, 3, 1, 1], 2));
    let own = ops::channel_scale(&x, &mask).unwrap();
    let other = x.broadcast_mul(&mask).unwrap();
    check("mask", &gradients(&own, &[&x, &mask]), &gradients(&other, &[&x, &mask]));
    assert!(ops::channel_scale(&x, &values(&[3, 1, 1], 2)).is_err());
}
