//! Measures the peak FLOP/s of one core: multiply-adds in registers, nothing else.

use super::Isa;
use super::isa::for_isa;
use super::isa::lanes::{Lanes, MAX_LANES};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Multiply-adds of every register in one go.
const STEPS: usize = 20_000;

/// Chains that run beside each other: enough to hide the latency of a multiply-add on any CPU.
const CHAINS: usize = 10;

struct Args {
    factor: f32,
    out: *mut f32,
}

/// Measured peak FLOP/s of one core with an instruction set of this machine: the best of many short runs during about
/// `time`. A multiply-add counts as two operations.
pub fn peak_flops(isa: Isa, time: Duration) -> f64 {
    let mut out = [0.0f32; MAX_LANES];
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < time || best.is_infinite() {
        let args = Args { factor: black_box(0.999_f32), out: out.as_mut_ptr() };
        let run = Instant::now();
        // SAFETY: `out` has room for a vector, and the caller gives an instruction set of this machine.
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
