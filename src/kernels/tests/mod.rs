//! Every instruction set against sums in f64 by definition, on random shapes, views and neighbours.

mod conv;
mod low_precision;
mod ops;
mod pool;

use super::*;
use crate::graph::Activation;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::LazyLock;

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
    /// Whether every instruction set that fuses gives the same bits: not where sums are in f16.
    same_bits: bool,
}

impl World {
    /// Values that are watched behind the last tensor.
    const BEHIND: usize = 1024;

    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let drawn = rng.random_range(0..DRAWN.len());
        Self { rng, buffer: Buffer::zeroed(1 << 17).unwrap(), used: 0, drawn, same_bits: true }
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
        let mut fused: Option<Vec<f64>> = None;
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
            if self.same_bits && isa.fuses() {
                let found: Vec<f64> = order().map(|(c, y, x)| self.at(out, c, y, x)).collect();
                assert!(
                    found == *fused.get_or_insert_with(|| found.clone()),
                    "{case} {isa:?} is alone with its values"
                );
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

fn packed_conv<'a>(spec: &'a ConvSpec, weights: &'a [f32]) -> PackedConv<'a> {
    PackedConv { spec, weights }
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
