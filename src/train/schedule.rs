//! Learning rate schedule, and the moving average of the weights.

use crate::model::Weights;
use std::f64::consts::PI;

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decay {
    /// Half a cosine (Loshchilov and Hutter, "SGDR", 2017).
    #[default]
    Cosine,
    /// A straight line.
    Linear,
}

/// Linear warm-up from zero, then a fall to a fraction of the peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Highest learning rate.
    pub peak: f64,
    /// The last step's rate as a fraction of the peak.
    pub last: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// All steps, warm-up included.
    pub steps: u64,
    /// Form of the fall.
    pub decay: Decay,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        let room = self.steps.saturating_sub(self.warmup + 1).max(1);
        let done = ((step - self.warmup) as f64 / room as f64).min(1.0);
        let share = match self.decay {
            Decay::Cosine => (1.0 + (PI * done).cos()) / 2.0,
            Decay::Linear => 1.0 - done,
        };
        self.peak * (self.last + (1.0 - self.last) * share)
    }
}

/// Exponential moving average of all tensors of a model, running statistics included.
#[derive(Clone, Debug)]
pub struct Ema {
    /// The averages.
    pub weights: Weights,
    /// Updates made so far.
    pub updates: u64,
    decay: f64,
}

impl Ema {
    /// Starts at the given weights. The decay grows toward `decay` as `(1 + n) / (10 + n)`, so that a short training
    /// is not held at its start.
    pub fn new(weights: Weights, decay: f64) -> Self {
        Self { weights, updates: 0, decay }
    }

    /// What the update of this number, counted from 1, leaves of the averages.
    pub fn keep(&self, update: u64) -> f32 {
        let n = update as f64;
        self.decay.min((1.0 + n) / (10.0 + n)) as f32
    }

    /// Moves the averages toward the current weights.
    pub fn update(&mut self, current: &Weights) {
        self.updates += 1;
        let keep = self.keep(self.updates);
        for (key, average) in &mut self.weights {
            let Some(current) = current.get(key) else { continue };
            for (a, c) in average.data_mut().iter_mut().zip(current.data()) {
                *a += (1.0 - keep) * (c - *a);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Tensor;

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_its_last_value() {
        for decay in [Decay::Cosine, Decay::Linear] {
            let schedule = Schedule { peak: 2.0, last: 0.1, warmup: 4, steps: 20, decay };
            let rates: Vec<f64> = (0..20).map(|step| schedule.rate(step)).collect();
            assert!(rates[..5].windows(2).all(|w| w[0] < w[1]) && rates[0] > 0.0, "{rates:?}");
            assert!(rates[4..].windows(2).all(|w| w[0] > w[1]), "{rates:?}");
            assert!((rates[4] - 2.0).abs() < 1e-12 && (rates[19] - 0.2).abs() < 1e-12, "{rates:?}");
        }
        let one = Schedule { peak: 1.0, last: 0.0, warmup: 0, steps: 1, decay: Decay::Cosine };
        assert_eq!(one.rate(0), 1.0);
    }

    #[test]
    fn the_average_of_a_constant_is_reached_and_lags_behind_a_jump() {
        let of = |value: f32| Weights::from([("w".to_owned(), Tensor::filled([2], value))]);
        let mut ema = Ema::new(of(1.0), 0.9);
        ema.update(&of(1.0));
        assert_eq!(ema.weights, of(1.0));
        ema.update(&of(2.0));
        let first = ema.weights["w"].data()[0];
        assert!((first - 1.75).abs() < 1e-6, "after two updates the old value weighs 3/12: {first}");
        (0..300).for_each(|_| ema.update(&of(2.0)));
        assert!((ema.weights["w"].data()[0] - 2.0).abs() < 1e-6);
    }
}
