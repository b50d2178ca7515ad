//! From a problem to a plan with its certificate.

use super::branch::branch;
use super::compile::{Compiled, compile};
use super::dual::{Dual, Effort};
use super::infeasible::{self, NoPlan};
use super::local::State;
use super::primal::{EQUAL, Pool, close, improve, reach};
use super::{Alternative, Certificate, Options, Problem, Progress, SearchError, Solution, check, evaluate};

/// The most that all multipliers may sum up to, in units of the greatest possible loss per relative excess.
pub(super) const PRICE: f64 = 1e6;

/// Below this share of the budgets a violation is rounding.
const ROUNDING: f64 = 1e-9;

/// Finds widths that meet the budgets at the least loss.
///
/// # Errors
/// [`SearchError::InvalidProblem`] if sizes do not match or a number is not finite or negative;
/// [`SearchError::Infeasible`] if no plan was found, with the proof if there is one.
pub fn solve(
    problem: &Problem,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Solution, SearchError> {
    check::check(problem)?;
    find(problem, options, &[], progress)
        .map_err(|no_plan| SearchError::Infeasible(Box::new(infeasible::explain(problem, options, no_plan))))
}

/// Proves how far a plan, whoever found it, is from the best one within the budgets. One that is over a budget is compared
/// with all plans that take no more of it than this one does.
///
/// # Errors
/// As [`solve`]; also if the plan has not one existing level per variable.
pub fn certify(problem: &Problem, plan: &[usize], options: &Options) -> Result<Certificate, SearchError> {
    check::check(problem)?;
    let levels = problem.variables.iter().map(|variable| variable.widths.len());
    if plan.len() != problem.variables.len() || plan.iter().zip(levels).any(|(level, levels)| *level >= levels) {
        let problem = "has not one existing level per variable".into();
        return Err(SearchError::InvalidProblem { place: "plan".into(), problem });
    }
    let evaluation = evaluate(problem, plan);
    let mut problem = problem.clone();
    let figures = [evaluation.latency_ms, evaluation.memory_bytes];
    for (budget, is) in [&mut problem.budget.latency_ms, &mut problem.budget.memory_bytes].into_iter().zip(figures) {
        *budget = budget.map(|most| most.max(is));
    }
    // The plan is known to fit, so there is always one.
    let found = find(&problem, options, &[plan.to_vec()], &mut |_| {});
    let bound = found.map_or(0.0, |found| found.lower_bound);
    let (loss, lower_bound) = (evaluation.loss, bound.min(evaluation.loss));
    let gap = (loss - lower_bound) / loss.max(f64::MIN_POSITIVE);
    Ok(Certificate { loss, latency_ms: evaluation.latency_ms, lower_bound, gap })
}

/// As [`solve`], for a checked problem, and with plans that are known to fit.
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
    let floor: f64 = compiled.loss.iter().map(|loss| loss.iter().copied().fold(f64::INFINITY, f64::min)).sum();
    let least = dual.seen[0].levels.clone();
    if pool.offer(&least)
        && let Some(best) = pool.best.clone()
    {
        return Ok(conclude(best, pool, f64::INFINITY, options, &compiled));
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
    let mut bound = (ascent.bound * dual.scale).max(floor);
    let multipliers = &ascent.multipliers;
    pool.tell_bound(bound);

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
        Some(best) => Ok(conclude(best, pool, bound, options, &compiled)),
        None => Err(NoPlan { levels: least, violation: f64::INFINITY, bound: 0.0, proven: false }),
    }
}

/// The best plan with its bound; a bound above its loss says that it is optimal.
fn conclude(best: Alternative, mut pool: Pool, bound: f64, options: &Options, compiled: &Compiled) -> Solution {
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
