//! Exact minimisation of a sum of tables by eliminating one variable after another, or a lower bound of it where the
//! tables would grow too large.

use super::buckets::{Bucket, Mini, Source};
use super::compile::Compiled;
use super::table::Figures;

/// The weights of the functions that are added up and minimised.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Weights {
    pub loss: f64,
    pub latency: f64,
    pub weight: f64,
    /// Memory steps and their weights.
    pub steps: Vec<(usize, f64)>,
}

impl Weights {
    /// The weighted sum of a plan's figures.
    pub fn value(&self, figures: &Figures) -> f64 {
        let steps: f64 = self.steps.iter().map(|(t, share)| share * figures.steps[*t]).sum();
        self.loss * figures.loss + self.latency * figures.latency + self.weight * figures.weight + steps
    }
}

/// The summed functions and all messages of one elimination.
pub(super) struct Potentials {
    unary: Vec<Vec<f64>>,
    tables: Vec<Vec<f64>>,
    messages: Vec<Vec<f64>>,
    /// The minimum (a lower bound of it where the plan is not exact).
    pub bound: f64,
}

impl Potentials {
    /// Eliminates everything under the given weights.
    pub fn new(problem: &Compiled, weights: &Weights) -> Self {
        let plan = &problem.plan;
        let mut new = Self {
            unary: problem.sizes.iter().map(|size| vec![0.0; *size]).collect(),
            tables: problem.tables.iter().map(|table| vec![0.0; table.latency.len()]).collect(),
            messages: plan.messages.iter().map(|entries| vec![0.0; *entries]).collect(),
            bound: 0.0,
        };
        new.update(problem, weights);
        new
    }

    /// Eliminates again under other weights, in the same buffers.
    pub fn update(&mut self, problem: &Compiled, weights: &Weights) {
        self.update_within(problem, weights, &[]);
    }

    /// As [`Self::update`], with some variables held within a range of levels: variable, first and last level.
    pub fn update_within(&mut self, problem: &Compiled, weights: &Weights, ranges: &[(usize, usize, usize)]) {
        for (unary, loss) in self.unary.iter_mut().zip(&problem.loss) {
            unary.iter_mut().zip(loss).for_each(|(u, l)| *u = weights.loss * l);
        }
        let mut constant = 0.0;
        for (t, share) in &weights.steps {
            let step = &problem.steps[*t];
            constant += share * step.constant;
            for (v, bytes) in &step.terms {
                self.unary[*v].iter_mut().zip(bytes).for_each(|(u, b)| *u += share * b);
            }
        }
        for (v, first, last) in ranges {
            let outside = self.unary[*v].iter_mut().enumerate().filter(|(level, _)| !(first..=last).contains(&level));
            outside.for_each(|(_, u)| *u = f64::INFINITY);
        }
        for (sum, table) in self.tables.iter_mut().zip(&problem.tables) {
            let both = table.latency.iter().zip(&table.weight);
            sum.iter_mut().zip(both).for_each(|(s, (t, w))| *s = weights.latency * t + weights.weight * w);
        }
        self.bound = constant;
        let mut buffer = Vec::new();
        for mini in problem.plan.buckets.iter().flat_map(|bucket| &bucket.minis) {
            let mut message = std::mem::take(&mut self.messages[mini.out]);
            self.eliminate(mini, &mut buffer, &mut message);
            if mini.scope.is_empty() {
                self.bound += message[0];
            }
            self.messages[mini.out] = message;
        }
    }

    fn source(&self, source: Source, variable: usize) -> &[f64] {
        match source {
            Source::Unary => &self.unary[variable],
            Source::Table(index) => &self.tables[index],
            Source::Message(index) => &self.messages[index],
        }
    }

    fn eliminate(&self, mini: &Mini, buffer: &mut Vec<f64>, message: &mut [f64]) {
        let size = mini.sizes.last().copied().unwrap_or(1);
        buffer.clear();
        buffer.resize(message.len() * size, 0.0);
        let outer = &mini.sizes[..mini.sizes.len() - 1];
        for part in &mini.parts {
            let source = self.source(part.source, mini.own);
            match size {
                8 => add::<8>(buffer, source, outer, &part.strides),
                4 => add::<4>(buffer, source, outer, &part.strides),
                _ => add_any(buffer, source, outer, &part.strides, size),
            }
        }
        for (least, row) in message.iter_mut().zip(buffer.chunks_exact(size)) {
            *least = row.iter().fold(f64::INFINITY, |least, value| if *value < least { *value } else { least });
        }
    }

    /// What every level of the bucket's variable adds to the bound of a partial plan, given the levels of all
    /// variables eliminated later. At least 0 but for rounding.
    pub fn rises(&self, bucket: &Bucket, levels: &[usize], rises: &mut Vec<f64>) {
        rises.clear();
        rises.resize(self.unary[bucket.variable].len(), 0.0);
        for mini in &bucket.minis {
            for part in &mini.parts {
                let source = self.source(part.source, bucket.variable);
                let offset: usize = mini.scope.iter().zip(&part.strides).map(|(v, s)| levels[*v] * s).sum();
                rises.iter_mut().zip(&source[offset..]).for_each(|(sum, value)| *sum += value);
            }
            let entry: usize = mini.scope.iter().zip(&mini.strides).map(|(v, s)| levels[*v] * s).sum();
            let counted = self.messages[mini.out][entry];
            rises.iter_mut().for_each(|sum| *sum -= counted);
        }
    }

    /// The plan that attains the minimum (close to it where the plan of elimination is not exact).
    pub fn minimiser(&self, problem: &Compiled) -> Vec<usize> {
        let mut levels = vec![0; problem.len()];
        let mut rises = Vec::new();
        for bucket in problem.plan.buckets.iter().rev() {
            self.rises(bucket, &levels, &mut rises);
            let least = (0..rises.len()).min_by(|a, b| rises[*a].total_cmp(&rises[*b]));
            levels[bucket.variable] = least.unwrap_or(0);
        }
        levels
    }
}

/// Adds a part to every row of the buffer. Every part of a bucket depends on its variable, whose stride is 1 by the
/// layout of scopes.
fn add_any(buffer: &mut [f64], source: &[f64], outer: &[usize], strides: &[usize], size: usize) {
    let mut rows = buffer.chunks_exact_mut(size);
    for_offsets(outer, strides, |offset| {
        let Some(row) = rows.next() else { return };
        row.iter_mut().zip(&source[offset..offset + size]).for_each(|(sum, value)| *sum += value);
    });
}

/// As [`add_any`] for a known number of levels.
fn add<const N: usize>(buffer: &mut [f64], source: &[f64], outer: &[usize], strides: &[usize]) {
    let (rows, _) = buffer.as_chunks_mut::<N>();
    let (source, _) = source.as_chunks::<N>();
    let mut rows = rows.iter_mut();
    // All strides but the variable's own are multiples of its size.
    for_offsets(outer, strides, |offset| {
        let Some(row) = rows.next() else { return };
        let values = &source[offset / N];
        (0..N).for_each(|i| row[i] += values[i]);
    });
}

/// Calls with the offset of every combination of the outer axes, the last running fastest.
fn for_offsets(outer: &[usize], strides: &[usize], mut visit: impl FnMut(usize)) {
    let Some((last, before)) = outer.split_last() else { return visit(0) };
    let stride = strides[before.len()];
    let mut at = vec![0; before.len()];
    let mut offset = 0;
    for _ in 0..before.iter().product::<usize>() {
        for step in 0..*last {
            visit(offset + step * stride);
        }
        for axis in (0..before.len()).rev() {
            at[axis] += 1;
            offset += strides[axis];
            if at[axis] < before[axis] {
                break;
            }
            offset -= strides[axis] * before[axis];
            at[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compile::{Compiled, Parts, Terms};
    use super::*;

    /// A ring of five variables with three levels, and a chord.
    fn ring(max_table: usize) -> Compiled {
        let value = |a: usize, entry: usize| ((a * 31 + entry * 17 + 5) % 23) as f64;
        let mut terms = Terms::new();
        for (index, scope) in [[0, 1], [1, 2], [2, 3], [3, 4], [0, 4], [1, 3]].into_iter().enumerate() {
            let times = (0..9).map(|entry| value(index, entry)).collect();
            let weights = (0..9).map(|entry| value(index + 7, entry)).collect();
            terms.insert(scope.to_vec(), (times, weights));
        }
        let loss = (0..5).map(|v| (0..3).map(|level| value(v, 2 * level)).collect()).collect();
        let (latency_budget, memory_budget) = (Some(1.0), Some(1.0));
        let (latency_scale, memory_scale) = (1.0, 1.0);
        let parts = Parts { loss, terms, steps: vec![], latency_budget, memory_budget, latency_scale, memory_scale };
        Compiled::new(parts, max_table)
    }

    #[test]
    fn the_minimum_is_that_of_enumeration_and_split_tables_stay_below() {
        let weights = Weights { loss: 1.0, latency: 0.7, weight: 0.3, steps: vec![] };
        // Sizes of the largest table allowed, and whether that is enough.
        for (max_table, exact) in [(1000, true), (9, false)] {
            let problem = ring(max_table);
            let all = (0..3usize.pow(5)).map(|n| (0..5).map(|v| n / 3usize.pow(v) % 3).collect::<Vec<_>>());
            let least = all.map(|plan| weights.value(&problem.figures(&plan))).fold(f64::INFINITY, f64::min);
            let found = Potentials::new(&problem, &weights);
            assert_eq!(problem.plan.exact, exact, "{max_table}");
            assert!(found.bound <= least + 1e-9, "{max_table}: {} over {least}", found.bound);
            let plan = found.minimiser(&problem);
            let value = weights.value(&problem.figures(&plan));
            assert!(value >= least - 1e-9, "{max_table}");
            if exact {
                assert!((found.bound - least).abs() < 1e-9, "{} for {least}", found.bound);
                assert!((value - least).abs() < 1e-9, "{value} for {least}");
            }
        }
    }

    #[test]
    fn ranges_hold() {
        let problem = ring(1000);
        let weights = Weights { loss: 1.0, latency: 1.0, ..Weights::default() };
        let mut found = Potentials::new(&problem, &weights);
        for level in 0..3 {
            found.update_within(&problem, &weights, &[(2, level, level)]);
            let plan = found.minimiser(&problem);
            assert_eq!(plan[2], level);
            assert!((weights.value(&problem.figures(&plan)) - found.bound).abs() < 1e-9);
        }
    }
}
