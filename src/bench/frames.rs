//! Wall and CPU times of single frames, given as closures.

use super::Distribution;
use super::distribution::{median, upper_bound};
use crate::kernels::clock::cpu_millis;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Times of single frames in the order they ran, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Wall times.
    pub wall: Vec<f64>,
    /// CPU times, all threads together.
    pub cpu: Vec<f64>,
}

impl Samples {
    /// Runs one frame on the clocks.
    pub(super) fn take<E>(&mut self, frame: &mut dyn FnMut() -> Result<(), E>) -> Result<(), E> {
        let (cpu, wall) = (cpu_millis(), Instant::now());
        frame()?;
        self.wall.push(millis(wall));
        self.cpu.push(cpu_millis() - cpu);
        Ok(())
    }

    /// Their distribution.
    pub fn distribution(&self) -> Distribution {
        Distribution::of(&self.wall, &self.cpu)
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Runs `warmup` frames off the clock and `runs` on it.
///
/// # Errors
/// The first that a frame gives.
pub fn time<E>(warmup: usize, runs: usize, frame: &mut dyn FnMut() -> Result<(), E>) -> Result<Samples, E> {
    for _ in 0..warmup {
        frame()?;
    }
    let mut samples = Samples::default();
    for _ in 0..runs {
        samples.take(frame)?;
    }
    Ok(samples)
}

/// Interleaved times of two kinds of frames.
#[derive(Clone, Debug, PartialEq)]
pub struct PairedTimes {
    /// The first.
    pub a: Distribution,
    /// The second.
    pub b: Distribution,
    /// Median wall time of `b` over that of `a`.
    pub ratio: f64,
    /// Median over all pairs of neighbours of the wall time of `b` over that of `a`: blind to slow drifts.
    pub pair_ratio: f64,
    /// What `pair_ratio` is at most with 95 % confidence, where there are pairs enough.
    pub pair_ratio_bound: Option<f64>,
    /// Median CPU time of `b` over that of `a`.
    pub cpu_ratio: f64,
}

/// Runs two kinds of frames interleaved, `runs` each, as A B B A A B B A: neither always follows the other.
///
/// # Errors
/// The first that a frame gives.
pub fn compare<E>(
    warmup: usize,
    runs: usize,
    a: &mut dyn FnMut() -> Result<(), E>,
    b: &mut dyn FnMut() -> Result<(), E>,
) -> Result<PairedTimes, E> {
    for _ in 0..warmup {
        a()?;
        b()?;
    }
    let (mut of_a, mut of_b) = (Samples::default(), Samples::default());
    for run in 0..runs {
        if run % 2 == 0 {
            of_a.take(a)?;
            of_b.take(b)?;
        } else {
            of_b.take(b)?;
            of_a.take(a)?;
        }
    }
    Ok(PairedTimes::of(&of_a, &of_b))
}

impl PairedTimes {
    /// Compares interleaved frames.
    pub fn of(a: &Samples, b: &Samples) -> Self {
        let ratios: Vec<f64> = a.wall.iter().zip(&b.wall).map(|(a, b)| over(*b, *a)).collect();
        let (a, b) = (a.distribution(), b.distribution());
        Self {
            ratio: over(b.p50_ms, a.p50_ms),
            pair_ratio: median(&ratios),
            pair_ratio_bound: upper_bound(&ratios, 50),
            cpu_ratio: over(b.cpu_p50_ms, a.cpu_p50_ms),
            a,
            b,
        }
    }
}

/// `b / a`, and 1 where both are too short for the clock.
pub(super) fn over(b: f64, a: f64) -> f64 {
    if a > 0.0 { b / a } else { 1.0 }
}

/// Median wall times of the `N` phases of a frame and of the whole frame. `phase` runs phase 0 to `N - 1` in order.
///
/// # Errors
/// The first that a phase gives.
pub fn phases<const N: usize, E>(
    warmup: usize,
    runs: usize,
    phase: &mut dyn FnMut(usize) -> Result<(), E>,
) -> Result<([f64; N], f64), E> {
    let mut times: [Vec<f64>; N] = std::array::from_fn(|_| Vec::new());
    let mut totals = Vec::new();
    for run in 0..warmup + runs {
        let frame = Instant::now();
        for (index, times) in times.iter_mut().enumerate() {
            let start = Instant::now();
            phase(index)?;
            if run >= warmup {
                times.push(millis(start));
            }
        }
        if run >= warmup {
            totals.push(millis(frame));
        }
    }
    Ok((times.map(|times| median(&times)), median(&totals)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn frames_alternate_and_both_run_equally_often() {
        let log = RefCell::new(String::new());
        let frame = |name: char| {
            let log = &log;
            move || -> Result<(), ()> {
                log.borrow_mut().push(name);
                Ok(())
            }
        };
        let pair = compare(1, 3, &mut frame('a'), &mut frame('b')).unwrap();
        assert_eq!(log.into_inner(), "ababbaab");
        assert_eq!((pair.a.runs, pair.b.runs), (3, 3));
    }

    #[test]
    fn ratios_are_of_the_second_to_the_first() {
        let a = Samples { wall: vec![4.0, 8.0, 2.0], cpu: vec![1.0; 3] };
        let b = Samples { wall: vec![2.0, 2.0, 2.0], cpu: vec![3.0; 3] };
        let pair = PairedTimes::of(&a, &b);
        assert_eq!((pair.ratio, pair.pair_ratio, pair.cpu_ratio), (0.5, 0.5, 3.0));
        assert_eq!(PairedTimes::of(&Samples::default(), &Samples::default()).ratio, 1.0);
    }

    #[test]
    fn a_failing_frame_ends_the_measurement() {
        let mut left = 3;
        let mut frame = || {
            left -= 1;
            if left == 0 { Err("stopped") } else { Ok(()) }
        };
        assert_eq!(time(1, 5, &mut frame), Err("stopped"));
        let mut order = Vec::new();
        let found = phases::<3, ()>(1, 1, &mut |phase| {
            order.push(phase);
            Ok(())
        });
        assert!(found.is_ok());
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }
}
