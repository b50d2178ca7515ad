//! From measured losses and times to the widths that are pruned to.
//!
//! 1. The search finds widths for the budgets. The pruned network and the baseline one are measured interleaved, and the
//!    search's target is corrected until the measured figures hold and use what is allowed.
//! 2. Losses of groups are measured one by one, and how they add up is not known. So the search runs again with
//!    reweighted losses (every loss to a power), which spreads the pruning more or less evenly over the groups, under the
//!    corrected target. Reweighted losses only propose plans: nothing is claimed by them.
//! 3. Every plan that holds is pruned and repaired on most of the calibration images; `choose` keeps the one whose outputs
//!    are closest to the baseline network's on the remaining ones.
//! 4. What is proven is about that plan, under the losses as they were measured and the corrected target that it was
//!    searched under.

use super::advice::{Missed, describe, explain};
use super::choose::choose;
use super::space::{Allowed, Answer, SearchSpace};
use super::target::{Bracket, SearchTarget};
use super::trial::{Candidate, Figures, MeasuredPlan, Trial};
use crate::importance::LossCurves;
use crate::pipeline::error::PipelineError;
use crate::report::Search;
use crate::search::{Infeasible, SearchBudget};
use crate::surgery::Selection;

/// How often plan and measurement are brought together, for the first plan and for each of the others.
const ROUNDS: usize = 7;
const MORE_ROUNDS: usize = 3;

/// How often the search runs for each measured plan, at most: it may answer with a plan that was measured before.
const SEARCHES: usize = 3;

/// Exponents that reweight the losses for further plans.
const EXPONENTS: [f64; 2] = [0.7, 1.4];

/// The channels to keep, and what is proven about them. The first rank searches and measures; all repair and compare.
///
/// # Errors
/// If no widths meet the budgets: says the least that can be reached and what would do.
pub fn refine_plan(space: &SearchSpace) -> Result<(Selection, Search), PipelineError> {
    let ranks = &space.ctx.job.ranks;
    let mut plans = ranks.by_first(|| candidates(space))?;
    let MeasuredPlan { selection, plan, target, round } = plans.swap_remove(choose(space.ctx, &plans)?);
    let search = ranks.by_first(|| space.certify(&plan, &target, round))?;
    Ok((selection, search))
}

/// Plans that hold when they are measured; where none does, the closest one.
fn candidates(space: &SearchSpace) -> Result<Vec<MeasuredPlan>, PipelineError> {
    let ctx = space.ctx;
    let allowed = space.allowed()?;
    ctx.progress.stage("Searching", describe(&ctx.job.budget));
    let refine = Refine { space, allowed };
    let first = allowed.first_target(space.baseline_ms);
    let mut tried = refine.search_and_measure(&space.sensitivity.curves, first, Proposal::First)?;
    // On a noisy machine no plan may hold: the closest one is kept, and the final measurement judges it.
    let Some(best) = tried.take_best() else {
        let Some(closest) = tried.closest else {
            let budgets = describe(&ctx.job.budget);
            return Err(PipelineError::Infeasible(format!("no widths meet {budgets}")));
        };
        return Ok(vec![closest.into()]);
    };
    let mut candidates: Vec<MeasuredPlan> = vec![best.into()];
    for exponent in EXPONENTS {
        let curves = reweighted(&space.sensitivity.curves, exponent);
        let mut more = refine.search_and_measure(&curves, tried.target, Proposal::Further)?;
        let fresh = |trial: &Trial| candidates.iter().all(|known| known.selection != trial.selection);
        candidates.extend(more.take_best().filter(fresh).map(MeasuredPlan::from));
    }
    Ok(candidates)
}

/// Losses to a power, in units that keep numbers of ordinary size.
fn reweighted(curves: &LossCurves, exponent: f64) -> LossCurves {
    let reweight = |curve: &std::collections::BTreeMap<usize, f64>| {
        curve.iter().map(|(width, loss)| (*width, loss.max(0.0).powf(exponent))).collect()
    };
    LossCurves(curves.0.iter().map(reweight).collect())
}

/// Whether plans are the first of a job, or further ones beside one that holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Proposal {
    First,
    Further,
}

impl Proposal {
    fn rounds(self) -> usize {
        match self {
            Self::First => ROUNDS,
            Self::Further => MORE_ROUNDS,
        }
    }
}

/// Plans that were searched and measured.
struct Tried {
    /// Those that hold the budgets.
    holding: Vec<Trial>,
    /// Of the others, the one that is least over the budgets.
    closest: Option<Trial>,
    /// The corrected target.
    target: SearchTarget,
}

impl Tried {
    /// The plan of the least loss that holds, by the curves it was found with.
    fn take_best(&mut self) -> Option<Trial> {
        let losses = self.holding.iter().enumerate().map(|(i, trial)| (i, trial.loss));
        let (at, _) = losses.min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(self.holding.swap_remove(at))
    }
}

/// The figures of every plan that was measured.
type Seen = Vec<(Selection, Figures)>;

fn figures(seen: &Seen, selection: &Selection) -> Option<Figures> {
    seen.iter().find(|(known, _)| known == selection).map(|(_, figures)| *figures)
}

/// What all plans of a job are refined under.
struct Refine<'a> {
    space: &'a SearchSpace<'a>,
    allowed: Allowed,
}

impl Refine<'_> {
    /// Searches and measures until a plan holds and uses what is allowed, or the rounds are over.
    fn search_and_measure(
        &self,
        curves: &LossCurves,
        target: SearchTarget,
        proposal: Proposal,
    ) -> Result<Tried, PipelineError> {
        let (space, ctx) = (self.space, self.space.ctx);
        let whole = Selection::all(&ctx.inputs.baseline.groups);
        let how = if ctx.timing.measures() { "measured" } else { "estimated" };
        let mut tried = Tried { holding: Vec::new(), closest: None, target };
        let (mut bracket, mut seen) = (Bracket::default(), Seen::new());
        for _ in 0..SEARCHES * proposal.rounds() {
            let round = seen.len() + 1;
            if round > proposal.rounds() {
                break;
            }
            let candidate = match space.search(curves, &tried.target)? {
                Answer::Plan(found) => Candidate { plan: found.levels, loss: found.loss, target: tried.target, round },
                // A corrected or reweighted problem may be out of reach although an earlier plan held.
                Answer::Infeasible(_) if !tried.holding.is_empty() || proposal == Proposal::Further => break,
                Answer::Infeasible(why) => self.fastest(*why, tried.target, round, &seen)?,
            };
            let (selection, millis) = (space.selection(&candidate.plan), candidate.target.budget.latency_ms);
            let figures = match figures(&seen, &selection) {
                Some(figures) => figures,
                None => {
                    let trial = Trial::measure(space, &self.allowed, candidate)?;
                    ctx.progress.message(trial.describe(how));
                    let figures = trial.figures;
                    // The dtype alone may do.
                    let done = trial.holds && selection == whole;
                    seen.push((selection, figures));
                    if trial.holds {
                        tried.holding.push(trial);
                    } else if tried.closest.as_ref().is_none_or(|known| trial.excess < known.excess) {
                        tried.closest = Some(trial);
                    }
                    if done {
                        break;
                    }
                    figures
                }
            };
            let next = millis.zip(figures.utilisation).and_then(|(millis, used)| bracket.next(millis, &used));
            // Good enough, or nothing is left to try, unless another budget is missed.
            if next.is_none() && self.allowed.fits(figures.bytes) && figures.size.is_none_or(|size| size <= 1.0) {
                break;
            }
            tried.target = self.corrected(tried.target, next.or(millis), &figures);
        }
        tried.target.budget.latency_ms = bracket.held.or(tried.target.budget.latency_ms);
        Ok(tried)
    }

    /// A target corrected by what was measured of a plan; `latency_ms` is the latency to try next.
    fn corrected(&self, target: SearchTarget, latency_ms: Option<f64>, figures: &Figures) -> SearchTarget {
        let Figures { bytes, size, .. } = *figures;
        let less = |now: f64, limit: f64| (now - (bytes - limit) * 1.05).max(0.5 * now);
        let memory = self.allowed.memory_bytes.zip(target.budget.memory_bytes);
        SearchTarget {
            budget: SearchBudget {
                latency_ms,
                memory_bytes: memory.map(|(limit, now)| if bytes > limit { less(now, limit) } else { now }),
            },
            weight_bytes: target
                .weight_bytes
                .zip(size)
                .map(|(bytes, size)| if size > 1.0 { bytes / size } else { bytes }),
        }
    }

    /// The plan to try where the search finds none that is predicted to fit. Predictions may be wrong, and corrections may
    /// ask for more than the user did, so that only what is measured may say that a budget is out of reach: the plan of the
    /// least memory where the user's own budget allows it, else that of the least predicted latency.
    ///
    /// # Errors
    /// If neither is what is missing, or that plan was measured and takes more than is allowed: says what would do.
    fn fastest(
        &self,
        why: Infeasible,
        target: SearchTarget,
        round: usize,
        seen: &Seen,
    ) -> Result<Candidate, PipelineError> {
        let (space, ctx) = (self.space, self.space.ctx);
        let figures = |levels: &[usize]| figures(seen, &space.selection(levels));
        let smaller =
            why.relaxations.iter().find(|way| way.latency_ms.is_none() && self.allowed.memory_bytes.is_some());
        let mut more = 0.0;
        if let Some((way, predicted)) = smaller.and_then(|way| Some((way, way.memory_bytes?))) {
            match figures(&way.solution.levels) {
                Some(figures) => more = figures.bytes - predicted,
                None => {
                    let (plan, loss) = (way.solution.levels.clone(), way.solution.loss);
                    let budget = SearchBudget { memory_bytes: Some(predicted), ..target.budget };
                    return Ok(Candidate { plan, loss, target: SearchTarget { budget, ..target }, round });
                }
            }
        }
        let refused = |longer: f64| {
            let missed = Missed { longer, more, baseline_ms: space.baseline_ms };
            PipelineError::Infeasible(explain(&why, &missed, ctx))
        };
        let Some(least) = &why.least_latency else { return Err(refused(1.0)) };
        let (millis, budget) = (least.evaluation.latency_ms, target.budget);
        let slow = budget.latency_ms.is_some_and(|limit| millis > limit) && ctx.timing.measures();
        if !slow || why.least_memory.as_ref().is_some_and(|m| budget.memory_bytes.is_some_and(|b| m.bound > b)) {
            return Err(refused(1.0));
        }
        let used = figures(&least.levels).and_then(|figures| figures.utilisation);
        match used.zip(self.allowed.ratio) {
            // How much longer it takes than predicted.
            Some((used, ratio)) if used.share > 1.0 => Err(refused(used.share * ratio * space.baseline_ms / millis)),
            _ => {
                let budget = SearchBudget { latency_ms: Some(millis), ..budget };
                let target = SearchTarget { budget, ..target };
                Ok(Candidate { plan: least.levels.clone(), loss: least.evaluation.loss, target, round })
            }
        }
    }
}
