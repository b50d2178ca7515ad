//! What the search is asked for, so that the plan uses what is allowed and holds when it is judged.
//!
//! A plan is measured as the verdict will measure it: the same statistic of as many frames. The verdict takes frames of its
//! own, so a plan must be below the budget by a safety margin: what two such measurements and a third one differ by chance.
//! How much that is, the frames themselves say. A plan is good enough when it was measured twice as holding and its
//! utilisation is [`LEAST_UTILISATION`] of what is allowed.

use crate::pipeline::timing::{PairedLatency, bound, percentile};
use crate::report::Budget;
use crate::search::SearchBudget;
use serde::{Deserialize, Serialize};

/// What the search is asked for, in its own figures; corrected by what is measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct SearchTarget {
    /// Predicted milliseconds, and bytes of weights and live activations.
    pub budget: SearchBudget,
    /// Bytes of the weights alone; no limit without.
    pub weight_bytes: Option<f64>,
}

/// The least share of what is allowed that a plan should use.
pub const LEAST_UTILISATION: f64 = 0.985;

/// The safety margin below the budget in standard errors of a measurement: the mean of two and a third one differ by less
/// in 95 of 100 cases (1.645 times the root of 1 + 1/2).
const MARGIN: f64 = 2.0;

/// The bounds of the safety margin: differences between two runs of the same program that no frame shows, and what leaves
/// room above [`LEAST_UTILISATION`].
const LEAST_MARGIN: f64 = 0.001;
const MOST_MARGIN: f64 = 0.010;

/// One-sided 95 % of a normal distribution, in standard errors.
const CONFIDENCE: f64 = 1.645;

/// The standard error of a measurement that cannot say it.
const UNKNOWN: f64 = MOST_MARGIN / MARGIN;

/// The distance between a budget that held and one that was missed, as a share, below which the offered widths allow
/// nothing between them.
const FINEST: f64 = 5e-4;

/// How much of the budgets of latency and energy a plan uses, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Utilisation {
    /// The figure that the verdict judges, as a share of what is allowed.
    pub share: f64,
    /// Standard error of the share; 0 where nothing was measured.
    pub noise: f64,
}

impl Utilisation {
    /// The greatest share of the budgets of latency and energy; none without any.
    pub fn of(budget: &Budget, pair: &PairedLatency) -> Option<Self> {
        let used = |limit: f64, point: f64, figure: f64, bound: Option<f64>| {
            let noise = bound.map_or(UNKNOWN, |bound| ((bound - point) / point.max(1e-9) / CONFIDENCE).max(0.0));
            Self { share: figure / limit, noise }
        };
        let by_millis = budget.latency_ms.map(|limit| {
            let (point, bound) = (percentile(&pair.pruned, budget.percentile), bound(&pair.pruned, budget.percentile));
            used(limit, point, bound.unwrap_or(point), bound)
        });
        let by_ratio = budget.latency_ratio.map(|limit| used(limit, pair.ratio, pair.ratio, pair.ratio_bound));
        let by_energy = budget.energy_mj.zip(pair.energy.as_ref()).map(|(limit, energy)| {
            used(limit, energy.pruned.p50_mj, energy.pruned.judged_mj(), energy.pruned.p50_bound_mj)
        });
        [by_millis, by_ratio, by_energy].into_iter().flatten().reduce(|a, b| if a.share >= b.share { a } else { b })
    }

    /// Two measurements of one plan; one that missed the budget speaks alone.
    pub fn twice(self, other: Self) -> Self {
        let noise = self.noise.max(other.noise).max((self.share - other.share).abs() / 2.0);
        let share = if other.share > 1.0 { other.share } else { (self.share + other.share) / 2.0 };
        Self { share, noise }
    }

    /// How far below the budget the figure must be.
    pub fn margin(&self) -> f64 {
        if self.noise > 0.0 { (MARGIN * self.noise).clamp(LEAST_MARGIN, MOST_MARGIN) } else { 0.0 }
    }

    /// Whether the plan can be expected to hold when it is judged.
    pub fn holds(&self) -> bool {
        self.share <= 1.0 - self.margin()
    }

    /// Whether it should be measured again: it holds so far, and uses nearly what is allowed.
    pub fn is_close(&self) -> bool {
        self.share <= 1.0 && self.share >= LEAST_UTILISATION - MOST_MARGIN
    }
}

/// Measures a plan as the verdict will: twice where one measurement cannot decide.
pub fn measured<E>(measure: &mut dyn FnMut() -> Result<Utilisation, E>) -> Result<Utilisation, E> {
    let first = measure()?;
    if first.noise > 0.0 && first.is_close() { Ok(first.twice(measure()?)) } else { Ok(first) }
}

/// What is known of the predicted milliseconds that the search may use: the greatest whose plan held, and the least whose plan
/// did not. What is measured between them is a staircase.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bracket {
    pub held: Option<f64>,
    pub missed: Option<f64>,
}

impl Bracket {
    /// Enters what was measured of the plan for some predicted milliseconds, and says which to try next; none when the plan
    /// is good enough, or nothing is left to try.
    pub fn next(&mut self, millis: f64, used: &Utilisation) -> Option<f64> {
        if used.holds() {
            if used.share >= LEAST_UTILISATION {
                self.held = Some(millis);
                return None;
            }
            self.held = Some(self.held.map_or(millis, |known| known.max(millis)));
        } else {
            self.missed = Some(self.missed.map_or(millis, |known| known.min(millis)));
        }
        let goal = (LEAST_UTILISATION + 1.0 - used.margin()) / 2.0;
        let straight = millis * goal / used.share.max(1e-9);
        match (self.held, self.missed) {
            (Some(held), Some(missed)) if held < missed => {
                let edge = 0.1 * (missed - held);
                let inside = straight > held + edge && straight < missed - edge;
                (missed - held > FINEST * missed).then_some(if inside { straight } else { (held + missed) / 2.0 })
            }
            (Some(_), Some(_)) => {
                // One of both was chance: the plan is closer to the budget than the noise.
                *self = if used.holds() { Self { missed: None, ..*self } } else { Self { held: None, ..*self } };
                Some(straight)
            }
            _ => Some(straight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{PairedTimes, Samples};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// A device that was never seen: its times are powers of the predicted ones, in steps of the widths that are offered, with
    /// frames that are noisy and resemble the frame before.
    struct Device {
        rng: StdRng,
        noise: f64,
        tails: f64,
        exponent: f64,
        step: f64,
    }

    impl Device {
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.rng.random_range(0.0..1.0)).sum::<f64>() - 6.0
        }

        /// The true latency of the plan for some predicted milliseconds, over the baseline network's.
        fn truth(&self, millis: f64) -> f64 {
            ((millis / self.step).floor() * self.step / 10.0).powf(self.exponent)
        }

        fn measure(&mut self, millis: f64, runs: usize) -> PairedLatency {
            let (truth, mut state) = (self.truth(millis), 0.0);
            let mut samples = [Samples::default(), Samples::default()];
            for _ in 0..runs {
                state = 0.4 * state + 0.9 * self.normal();
                for (samples, base) in samples.iter_mut().zip([10.0, 10.0 * truth]) {
                    let stall = if self.rng.random_bool(0.03) { self.tails } else { 0.0 };
                    let ms = base * (1.0 + self.noise * (state + self.normal()) + stall);
                    samples.wall.push(ms);
                    samples.cpu.push(ms);
                }
            }
            let pair = PairedTimes::of(&samples[0], &samples[1]);
            PairedLatency::from(pair)
        }

        /// Plans for a budget as a job does; the plan's predicted milliseconds, and what was measured of it.
        fn plan(&mut self, budget: &Budget, first: f64, runs: usize) -> Option<(f64, Utilisation)> {
            let (mut bracket, mut millis, mut best) = (Bracket::default(), first, None::<(f64, Utilisation)>);
            for _ in 0..7 {
                let used =
                    measured::<()>(&mut || Ok(Utilisation::of(budget, &self.measure(millis, runs)).unwrap())).unwrap();
                if used.holds() && best.is_none_or(|(known, _)| millis > known) {
                    best = Some((millis, used));
                }
                match bracket.next(millis, &used) {
                    Some(next) => millis = next,
                    None => break,
                }
            }
            best
        }
    }

    fn ratio(limit: f64) -> Budget {
        Budget { latency_ratio: Some(limit), ..Budget::default() }
    }

    /// Over many seeds and machines: plans use 0.985 of what is allowed, and hold when they are judged by frames of their
    /// own.
    #[test]
    fn plans_use_what_is_allowed_and_hold_when_judged() {
        for (noise, exponent, step) in [(0.004, 1.0, 0.01), (0.01, 1.15, 0.01), (0.01, 0.8, 0.02)] {
            let (mut full, mut held, mut planned) = (0, 0, 0);
            for seed in 0..60 {
                let limit = [0.9, 0.8, 0.5][seed % 3];
                let rng = StdRng::seed_from_u64(seed as u64);
                let mut device = Device { rng, noise, tails: 0.1, exponent, step };
                let Some((millis, used)) = device.plan(&ratio(limit), 10.0 * limit, 300) else { continue };
                planned += 1;
                assert!(used.share <= 1.0);
                full += usize::from(
                    device.truth(millis) >= LEAST_UTILISATION * limit - 0.002 && used.share >= LEAST_UTILISATION,
                );
                held += usize::from(device.measure(millis, 300).ratio <= limit);
            }
            let what = format!("noise {noise}: of {planned}, {full} use what is allowed, {held} hold");
            assert!(planned == 60 && full >= 55 && held >= 55, "{what}");
        }
    }

    /// Milliseconds of a percentile are planned by the bound that the verdict takes, of as many frames.
    #[test]
    fn a_percentile_is_planned_as_it_is_judged() {
        for percentile in [50, 95, 99] {
            let runs = if percentile == 99 { 1000 } else { 300 };
            let (mut held, mut planned) = (0, 0);
            for seed in 0..40 {
                let rng = StdRng::seed_from_u64(100 + seed);
                let mut device = Device { rng, noise: 0.004, tails: 0.05, exponent: 1.1, step: 0.01 };
                let budget = Budget { latency_ms: Some(8.0), percentile, ..Budget::default() };
                // The first target takes the point estimate for the bound: plans that stop there miss.
                let Some((millis, _)) = device.plan(&budget, 8.0, runs) else { continue };
                planned += 1;
                held += usize::from(Utilisation::of(&budget, &device.measure(millis, runs)).unwrap().share <= 1.0);
            }
            assert!(planned == 40 && held >= 34, "p{percentile}: {held} of {planned} hold");
        }
    }

    #[test]
    fn the_margin_is_that_of_the_noise() {
        let used = |share, noise| Utilisation { share, noise };
        assert!(used(1.0, 0.0).holds() && !used(1.0, 0.001).holds());
        assert_eq!((used(1.0, 0.002).margin(), used(1.0, 1.0).margin()), (0.004, MOST_MARGIN));
        // Twice as holding; once is not enough.
        let mut turns = [used(0.99, 0.001), used(1.02, 0.001)].into_iter();
        let found = measured::<()>(&mut || turns.next().ok_or(())).unwrap();
        assert!(!found.holds() && found.share == 1.02);
        let mut turns = [used(0.992, 0.001), used(0.990, 0.001)].into_iter();
        assert!(measured::<()>(&mut || turns.next().ok_or(())).unwrap().holds());
    }

    /// A staircase without a step in the last 1.5 %: the search ends, with the greatest that held.
    #[test]
    fn where_the_widths_allow_no_more_the_search_ends() {
        let (mut bracket, mut millis, mut turns) = (Bracket::default(), 9.0, 0);
        let stairs = |millis: f64| Utilisation { share: if millis >= 8.7 { 1.01 } else { 0.95 }, noise: 0.001 };
        while let Some(next) = bracket.next(millis, &stairs(millis)) {
            (millis, turns) = (next, turns + 1);
            assert!(turns < 20);
        }
        assert!(bracket.held.is_some_and(|ms| ms < 8.7 && ms > 8.69));
    }
}
