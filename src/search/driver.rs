//! From a problem to a plan with its certificate.

use super::find::find;
use super::infeasible::explain;
use super::{Certificate, Options, Problem, Progress, SearchError, Solution, check, evaluate};

/// Finds widths that meet the budgets at the least loss.
///
/// ```
/// use secateurs::search::{Factor, Options, Problem, Variable, solve};
///
/// let group = |name: &str, loss: [f64; 2]| Variable { name: name.into(), widths: vec![8, 16], loss: loss.to_vec() };
/// let mut problem = Problem {
///     variables: vec![group("a", [0.5, 0.0]), group("b", [0.1, 0.0])],
///     // Milliseconds of a layer between both groups, for every pair of widths; those of `b` run fastest.
///     factors: vec![Factor { scope: vec![0, 1], table: vec![1.0, 2.0, 2.0, 4.0] }],
///     ..Problem::default()
/// };
/// problem.budget.latency_ms = Some(2.0);
/// let solution = solve(&problem, &Options::default(), &mut |_| {})?;
/// assert!(solution.levels == [1, 0] && solution.gap < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        .map_err(|no_plan| SearchError::Infeasible(Box::new(explain(problem, options, no_plan))))
}

/// Proves how far a plan, whoever found it, is from the best one within the budgets. One that is over a budget is
/// compared with all plans that take no more of it than this one does.
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
