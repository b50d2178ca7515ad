//! Plans within the budgets: kept, repaired, improved.

use super::compile::Compiled;
use super::dual::{Ascent, Dual, Multipliers, violation};
use super::elimination::{Potentials, Weights};
use super::exact::{Bounding, End, search};
use super::local::State;
use super::{Alternative, Options, Problem, Progress, evaluate};
use std::collections::HashMap;

/// Relative tolerance under which two losses count as equal.
pub(super) const EQUAL: f64 = 1e-9;

/// Relative tolerance of bounds on budgets, so that rounding excludes no plan that just fits.
const SLACK: f64 = 1e-9;

/// Plans that are repaired and improved by exchange.
const STARTS: usize = 12;

/// Factors on the multipliers whose minimisers are tried too.
const SHIFTS: [f64; 8] = [0.9, 0.95, 0.98, 0.99, 1.01, 1.02, 1.05, 1.1];

/// Variables that are solved together again, and the nodes that this may take.
const BLOCK: usize = 9;
const BLOCK_NODES: usize = 4000;

/// Blocks without success after which the search for better plans ends.
const PATIENCE: usize = 120;

/// All plans that were found to fit, by the independent evaluation.
pub(super) struct Pool<'a> {
    problem: &'a Problem,
    pub best: Option<Alternative>,
    all: HashMap<Vec<usize>, Alternative>,
    keep: bool,
    progress: &'a mut dyn FnMut(Progress),
}

impl<'a> Pool<'a> {
    /// Nothing yet. With `keep` all plans are remembered, not only the best.
    pub fn new(problem: &'a Problem, keep: bool, progress: &'a mut dyn FnMut(Progress)) -> Self {
        Self { problem, best: None, all: HashMap::new(), keep, progress }
    }

    /// Evaluates a plan and keeps it if it fits. True if it is the best so far.
    pub fn offer(&mut self, levels: &[usize]) -> bool {
        let evaluation = evaluate(self.problem, levels);
        if !evaluation.fits(&self.problem.budget) {
            return false;
        }
        let found = Alternative { levels: levels.to_vec(), evaluation };
        let better = self.best.as_ref().is_none_or(|best| evaluation.loss < best.evaluation.loss);
        if self.keep {
            self.all.insert(found.levels.clone(), found.clone());
        }
        if better {
            (self.progress)(Progress::Found(evaluation.loss));
            self.best = Some(found);
        }
        better
    }

    /// Tells of a bound.
    pub fn report_bound(&mut self, bound: f64) {
        (self.progress)(Progress::Bound(bound));
    }

    /// The loss of the best plan.
    pub fn loss(&self) -> Option<f64> {
        self.best.as_ref().map(|best| best.evaluation.loss)
    }

    /// Plans that differ from the best and from each other, far ones first, by ascending loss.
    pub fn alternatives(&self, count: usize) -> Vec<Alternative> {
        let Some(best) = &self.best else { return Vec::new() };
        let mut sorted: Vec<&Alternative> = self.all.values().collect();
        let key = |a: &&Alternative, b: &&Alternative| {
            a.evaluation.loss.total_cmp(&b.evaluation.loss).then_with(|| a.levels.cmp(&b.levels))
        };
        sorted.sort_by(key);
        let mut chosen: Vec<&Alternative> = vec![best];
        let distance = |a: &[usize], b: &[usize]| a.iter().zip(b).filter(|(x, y)| x != y).count();
        let mut apart = (best.levels.len() / 10).max(1);
        while chosen.len() <= count {
            for candidate in &sorted {
                if chosen.len() <= count && chosen.iter().all(|c| distance(&c.levels, &candidate.levels) >= apart) {
                    chosen.push(candidate);
                }
            }
            if apart == 1 {
                break;
            }
            apart /= 2;
        }
        let mut chosen = chosen.split_off(1);
        chosen.sort_by(key);
        chosen.into_iter().cloned().collect()
    }
}

/// Looks for plans that fit by lowering the violation: the known ones, repaired ones, then a search. Returns the least
/// violation met with its plan, and whether it is proven that nothing fits.
pub(super) fn reach(dual: &mut Dual, ascent: &Ascent, pool: &mut Pool, nodes: usize) -> (f64, Vec<usize>, bool) {
    let problem = dual.problem;
    let mut order: Vec<(f64, usize)> =
        dual.seen.iter().enumerate().map(|(i, seen)| (violation(problem, &seen.figures), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut best =
        order.first().map(|(v, i)| (*v, dual.seen[*i].levels.clone())).unwrap_or((f64::INFINITY, Vec::new()));
    for (_, at) in order.iter().take(STARTS) {
        let mut state = State::new(problem, dual.seen[*at].levels.clone());
        state.repair();
        let after = violation(problem, &problem.figures(&state.levels));
        if after < best.0 {
            best = (after, state.levels.clone());
        }
        pool.offer(&state.levels);
    }
    if pool.best.is_some() || ascent.bound > SLACK {
        return (best.0, best.1, pool.best.is_none());
    }
    // What the bounds on the violation leave is searched.
    let (weights, constant) = dual.weights(0.0, &ascent.multipliers);
    let potentials = Potentials::new(problem, &weights);
    let mut bounding = vec![Bounding { potentials: &potentials, limit: constant + SLACK }];
    let single = singles(problem, &ascent.multipliers);
    bounding.extend(single.iter().map(|(potentials, limit)| Bounding { potentials, limit: *limit }));
    let mut left = STARTS;
    let end = search(problem, &mut bounding, nodes, &mut |levels| {
        let now = violation(problem, &problem.figures(levels));
        if now < best.0 {
            best = (now, levels.to_vec());
        }
        left = left.saturating_sub(usize::from(pool.offer(levels)));
        // After some finds the rest is for the search by loss.
        (left == 0).then_some(f64::NEG_INFINITY)
    });
    (best.0, best.1, end == End::Complete && pool.best.is_none())
}

/// Latency and memory alone as bounding functions, with their limits.
fn singles(problem: &Compiled, multipliers: &Multipliers) -> Vec<(Potentials, f64)> {
    let mut all = Vec::new();
    if let Some(most) = problem.latency_budget {
        let weights = Weights { latency: 1.0, ..Weights::default() };
        all.push((Potentials::new(problem, &weights), most + SLACK * problem.latency_scale));
    }
    if let Some(most) = problem.memory_budget {
        let shares: Vec<(usize, f64)> = multipliers
            .rows
            .iter()
            .filter_map(|(row, m)| match row {
                super::dual::Row::Step(t) if *m > 0.0 => Some((*t, *m)),
                _ => None,
            })
            .collect();
        let total: f64 = shares.iter().map(|(_, m)| m).sum();
        let steps =
            if total > 0.0 { shares.into_iter().map(|(t, m)| (t, m / total)).collect() } else { vec![(0, 1.0)] };
        let weights = Weights { weight: 1.0, steps, ..Weights::default() };
        all.push((Potentials::new(problem, &weights), most + SLACK * problem.memory_scale));
    }
    all
}

/// Searches everything that bounds do not exclude for plans better than the best. True if that was completed: then
/// the best is optimal, up to [`EQUAL`].
pub(super) fn close(
    dual: &Dual,
    multipliers: &Multipliers,
    nodes: usize,
    incumbent: Option<f64>,
    visit: &mut dyn FnMut(&[usize]) -> Option<f64>,
) -> bool {
    let problem = dual.problem;
    let (weights, constant) = dual.weights(1.0, multipliers);
    let potentials = Potentials::new(problem, &weights);
    let limit = |loss: f64| loss * (1.0 - EQUAL) / dual.scale + constant;
    let mut bounding = vec![Bounding { potentials: &potentials, limit: incumbent.map_or(f64::INFINITY, limit) }];
    let single = singles(problem, multipliers);
    bounding.extend(single.iter().map(|(potentials, limit)| Bounding { potentials, limit: *limit }));
    search(problem, &mut bounding, nodes, &mut |levels| visit(levels).map(limit)) == End::Complete
}

/// Repairs and improves what the dual has met, then blocks of variables of the best plan.
pub(super) fn improve(dual: &mut Dual, multipliers: &Multipliers, pool: &mut Pool, bound: f64, options: &Options) {
    for shift in SHIFTS {
        let rows = multipliers.rows.iter().map(|(row, value)| (*row, value * shift)).collect();
        let (_, levels) = dual.ask(1.0, &Multipliers { rows });
        dual.learn(levels);
    }
    let problem = dual.problem;
    let (weights, _) = dual.weights(1.0, multipliers);
    let mut order: Vec<(f64, usize)> =
        dual.seen.iter().enumerate().map(|(i, s)| (weights.value(&s.figures), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    for (_, at) in order.into_iter().take(STARTS) {
        let mut state = State::new(problem, dual.seen[at].levels.clone());
        if state.repair() {
            state.improve();
            pool.offer(&state.levels);
        }
        if done(pool, bound, options) {
            return;
        }
    }
    blocks(dual, multipliers, pool, bound, options);
}

fn done(pool: &Pool, bound: f64, options: &Options) -> bool {
    pool.loss().is_some_and(|loss| loss - bound <= options.gap * loss)
}

/// Solves small blocks of variables exactly, the rest staying as in the best plan.
fn blocks(dual: &Dual, multipliers: &Multipliers, pool: &mut Pool, bound: f64, options: &Options) {
    let problem = dual.problem;
    let Some(start) = pool.best.as_ref().map(|best| best.levels.clone()) else { return };
    let mut state = State::new(problem, start);
    let mut random = Random(0x5eca_7e45);
    let mut vain = 0;
    for round in 0..options.blocks {
        if vain >= PATIENCE || done(pool, bound, options) {
            return;
        }
        let block = draw(&state, round, &mut random);
        let part = problem.restrict(&state.levels, &block, options.max_table);
        let mut inner = Dual::new(&part);
        inner.scale = dual.scale;
        let mut levels: Vec<usize> = block.iter().map(|v| state.levels[*v]).collect();
        let mut loss = part.figures(&levels).loss;
        let before = loss;
        close(&inner, multipliers, BLOCK_NODES, Some(loss), &mut |found| {
            let figures = part.figures(found);
            if violation(&part, &figures) <= 0.0 && figures.loss < loss {
                loss = figures.loss;
                levels = found.to_vec();
            }
            Some(loss)
        });
        vain += 1;
        if loss < before {
            block.iter().zip(&levels).for_each(|(v, level)| state.set(*v, *level));
            state.improve();
            if pool.offer(&state.levels) {
                vain = 0;
            } else if let Some(best) = &pool.best {
                state = State::new(problem, best.levels.clone());
            }
        }
    }
}

/// A block: by turns around one variable, scattered, or half and half.
fn draw(state: &State, round: usize, random: &mut Random) -> Vec<usize> {
    let count = state.levels.len();
    let size = BLOCK.min(count);
    let around = [size, 0, size / 2][round % 3];
    let mut block = vec![random.below(count)];
    let mut at = 0;
    while block.len() < around && at < block.len() {
        for near in state.near(block[at]) {
            if block.len() < around && !block.contains(near) {
                block.push(*near);
            }
        }
        at += 1;
    }
    while block.len() < size {
        let other = random.below(count);
        if !block.contains(&other) {
            block.push(other);
        }
    }
    block.sort_unstable();
    block
}

/// SplitMix64: the same blocks for the same problem.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end.max(1) as u64) as usize
    }
}
