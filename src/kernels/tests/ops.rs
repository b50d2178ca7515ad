//! Pooling, attention, copies, upsampling, sums and averages.

use super::*;
use crate::graph::Attention;

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
            areas: 1,
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
