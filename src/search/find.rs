//! The steps of the search, for a checked problem.

use super::branch::branch;
use super::compile::{Compiled, compile};
use super::dual::{Dual, Effort, PRICE};
use super::local::State;
use super::primal::{EQUAL, Pool, close, improve, reach};
use super::{Alternative, Options, Problem, Progress, Solution};

/// Below this share of the budgets a violation is rounding.
const ROUNDING: f64 = 1e-9;

/// Why no plan was found, for the explanation.
pub(super) struct NoPlan {
    /// The plan with the least violation.
    pub levels: Vec<usize>,
    /// Its greatest relative excess over a budget.
    pub violation: f64,
    /// A lower bound of that over all plans.
    pub bound: f64,
    /// Whether it is proven that no plan fits.
    pub proven: bool,
}

/// As [`super::solve`], for a checked problem, and with plans that are known to fit.
pub(super) fn find(
    problem: &Problem,
    options: &Options,
    known: &[Vec<usize>],
    progress: &mut dyn FnMut(Progress),
) -> Result<Solution, NoPlan> {
    let compiled = compile(problem, options.max_table);
    let mut dual = Dual::new(&compiled);
    let mut pool = Pool::new(problem, options.alternatives > 0, progress);

    // 1. The least loss of all, if it fits, is best.
    let least_loss: f64 = compiled.loss.iter().map(|loss| loss.iter().copied().fold(f64::INFINITY, f64::min)).sum();
    let least = dual.seen[0].levels.clone();
    if pool.offer(&least)
        && let Some(best) = pool.best.clone()
    {
        return Ok(finish(best, pool, f64::INFINITY, options, &compiled));
    }

    // 2. Whether anything fits.
    for levels in known {
        pool.offer(levels);
        dual.learn(levels.clone());
    }
    let small =
        compiled.sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size)).is_some_and(|n| n <= options.nodes);
    let nodes = if small { options.nodes.saturating_mul(compiled.len() + 1) } else { options.nodes };
    if pool.best.is_none() {
        let ascent = dual.ascend(0.0, 1.0, &Effort::steps(options.dual_steps));
        let (violation, levels, proven) = reach(&mut dual, &ascent, &mut pool, nodes);
        let Some(best) = &pool.best else {
            let proven = proven || ascent.bound > ROUNDING;
            return Err(NoPlan { levels, violation, bound: ascent.bound.max(0.0), proven });
        };
        dual.learn(best.levels.clone());
    }

    // 3. The bound.
    let ascent = dual.ascend(1.0, PRICE, &Effort::steps(options.dual_steps));
    let mut bound = (ascent.bound * dual.scale).max(least_loss);
    let multipliers = &ascent.multipliers;
    pool.report_bound(bound);

    // 4. Better plans, and the proof where it can be had.
    if !small {
        improve(&mut dual, multipliers, &mut pool, bound, options);
    }
    if pool.loss().is_some_and(|loss| loss - bound > EQUAL * loss) {
        let incumbent = pool.loss();
        let closed = close(&dual, multipliers, nodes, incumbent, &mut |levels| {
            pool.offer(levels);
            pool.loss()
        });
        bound = if closed { f64::INFINITY } else { branch(&mut dual, ascent, &mut pool, bound, options) };
    }
    match pool.best.clone() {
        Some(best) => Ok(finish(best, pool, bound, options, &compiled)),
        None => Err(NoPlan { levels: least, violation: f64::INFINITY, bound: 0.0, proven: false }),
    }
}

/// The best plan with its bound; a bound above its loss says that it is optimal.
fn finish(best: Alternative, mut pool: Pool, bound: f64, options: &Options, compiled: &Compiled) -> Solution {
    if options.alternatives > 0 {
        let mut state = State::new(compiled, best.levels.clone());
        for (_, levels) in state.neighbours(4 * options.alternatives) {
            pool.offer(&levels);
        }
    }
    let loss = best.evaluation.loss;
    let lower_bound = bound.min(loss);
    Solution {
        lower_bound,
        gap: (loss - lower_bound) / loss.max(f64::MIN_POSITIVE),
        latency_ms: best.evaluation.latency_ms,
        memory_bytes: best.evaluation.memory_bytes,
        loss,
        alternatives: pool.alternatives(options.alternatives),
        levels: best.levels,
    }
}
