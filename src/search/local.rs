//! Moves of one or two variables with exact figures kept up to date.

use super::compile::Compiled;
use super::dual::violation;
use super::table::Figures;

/// A plan under change.
pub(super) struct State<'a> {
    pub problem: &'a Compiled,
    pub levels: Vec<usize>,
    pub figures: Figures,
    near: Vec<Vec<usize>>,
}

/// One variable to another level, and what that changes but for the memory steps.
#[derive(Clone, Copy)]
struct Move {
    variable: usize,
    level: usize,
    loss: f64,
    latency: f64,
    weight: f64,
}

/// Changes smaller than this share of the sum are rounding.
const ROUNDING: f64 = 1e-12;

impl<'a> State<'a> {
    /// Starts at a plan.
    pub fn new(problem: &'a Compiled, levels: Vec<usize>) -> Self {
        let figures = problem.figures(&levels);
        let near = (0..problem.len()).map(|v| {
            let mut all: Vec<usize> =
                problem.touching[v].iter().flat_map(|t| problem.tables[*t].scope.iter().copied()).collect();
            all.sort_unstable();
            all.dedup();
            all.retain(|w| *w != v);
            all
        });
        Self { near: near.collect(), problem, levels, figures }
    }

    /// Whether both budgets hold.
    pub fn fits(&self) -> bool {
        violation(self.problem, &self.figures) <= 0.0
    }

    /// Lowers the violation by the moves that cost least loss for it, until the plan fits. False where no move helps.
    pub fn repair(&mut self) -> bool {
        for _ in 0..4 * self.problem.sizes.iter().sum::<usize>() {
            let now = violation(self.problem, &self.figures);
            if now <= 0.0 {
                return true;
            }
            let mut best: Option<(f64, Move)> = None;
            for candidate in self.all_moves() {
                let after = self.violation_after(&candidate);
                if after >= now - 1e-12 {
                    continue;
                }
                // What counts is the part of the fall down to a fit.
                let fall = now - after.max(0.0);
                let price = (candidate.loss.max(0.0) + 1e-9) / fall;
                if best.as_ref().is_none_or(|(least, _)| price < *least) {
                    best = Some((price, candidate));
                }
            }
            let Some((_, chosen)) = best else { return false };
            self.set(chosen.variable, chosen.level);
        }
        self.fits()
    }

    /// Exchanges one or two levels as long as the loss falls and the plan fits. True if anything changed.
    pub fn improve(&mut self) -> bool {
        let mut changed = false;
        for _ in 0..10 * self.problem.sizes.iter().sum::<usize>() {
            if !self.improve_once() {
                break;
            }
            changed = true;
        }
        // Removes what rounding has accumulated.
        self.figures = self.problem.figures(&self.levels);
        changed
    }

    fn improve_once(&mut self) -> bool {
        let least = -ROUNDING * (1.0 + self.figures.loss);
        let moves = self.all_moves();
        let mut best: (f64, [Option<(usize, usize)>; 2]) = (least, [None, None]);
        for gain in moves.iter().filter(|m| m.loss < least) {
            if gain.loss < best.0 && self.fits_after(gain) {
                best = (gain.loss, [Some((gain.variable, gain.level)), None]);
            }
            // The gain is taken for a trial, then paid for elsewhere.
            let before = self.levels[gain.variable];
            if self.problem.latency_budget.is_some() || self.problem.memory_budget.is_some() {
                let held = self.figures.clone();
                self.set(gain.variable, gain.level);
                let near = &self.near[gain.variable];
                for pay in moves.iter().filter(|m| m.variable != gain.variable) {
                    if gain.loss + pay.loss >= best.0 {
                        continue;
                    }
                    let pay = if near.binary_search(&pay.variable).is_ok() {
                        self.weigh(pay.variable, pay.level)
                    } else {
                        *pay
                    };
                    if self.fits_after(&pay) {
                        let pair = [Some((gain.variable, gain.level)), Some((pay.variable, pay.level))];
                        best = (gain.loss + pay.loss, pair);
                    }
                }
                self.levels[gain.variable] = before;
                self.figures = held;
            }
        }
        best.1.iter().flatten().for_each(|(variable, level)| self.set(*variable, *level));
        best.1[0].is_some()
    }

    /// All plans one or two moves away that fit, with their loss, the least first; at most `count`.
    pub fn neighbours(&mut self, count: usize) -> Vec<(f64, Vec<usize>)> {
        let moves = self.all_moves();
        let mut found: Vec<(f64, Vec<usize>)> = Vec::new();
        let keep = |found: &mut Vec<(f64, Vec<usize>)>| {
            found.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            found.dedup();
            found.truncate(count);
        };
        for first in &moves {
            let before = self.levels[first.variable];
            if self.fits_after(first) {
                let mut levels = self.levels.clone();
                levels[first.variable] = first.level;
                found.push((self.figures.loss + first.loss, levels));
            }
            let held = self.figures.clone();
            self.set(first.variable, first.level);
            for second in moves.iter().filter(|m| m.variable > first.variable) {
                let second = self.weigh(second.variable, second.level);
                if self.fits_after(&second) {
                    let mut levels = self.levels.clone();
                    levels[second.variable] = second.level;
                    found.push((self.figures.loss + second.loss, levels));
                }
            }
            self.levels[first.variable] = before;
            self.figures = held;
            keep(&mut found);
        }
        keep(&mut found);
        found
    }

    /// Variables that share a table with this one.
    pub fn near(&self, variable: usize) -> &[usize] {
        &self.near[variable]
    }

    /// Changes one level.
    pub fn set(&mut self, variable: usize, level: usize) {
        let change = self.weigh(variable, level);
        let before = self.levels[variable];
        self.figures.loss += change.loss;
        self.figures.latency += change.latency;
        self.figures.weight += change.weight;
        for (t, at) in &self.problem.live[variable] {
            let bytes = &self.problem.steps[*t].terms[*at].1;
            self.figures.steps[*t] += bytes[level] - bytes[before];
        }
        self.levels[variable] = level;
    }

    fn all_moves(&self) -> Vec<Move> {
        let of = |v: usize| (0..self.problem.sizes[v]).filter(move |k| *k != self.levels[v]).map(move |k| (v, k));
        (0..self.problem.len()).flat_map(of).map(|(v, k)| self.weigh(v, k)).collect()
    }

    fn weigh(&self, variable: usize, level: usize) -> Move {
        let before = self.levels[variable];
        let loss = self.problem.loss[variable][level] - self.problem.loss[variable][before];
        let (mut latency, mut weight) = (0.0, 0.0);
        for table in self.problem.touching[variable].iter().map(|t| &self.problem.tables[*t]) {
            let now = table.entry(&self.levels);
            let at = table.scope.iter().position(|v| *v == variable).map_or(0, |at| table.strides[at]);
            let then = now + level * at - before * at;
            latency += table.latency[then] - table.latency[now];
            weight += table.weight[then] - table.weight[now];
        }
        Move { variable, level, loss, latency, weight }
    }

    fn fits_after(&self, change: &Move) -> bool {
        let slow = self.problem.latency_budget.is_some_and(|most| self.figures.latency + change.latency > most);
        !slow && self.violation_after(change) <= 0.0
    }

    fn violation_after(&self, change: &Move) -> f64 {
        let problem = self.problem;
        let mut worst = f64::NEG_INFINITY;
        if let Some(most) = problem.latency_budget {
            worst = (self.figures.latency + change.latency - most) / problem.latency_scale;
        }
        if let Some(most) = problem.memory_budget {
            let (variable, before) = (change.variable, self.levels[change.variable]);
            let mut live = problem.live[variable].iter().peekable();
            let mut peak: f64 = 0.0;
            for (t, load) in self.figures.steps.iter().enumerate() {
                let mut load = *load;
                if let Some((_, at)) = live.next_if(|(step, _)| *step == t) {
                    let bytes = &problem.steps[t].terms[*at].1;
                    load += bytes[change.level] - bytes[before];
                }
                peak = peak.max(load);
            }
            let memory = self.figures.weight + change.weight + peak;
            worst = worst.max((memory - most) / problem.memory_scale);
        }
        worst
    }
}
