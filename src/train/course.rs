//! Where a training stands, beside what its steps have changed: counters, the best epoch so far, and whether the loss
//! explodes. A checkpoint keeps it, so that a training that resumes decides as one that was never interrupted.

use super::config::{FitConfig, PastEpoch};
use super::terms::Terms;
use crate::eval::Judged;
use crate::quantise::Ranges;
use serde::{Deserialize, Serialize};

/// Steps whose losses are looked at together.
const WINDOW: f64 = 10.0;

/// A loss that is this many times that of the first steps has exploded.
const EXPLODED: f64 = 10.0;

/// The least loss of the first steps that counts: a fresh network may begin with nearly none.
const LEAST: f64 = 10.0;

/// How often a training goes back to its last good state.
pub(super) const MAX_ROLLBACKS: u32 = 3;

/// Factor on the learning rates after each return to a good state.
const SLOWER: f64 = 0.3;

/// Everything that decides how a training goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Course {
    /// Finished epochs.
    pub epoch: usize,
    /// Finished steps of the epoch after these.
    pub step: usize,
    /// The mean loss of that epoch, as far as these steps have added to it.
    pub mean: Terms,
    /// What the network found on the held-back images before the first step.
    pub before: Option<f64>,
    /// The epoch after which it found most.
    pub best: Option<Epoch<Judged>>,
    /// The epoch whose weights ship, as far as is known.
    pub chosen: Option<Epoch<f64>>,
    /// Factor on the learning rates.
    pub rate: f64,
    /// Returns to a good state.
    pub rollbacks: u32,
    /// The finished epochs.
    pub past: Vec<PastEpoch>,
    /// Of a training for int8 the ranges of the layers' inputs by the averaged weights after the last epoch.
    pub ranges: Option<Ranges>,
    /// The losses of the last steps.
    watch: Watch,
}

/// An epoch and what its averaged weights find on the held-back images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Epoch<T> {
    /// Which, from 0.
    pub epoch: usize,
    /// mAP50-95, or the accuracy.
    pub found: T,
}

/// Exponential mean of the losses, and the mean of the first ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Watch {
    steps: u64,
    first: f64,
    mean: f64,
}

impl Course {
    /// Before the first step.
    pub fn new() -> Self {
        Self {
            epoch: 0,
            step: 0,
            mean: Terms::default(),
            before: None,
            best: None,
            chosen: None,
            rate: 1.0,
            rollbacks: 0,
            past: Vec::new(),
            ranges: None,
            watch: Watch::default(),
        }
    }

    /// Whether nothing is left to do: all epochs are done, or `patience` of them brought nothing better.
    pub fn is_finished(&self, config: &FitConfig) -> bool {
        let begun = config.int8.first(config.epochs).unwrap_or(0);
        let since = self.epoch.saturating_sub(self.best.as_ref().map_or(0, |best| best.epoch + 1).max(begun));
        let tired = config.patience > 0 && self.before.is_some() && since >= config.patience;
        self.epoch >= config.epochs || tired
    }

    /// Enters what an epoch found on the held-back images; whether it is the one to ship now. It must be better than the
    /// network before training, and no worse than the best epoch by more than these images can tell: one standard error
    /// of the difference (after Breiman et al., "Classification and Regression Trees", 1984). Among such epochs the
    /// last one ships, since learning rates fall.
    pub fn judge(&mut self, epoch: usize, found: Judged) -> bool {
        let figure = found.figure;
        if self.before.is_some_and(|before| figure <= before) {
            return false;
        }
        let known = self.best.as_ref().map(|best| &best.found);
        let ships = known.is_none_or(|best| best.figure - figure <= best.noise(&found));
        if known.is_none_or(|best| figure > best.figure) {
            self.best = Some(Epoch { epoch, found });
        }
        if ships {
            self.chosen = Some(Epoch { epoch, found: figure });
        }
        ships
    }

    /// Enters the loss of a step; whether it has exploded: the mean of the last ten steps or so is ten times that of
    /// the first ten, and of a loss of ten.
    pub fn explodes(&mut self, loss: f64) -> bool {
        let watch = &mut self.watch;
        watch.steps += 1;
        let share = 1.0 / WINDOW.min(watch.steps as f64);
        watch.mean += share * (loss - watch.mean);
        if watch.steps as f64 <= WINDOW {
            watch.first = watch.mean;
        }
        watch.mean > EXPLODED * watch.first.max(LEAST)
    }

    /// Takes up a good state of this training after it diverged, with lower learning rates; whether that may be done
    /// once more.
    pub fn roll_back(&mut self, good: &Self) -> bool {
        let (rate, rollbacks) = (self.rate * SLOWER, self.rollbacks + 1);
        if self.rollbacks >= MAX_ROLLBACKS {
            return false;
        }
        *self = Self { rate, rollbacks, ..good.clone() };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Int8Epochs;

    #[test]
    fn the_best_epoch_must_be_better_than_the_start_and_patience_ends_the_wait() {
        let judged = |figure: f64| Judged { figure, without: vec![figure; 20] };
        let config = FitConfig { epochs: 10, patience: 2, ..FitConfig::default() };
        let mut course = Course { before: Some(0.5), ..Course::new() };
        let mut seen = Vec::new();
        for (epoch, figure) in [0.4, 0.6, 0.6, 0.55, 0.7].into_iter().enumerate() {
            if course.is_finished(&config) {
                break;
            }
            let better = course.judge(epoch, judged(figure));
            course.epoch += 1;
            seen.push(better);
        }
        // Of two that are alike the later one.
        assert_eq!(seen, [false, true, true, false]);
        assert_eq!(course.best, Some(Epoch { epoch: 1, found: judged(0.6) }));
        assert_eq!(course.chosen, Some(Epoch { epoch: 2, found: 0.6 }));
        assert!(!course.is_finished(&FitConfig { patience: 0, ..config.clone() }));
        // Epochs that train for int8 get their chance.
        let int8 = Int8Epochs { epochs: 6, ..Int8Epochs::default() };
        assert!(!course.is_finished(&FitConfig { int8, ..config.clone() }));
        assert!(!Course { before: None, ..course }.is_finished(&config), "nothing is judged");
    }

    #[test]
    fn the_last_epoch_ships_that_held_back_images_cannot_tell_from_the_best() {
        // Parts in which epochs differ by turns this way and that: a standard error of 19 / 20^0.5 of the swing.
        let judged = |figure: f64, swing: f64| {
            let without = (0..20).map(|part| figure + if part % 2 == 0 { swing } else { -swing }).collect();
            Judged { figure, without }
        };
        let chosen = |epochs: &[(f64, f64)]| {
            let mut course = Course { before: Some(0.5), ..Course::new() };
            epochs.iter().enumerate().for_each(|(epoch, (figure, swing))| {
                course.judge(epoch, judged(*figure, *swing));
            });
            course.chosen.map(|chosen| chosen.epoch)
        };
        assert_eq!(chosen(&[(0.60, 0.0), (0.59, 0.01)]), Some(1));
        assert_eq!(chosen(&[(0.60, 0.0), (0.59, 0.001)]), Some(0), "worse for sure");
        assert_eq!(chosen(&[(0.60, 0.0), (0.58, 0.001), (0.59, 0.01), (0.57, 0.0)]), Some(2));
        assert_eq!(chosen(&[(0.51, 0.0), (0.50, 0.1)]), Some(0), "never what was there before training");
        assert_eq!(chosen(&[(0.49, 0.0), (0.50, 0.1)]), None);
        // The best one counts, not the one that ships.
        assert_eq!(chosen(&[(0.60, 0.0), (0.57, 0.01), (0.54, 0.01)]), Some(1));
    }

    #[test]
    fn a_loss_explodes_by_its_mean_and_not_by_one_batch() {
        let mut course = Course::new();
        assert!((0..30).all(|i| !course.explodes(if i == 15 { 900.0 } else { 1.0 })));
        assert!((0..30).any(|_| course.explodes(200.0)));
        // A training from scratch begins with a loss that falls.
        let mut course = Course::new();
        assert!((0..200).all(|i| !course.explodes(5.0 / (1.0 + f64::from(i)))));
    }

    #[test]
    fn three_returns_are_all() {
        let good = Course { epoch: 3, before: Some(0.5), ..Course::new() };
        let mut course = Course { step: 7, ..good.clone() };
        let rates: Vec<f64> = std::iter::from_fn(|| course.roll_back(&good).then_some(course.rate)).collect();
        assert_eq!((rates.len(), course.epoch, course.step), (3, 3, 0));
        assert!(rates.windows(2).all(|w| w[1] < w[0]) && rates[0] < 1.0, "{rates:?}");
    }
}
