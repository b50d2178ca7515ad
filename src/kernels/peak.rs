//! The most arithmetic that one core of this machine does: multiply-adds in registers, nothing else.

use super::lanes::Lanes;
use super::{Isa, for_isa};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Multiply-adds of every register in one go.
const STEPS: usize = 20_000;

/// Chains that run beside each other: enough for the latency of a multiply-add on any processor.
const CHAINS: usize = 10;

struct Args {
    factor: f32,
    out: *mut f32,
}

/// Floating-point operations per second of one core, measured for about `time`; the best of many short runs. A multiply-add
/// counts as two.
pub fn peak_flops(isa: Isa, time: Duration) -> f64 {
    let mut out = [0.0f32; super::lanes::MAX_LANES];
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < time || best.is_infinite() {
        let args = Args { factor: black_box(0.999_f32), out: out.as_mut_ptr() };
        let run = Instant::now();
        // SAFETY: `out` has room for a vector, and the instruction set is the caller's promise.
        unsafe { run_chains(isa, &args, 0, 0) };
        best = best.min(run.elapsed().as_secs_f64().max(1e-9));
        black_box(out);
    }
    (2 * STEPS * CHAINS * isa.lanes()) as f64 / best
}

for_isa!(run_chains, chains, Args);

#[inline(always)]
unsafe fn chains<V: Lanes>(args: &Args, _item: usize, _worker: usize) {
    // SAFETY: `out` has room for a vector.
    unsafe {
        let (factor, more) = (V::splat(args.factor), V::splat(1.0 - args.factor));
        let mut sums = [more; CHAINS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = sum.fma(factor, more);
            }
        }
        sums.into_iter().fold(V::splat(0.0), |a, b| a.add(b)).store(args.out);
    }
}
