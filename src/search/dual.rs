//! The best multipliers for the budgets, by smoothed cutting planes.

use super::compile::Compiled;
use super::elimination::{Potentials, Weights};
use super::master::{Column, mix};
use super::table::Figures;
use std::collections::HashSet;

/// The most that all multipliers may sum up to, in units of the greatest possible loss per relative excess.
pub(super) const PRICE: f64 = 1e6;

/// Share of the best known multipliers in the next ones to try.
const SMOOTHING: f64 = 0.5;

/// The most memory steps with a multiplier of their own.
const MAX_ROWS: usize = 48;

/// The most plans that are mixed when an ascent starts from known multipliers.
const MAX_COLUMNS: usize = 60;

/// A limit that a plan has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Latency,
    Step(usize),
}

/// Multipliers of the rows. The excess over a row is relative to its budget, the loss to `scale`.
#[derive(Clone, Debug, Default)]
pub(super) struct Multipliers {
    pub rows: Vec<(Row, f64)>,
}

/// A plan that was met, with its figures.
#[derive(Clone)]
pub(super) struct Seen {
    pub levels: Vec<usize>,
    pub figures: Figures,
}

/// The state of the ascent; plans and rows are kept from one objective to the next.
pub(super) struct Dual<'a> {
    pub problem: &'a Compiled,
    /// Plans met so far, none twice.
    pub seen: Vec<Seen>,
    known: HashSet<Vec<usize>>,
    /// How many of the plans met have their greatest memory step among the rows.
    covered: usize,
    rows: Vec<Row>,
    /// Divides the loss, so that it is of the order of the relative excesses.
    pub scale: f64,
    /// Variables that are held within a range of levels: variable, first and last level.
    pub ranges: Vec<(usize, usize, usize)>,
    potentials: Potentials,
}

/// The outcome of an ascent.
pub(super) struct Ascent {
    /// No plan has a lower value of the objective (in units of `scale`).
    pub bound: f64,
    pub multipliers: Multipliers,
    /// The mixture of known plans that is best within the ranges: plan and its share.
    pub mixture: Vec<(usize, f64)>,
}

/// When to end an ascent.
pub(super) struct Effort<'m> {
    /// The most evaluations.
    pub steps: usize,
    /// A bound that is good enough.
    pub enough: f64,
    /// Multipliers to begin with.
    pub start: Option<&'m Multipliers>,
}

impl Effort<'_> {
    /// So many evaluations from scratch.
    pub fn steps(steps: usize) -> Self {
        Self { steps, enough: f64::INFINITY, start: None }
    }
}

impl<'a> Dual<'a> {
    /// Starts with the plan of least loss.
    pub fn new(problem: &'a Compiled) -> Self {
        let widest = |loss: &Vec<f64>| loss.iter().copied().fold(0.0, f64::max);
        let scale: f64 = problem.loss.iter().map(widest).sum();
        let scale = if scale > 0.0 { scale } else { 1.0 };
        let weights = Weights { loss: 1.0, ..Weights::default() };
        let potentials = Potentials::new(problem, &weights);
        let rows = problem.latency_budget.map(|_| Row::Latency).into_iter().collect();
        let (seen, known, ranges) = (Vec::new(), HashSet::new(), Vec::new());
        let mut new = Self { problem, seen, known, covered: 0, rows, scale, ranges, potentials };
        let least: Vec<usize> = problem.loss.iter().map(|loss| lowest(loss)).collect();
        new.learn(least);
        new
    }

    /// Takes a plan among the cutting planes; false if it was known.
    pub fn learn(&mut self, levels: Vec<usize>) -> bool {
        if !self.known.insert(levels.clone()) {
            return false;
        }
        let figures = self.problem.figures(&levels);
        self.seen.push(Seen { levels, figures });
        true
    }

    /// Ascends. `objective` is 1 for the loss, or 0 for the greatest relative excess alone, which then is the value.
    /// `price` bounds the sum of the multipliers.
    pub fn ascend(&mut self, objective: f64, price: f64, effort: &Effort) -> Ascent {
        let mut best = Ascent { bound: f64::NEG_INFINITY, multipliers: Multipliers::default(), mixture: Vec::new() };
        let mut smoothing = 0.0;
        self.cover();
        let mut usable = self.usable(objective, effort.start);
        if let Some(start) = effort.start {
            let (bound, levels) = self.ask(objective, start);
            self.cover_one(&self.problem.figures(&levels));
            usable.extend(self.learn(levels).then(|| self.seen.len() - 1));
            best = Ascent { bound, multipliers: start.clone(), ..best };
            smoothing = SMOOTHING;
        }
        for _ in 0..effort.steps {
            let (value, proposed, mixture) = self.propose(objective, price, &usable);
            best.mixture = mixture;
            if best.bound >= effort.enough || best.bound >= value - 1e-9 * value.abs().max(1e-3) {
                break;
            }
            let asked = blend(&proposed, &best.multipliers, smoothing);
            let (bound, levels) = self.ask(objective, &asked);
            let improved = bound > best.bound + 1e-12;
            if improved {
                best = Ascent { bound, multipliers: asked, ..best };
            }
            let new_row = self.cover_one(&self.problem.figures(&levels));
            let new = self.learn(levels);
            usable.extend(new.then(|| self.seen.len() - 1));
            if !new && !new_row && !improved {
                if smoothing == 0.0 {
                    break;
                }
                // The smoothed point says nothing new: ask at the proposal itself.
                smoothing = 0.0;
                continue;
            }
            smoothing = if best.multipliers.rows.is_empty() { 0.0 } else { SMOOTHING };
        }
        best
    }

    /// The dual at given multipliers: bound and minimiser.
    pub fn ask(&mut self, objective: f64, multipliers: &Multipliers) -> (f64, Vec<usize>) {
        let (weights, constant) = self.weights(objective, multipliers);
        self.potentials.update_within(self.problem, &weights, &self.ranges);
        let bound = self.potentials.bound - constant;
        // Rounding must not lift the bound above the truth.
        let margin = 1e-12 * (self.potentials.bound.abs() + constant.abs());
        (bound - margin, self.potentials.minimiser(self.problem))
    }

    /// The weights of all functions at given multipliers, and the constant to subtract.
    pub fn weights(&self, objective: f64, multipliers: &Multipliers) -> (Weights, f64) {
        let mut weights = Weights { loss: objective / self.scale, ..Weights::default() };
        let mut constant = 0.0;
        for (row, multiplier) in multipliers.rows.iter().filter(|(_, m)| *m > 0.0) {
            let share = multiplier / scale_of(self.problem, *row);
            constant += share * budget(self.problem, *row);
            match row {
                Row::Latency => weights.latency += share,
                Row::Step(t) => {
                    weights.weight += share;
                    weights.steps.push((*t, share));
                }
            }
        }
        (weights, constant)
    }

    /// The plans within the ranges; where there are many, those closest to the minimum at the multipliers.
    fn usable(&self, objective: f64, multipliers: Option<&Multipliers>) -> Vec<usize> {
        let inside =
            |seen: &Seen| self.ranges.iter().all(|(v, first, last)| (first..=last).contains(&&seen.levels[*v]));
        let mut usable: Vec<usize> = (0..self.seen.len()).filter(|at| inside(&self.seen[*at])).collect();
        if let Some(multipliers) = multipliers.filter(|_| usable.len() > MAX_COLUMNS) {
            let (weights, _) = self.weights(objective, multipliers);
            let mut valued: Vec<(f64, usize)> =
                usable.into_iter().map(|at| (weights.value(&self.seen[at].figures), at)).collect();
            valued.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            usable = valued.into_iter().take(MAX_COLUMNS).map(|(_, at)| at).collect();
        }
        usable
    }

    /// The value that the dual cannot exceed, the multipliers there, and the best mixture of the usable plans.
    fn propose(&self, objective: f64, price: f64, usable: &[usize]) -> (f64, Multipliers, Vec<(usize, f64)>) {
        if usable.is_empty() {
            return (
                f64::INFINITY,
                Multipliers { rows: self.rows.iter().map(|row| (*row, 0.0)).collect() },
                Vec::new(),
            );
        }
        let column = |at: &usize| {
            let figures = &self.seen[*at].figures;
            let excess = self.rows.iter().map(|row| excess(self.problem, *row, figures)).collect();
            Column { cost: objective * figures.loss / self.scale, excess }
        };
        let columns: Vec<Column> = usable.iter().map(column).collect();
        let mixture = mix(&columns, self.rows.len(), price);
        let rows = self.rows.iter().copied().zip(mixture.multipliers).collect();
        let shares = usable.iter().copied().zip(mixture.shares).filter(|(_, share)| *share > 0.0);
        (mixture.value, Multipliers { rows }, shares.collect())
    }

    /// Adds the greatest memory step of every plan met to the rows.
    fn cover(&mut self) {
        for at in self.covered..self.seen.len() {
            let figures = self.seen[at].figures.clone();
            self.cover_one(&figures);
        }
        self.covered = self.seen.len();
    }

    /// Adds the plan's greatest memory step to the rows; true if it is new.
    fn cover_one(&mut self, figures: &Figures) -> bool {
        if self.problem.memory_budget.is_none() || self.rows.len() >= MAX_ROWS {
            return false;
        }
        let greatest = (0..figures.steps.len()).max_by(|a, b| figures.steps[*a].total_cmp(&figures.steps[*b]));
        let Some(row) = greatest.map(Row::Step).filter(|row| !self.rows.contains(row)) else { return false };
        self.rows.push(row);
        true
    }
}

/// The index of the least value, the last among equals: the widest.
fn lowest(values: &[f64]) -> usize {
    (0..values.len()).rev().min_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

fn budget(problem: &Compiled, row: Row) -> f64 {
    let limit = if row == Row::Latency { problem.latency_budget } else { problem.memory_budget };
    limit.unwrap_or(f64::INFINITY)
}

/// What excesses are relative to.
fn scale_of(problem: &Compiled, row: Row) -> f64 {
    if row == Row::Latency { problem.latency_scale } else { problem.memory_scale }
}

/// How far the figures are above a row's budget, relative to it.
fn excess(problem: &Compiled, row: Row, figures: &Figures) -> f64 {
    let value = match row {
        Row::Latency => figures.latency,
        Row::Step(t) => figures.weight + figures.steps[t],
    };
    (value - budget(problem, row)) / scale_of(problem, row)
}

/// The greatest relative excess over both budgets; at most 0 where the plan fits.
pub(super) fn violation(problem: &Compiled, figures: &Figures) -> f64 {
    let mut worst = f64::NEG_INFINITY;
    if let Some(most) = problem.latency_budget {
        worst = worst.max((figures.latency - most) / problem.latency_scale);
    }
    if let Some(most) = problem.memory_budget {
        worst = worst.max((figures.memory() - most) / problem.memory_scale);
    }
    worst
}

/// `(1 - share) * proposed + share * known`, row by row.
fn blend(proposed: &Multipliers, known: &Multipliers, share: f64) -> Multipliers {
    let of = |row: &Row| known.rows.iter().find(|(r, _)| r == row).map_or(0.0, |(_, value)| *value);
    let rows = proposed.rows.iter().map(|(row, value)| (*row, (1.0 - share) * value + share * of(row)));
    Multipliers { rows: rows.collect() }
}
