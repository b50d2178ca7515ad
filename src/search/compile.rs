//! The problem in the form that the search computes with.

use super::buckets::{Plan, order};
use super::table::{Figures, Step, Table, strides};
use super::{Factor, Problem};
use std::collections::BTreeMap;

/// All terms, merged and laid out for elimination.
pub(super) struct Compiled {
    pub sizes: Vec<usize>,
    pub loss: Vec<Vec<f64>>,
    pub tables: Vec<Table>,
    pub steps: Vec<Step>,
    /// Budgets less the constants of the tables.
    pub latency_budget: Option<f64>,
    pub memory_budget: Option<f64>,
    /// What excesses are relative to: the budgets of the whole problem.
    pub latency_scale: f64,
    pub memory_scale: f64,
    /// Tables of every variable.
    pub touching: Vec<Vec<usize>>,
    /// Steps of every variable with its place among the step's terms.
    pub live: Vec<Vec<(usize, usize)>>,
    pub plan: Plan,
}

/// Tables by scope before they are laid out: scope ascending, last runs fastest.
pub(super) type Terms = BTreeMap<Vec<usize>, (Vec<f64>, Vec<f64>)>;

/// The parts of a problem that matter under its budgets.
pub(super) struct Parts {
    pub loss: Vec<Vec<f64>>,
    pub terms: Terms,
    pub steps: Vec<Step>,
    pub latency_budget: Option<f64>,
    pub memory_budget: Option<f64>,
    pub latency_scale: f64,
    pub memory_scale: f64,
}

/// Compiles a checked problem under its budgets.
pub(super) fn compile(problem: &Problem, max_table: usize) -> Compiled {
    let sizes: Vec<usize> = problem.variables.iter().map(|v| v.widths.len()).collect();
    let mut terms = Terms::new();
    if problem.budget.latency_ms.is_some() {
        problem.factors.iter().for_each(|factor| gather(&mut terms, factor, &sizes, true));
    }
    let mut steps = Vec::new();
    if problem.budget.memory_bytes.is_some() {
        problem.weight_factors.iter().for_each(|factor| gather(&mut terms, factor, &sizes, false));
        steps = memory_steps(problem);
    }
    let parts = Parts {
        loss: problem.variables.iter().map(|v| v.loss.clone()).collect(),
        terms,
        steps,
        latency_budget: problem.budget.latency_ms,
        memory_budget: problem.budget.memory_bytes,
        latency_scale: problem.budget.latency_ms.unwrap_or(1.0),
        memory_scale: problem.budget.memory_bytes.unwrap_or(1.0),
    };
    Compiled::new(parts, max_table)
}

/// Adds a factor to the term of its scope, in ascending order of variables.
fn gather(terms: &mut Terms, factor: &Factor, sizes: &[usize], latency: bool) {
    let mut scope = factor.scope.clone();
    scope.sort_unstable();
    let strides_in_factor = strides(&factor.scope, sizes);
    let place = |v: &usize| factor.scope.iter().position(|s| s == v).map_or(0, |at| strides_in_factor[at]);
    let order: Vec<(usize, usize)> = scope.iter().map(|v| (sizes[*v], place(v))).collect();
    let entries = factor.table.len();
    let (times, weights) = terms.entry(scope).or_insert_with(|| (vec![0.0; entries], vec![0.0; entries]));
    let target = if latency { times } else { weights };
    walk(&order, |entry, offset| target[entry] += factor.table[offset]);
}

/// Calls with the running number and the offset of every combination; the last axis runs fastest.
fn walk(axes: &[(usize, usize)], mut visit: impl FnMut(usize, usize)) {
    let total: usize = axes.iter().map(|(size, _)| size).product();
    let mut at = vec![0; axes.len()];
    let mut offset = 0;
    for entry in 0..total {
        visit(entry, offset);
        for axis in (0..axes.len()).rev() {
            at[axis] += 1;
            offset += axes[axis].1;
            if at[axis] < axes[axis].0 {
                break;
            }
            offset -= axes[axis].1 * axes[axis].0;
            at[axis] = 0;
        }
    }
}

/// The steps that can be the greatest: those that no other step exceeds in every coefficient.
fn memory_steps(problem: &Problem) -> Vec<Step> {
    let coefficients = problem.memory.iter().map(|step| {
        let mut dense = vec![0.0; problem.variables.len()];
        step.terms.iter().for_each(|(v, bytes)| dense[*v] += bytes);
        (step.constant, dense)
    });
    let coefficients: Vec<(f64, Vec<f64>)> = coefficients.collect();
    let covers = |a: usize, b: usize| {
        let ((ca, da), (cb, db)) = (&coefficients[a], &coefficients[b]);
        ca >= cb && da.iter().zip(db).all(|(x, y)| x >= y)
    };
    // Of equal steps the first is kept.
    let needless = |b: usize| (0..coefficients.len()).any(|a| a != b && covers(a, b) && (a < b || !covers(b, a)));
    let mut steps: Vec<Step> = Vec::new();
    for (_, (constant, dense)) in coefficients.iter().enumerate().filter(|(i, _)| !needless(*i)) {
        let per_level = |v: usize| problem.variables[v].widths.iter().map(|w| dense[v] * *w as f64).collect();
        let terms = (0..dense.len()).filter(|v| dense[*v] > 0.0).map(|v| (v, per_level(v))).collect();
        steps.push(Step { constant: *constant, terms });
    }
    if steps.is_empty() {
        steps.push(Step { constant: 0.0, terms: Vec::new() });
    }
    steps
}

impl Compiled {
    /// Lays the parts out for elimination.
    pub fn new(parts: Parts, max_table: usize) -> Self {
        let sizes: Vec<usize> = parts.loss.iter().map(Vec::len).collect();
        let mut terms = parts.terms;
        let (latency_constant, weight_constant) =
            terms.remove(&Vec::new()).map_or((0.0, 0.0), |(times, weights)| (times[0], weights[0]));
        let scopes: Vec<&[usize]> = terms.keys().map(Vec::as_slice).collect();
        let order = order(&scopes, &sizes);
        let mut position = vec![0; sizes.len()];
        order.iter().enumerate().for_each(|(at, v)| position[*v] = at);
        let lay_out = |(scope, (times, weights)): (Vec<usize>, (Vec<f64>, Vec<f64>))| {
            let before = strides(&scope, &sizes);
            let mut axes: Vec<(usize, usize)> = scope.iter().copied().zip(before).collect();
            axes.sort_unstable_by_key(|(v, _)| std::cmp::Reverse(position[*v]));
            let (mut latency, mut weight) = (vec![0.0; times.len()], vec![0.0; times.len()]);
            let by_size: Vec<(usize, usize)> = axes.iter().map(|(v, stride)| (sizes[*v], *stride)).collect();
            walk(&by_size, |entry, offset| (latency[entry], weight[entry]) = (times[offset], weights[offset]));
            let scope: Vec<usize> = axes.into_iter().map(|(v, _)| v).collect();
            Table { strides: strides(&scope, &sizes), scope, latency, weight }
        };
        let tables: Vec<Table> = terms.into_iter().map(lay_out).collect();
        let mut touching = vec![Vec::new(); sizes.len()];
        for (index, table) in tables.iter().enumerate() {
            table.scope.iter().for_each(|v| touching[*v].push(index));
        }
        let mut live = vec![Vec::new(); sizes.len()];
        for (t, step) in parts.steps.iter().enumerate() {
            step.terms.iter().enumerate().for_each(|(at, (v, _))| live[*v].push((t, at)));
        }
        let plan = Plan::new(order, position, &tables, &sizes, max_table);
        Self {
            sizes,
            loss: parts.loss,
            tables,
            steps: parts.steps,
            latency_budget: parts.latency_budget.map(|most| most - latency_constant),
            memory_budget: parts.memory_budget.map(|most| most - weight_constant),
            latency_scale: parts.latency_scale,
            memory_scale: parts.memory_scale,
            touching,
            live,
            plan,
        }
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    /// The figures of a plan.
    pub fn figures(&self, levels: &[usize]) -> Figures {
        let loss = self.loss.iter().zip(levels).map(|(loss, level)| loss[*level]).sum();
        let (mut latency, mut weight) = (0.0, 0.0);
        for table in &self.tables {
            let entry = table.entry(levels);
            latency += table.latency[entry];
            weight += table.weight[entry];
        }
        let load = |s: &Step| s.constant + s.terms.iter().map(|(v, bytes)| bytes[levels[*v]]).sum::<f64>();
        Figures { loss, latency, weight, steps: self.steps.iter().map(load).collect() }
    }

    /// The same problem with all variables but `free` at their levels in `levels`. The levels of the result are
    /// those of `free`, in order. Constant losses are left out.
    pub fn restrict(&self, levels: &[usize], free: &[usize], max_table: usize) -> Compiled {
        let mut local = vec![usize::MAX; self.len()];
        free.iter().enumerate().for_each(|(at, v)| local[*v] = at);
        let sizes: Vec<usize> = free.iter().map(|v| self.sizes[*v]).collect();
        let mut terms = Terms::new();
        for table in &self.tables {
            let kept = table.scope.iter().zip(&table.strides).filter(|(v, _)| local[**v] != usize::MAX);
            let mut kept: Vec<(usize, usize)> = kept.map(|(v, stride)| (local[*v], *stride)).collect();
            kept.sort_unstable();
            let fixed = table.scope.iter().zip(&table.strides).filter(|(v, _)| local[**v] == usize::MAX);
            let start: usize = fixed.map(|(v, stride)| levels[*v] * stride).sum();
            let axes: Vec<(usize, usize)> = kept.iter().map(|(v, stride)| (sizes[*v], *stride)).collect();
            let entries = axes.iter().map(|(size, _)| size).product();
            let scope = kept.into_iter().map(|(v, _)| v).collect();
            let (times, weights) = terms.entry(scope).or_insert_with(|| (vec![0.0; entries], vec![0.0; entries]));
            walk(&axes, |entry, offset| {
                times[entry] += table.latency[start + offset];
                weights[entry] += table.weight[start + offset];
            });
        }
        let steps = self.steps.iter().map(|step| {
            let mut kept = Step { constant: step.constant, terms: Vec::new() };
            for (v, bytes) in &step.terms {
                match local[*v] {
                    usize::MAX => kept.constant += bytes[levels[*v]],
                    at => kept.terms.push((at, bytes.clone())),
                }
            }
            kept
        });
        let parts = Parts {
            loss: free.iter().map(|v| self.loss[*v].clone()).collect(),
            terms,
            steps: steps.collect(),
            latency_budget: self.latency_budget,
            memory_budget: self.memory_budget,
            latency_scale: self.latency_scale,
            memory_scale: self.memory_scale,
        };
        Compiled::new(parts, max_table)
    }
}
