//! From measured losses and times to the widths that are cut.
//!
//! 1. The search finds widths for the budgets. The cut network is measured against the baseline one in turn, and the
//!    search's budget is corrected until the measured figures hold and use what is allowed.
//! 2. Losses of groups are measured one by one, and how they add up is not known. So the search is asked again with
//!    the losses bent, which spreads the cuts more or less evenly, under the corrected budget.
//!    Bent losses only propose plans: nothing is claimed by them.
//! 3. Every plan that holds is cut and repaired on most of the calibration images. The one whose outputs stay
//!    closest to the baseline network's on the remaining ones is kept.
//! 4. What is proven is about that plan, under the losses as they were measured and the corrected budget that it was
//!    searched under.

use super::advice::{Missed, distance, explain};
use super::aim::{Aim, Usage};
use super::job::{Event, Job, Listener, Timing};
use super::plan::GroupSensitivity;
use super::problem::Limits;
use super::{PipelineError, Source, floors, measure, problem};
use crate::importance::{LossCurves, kl_divergence, outputs};
use crate::latency::LatencyTable;
use crate::model::{self, Model};
use crate::repair::{self, Calibration};
use crate::report::{FrontPoint, Search};
use crate::search::{self, Infeasible, SearchError, Solution};
use crate::surgery::{self, Selection};

/// How often plan and measurement are brought together, for the first plan and for each of the others.
const ROUNDS: usize = 7;
const MORE_ROUNDS: usize = 3;

/// How often the search is asked for each measured plan, at most: it may answer with a plan that was measured before.
const ASKED: usize = 3;

/// Exponents that bend the losses for further plans.
const BENDS: [f64; 2] = [0.7, 1.4];

/// Of every so many calibration images one is kept out of the trial repairs, to compare on.
const TRIAL_SHARE: usize = 4;

/// The most images of a trial repair.
const TRIAL_IMAGES: usize = 128;

/// A plan that was cut and measured.
struct Trial {
    selection: Selection,
    /// The level of every group.
    plan: Vec<usize>,
    /// The budget that it was searched under.
    aim: Limits,
    /// Its loss by the curves it was found with, which may be bent.
    loss: f64,
    round: usize,
    cut: Model,
    /// Measured latency as a share of the baseline network's, and what it uses of what is allowed, where there is a latency
    /// budget.
    measured: Option<f64>,
    usage: Option<Usage>,
    /// Peak memory in the runtime that ships.
    bytes: f64,
    /// Parameters, or bytes of the file, over what is allowed: the greater of the two.
    size: Option<f64>,
    /// The greatest of all figures over what is allowed.
    excess: f64,
    /// Whether all hold.
    holds: bool,
}

/// What was measured of a plan, as in [`Trial`].
#[derive(Clone, Copy)]
struct Figures {
    usage: Option<Usage>,
    bytes: f64,
    size: Option<f64>,
}

/// A plan that was searched and not measured yet: level of every group, its loss, and the budget it was found under.
struct Found {
    plan: Vec<usize>,
    loss: f64,
    aim: Limits,
    round: usize,
}

impl Trial {
    fn describe(&self, round: usize, how: &str) -> String {
        format!(
            "plan {round}: {}{:.1} MiB{}",
            self.measured.map(|m| format!("{m:.3}x {how} latency, ")).unwrap_or_default(),
            self.bytes / f64::from(1 << 20),
            if self.holds { "" } else { ", over the budget" },
        )
    }
}

/// What stays the same while plans are settled.
struct Settling<'a> {
    job: &'a Job,
    source: &'a Source,
    sensitivity: &'a GroupSensitivity,
    levels: &'a [Vec<usize>],
    table: &'a LatencyTable,
    /// The share of the baseline latency that is allowed.
    ratio: Option<f64>,
    /// The bytes that are allowed.
    memory: Option<f64>,
    /// Parameters, and bytes of the file, that are allowed.
    params: Option<usize>,
    file: Option<f64>,
    baseline_ms: f64,
}

/// The plan to cut.
pub(super) fn refine(
    job: &Job,
    source: &Source,
    sensitivity: &GroupSensitivity,
    levels: &[Vec<usize>],
    table: &LatencyTable,
    tell: Listener,
) -> Result<(Selection, Search), PipelineError> {
    let full: Vec<usize> = source.groups.groups.iter().map(|g| g.width()).collect();
    let baseline_ms = table.predict(&source.model.graph, &source.groups, &full);
    let settling = Settling {
        job,
        source,
        sensitivity,
        levels,
        table,
        ratio: measure::allowed_ratio(job, source, baseline_ms)?,
        memory: job.budget.memory_mib.map(|mib| mib * f64::from(1 << 20)),
        params: job.budget.params,
        file: job.budget.file_mib.map(|mib| mib * f64::from(1 << 20)),
        baseline_ms,
    };
    tell(Event::Stage("Searching", measure::describe(&job.budget)));
    // The search counts four bytes per weight and bias, which is close to both sizes; what is missing is measured.
    let weights = settling.params.map(|n| 4.0 * n as f64);
    let mut aim = Limits {
        latency_ms: settling.ratio.map(|r| r * settling.baseline_ms),
        memory_bytes: settling.memory,
        weight_bytes: weights.into_iter().chain(settling.file).reduce(f64::min),
    };
    let (mut holding, mut closest) = (Vec::new(), None);
    settling.approach(&sensitivity.curves, ROUNDS, &mut aim, &mut holding, &mut closest, tell)?;
    // On a noisy machine the closest plan goes on, and the final measurement judges it.
    let Some(first) = best(&mut holding) else {
        let Some(closest) = closest else {
            return Err(PipelineError::Infeasible(format!("no widths meet {}", measure::describe(&job.budget))));
        };
        let search = settling.certify(&closest)?;
        return Ok((closest.selection, search));
    };
    let mut candidates = vec![first];
    for bend in BENDS {
        let mut holding = Vec::new();
        let curves = bent(&sensitivity.curves, bend);
        settling.approach(&curves, MORE_ROUNDS, &mut aim.clone(), &mut holding, &mut None, tell)?;
        let fresh = |trial: &Trial| candidates.iter().all(|known| known.selection != trial.selection);
        candidates.extend(best(&mut holding).filter(fresh));
    }
    let chosen = settling.compare(&candidates, tell)?;
    let chosen = candidates.swap_remove(chosen);
    let search = settling.certify(&chosen)?;
    Ok((chosen.selection, search))
}

/// The least loss at other latencies than the one asked for, from the baseline model's down to the fastest plan.
pub(super) fn front(
    source: &Source,
    sensitivity: &GroupSensitivity,
    levels: &[Vec<usize>],
    table: &LatencyTable,
) -> Result<Vec<FrontPoint>, PipelineError> {
    let (graph, groups, size) = (&source.model.graph, &source.groups, (source.imgsz, source.imgsz));
    let full: Vec<usize> = groups.groups.iter().map(|g| g.width()).collect();
    let baseline_ms = table.predict(graph, groups, &full);
    let options = search::Options { blocks: 60, nodes: 20_000, branches: 10, ..search::Options::default() };
    let mut points = vec![FrontPoint { latency_ratio: 1.0, loss: 0.0, lower_bound: 0.0 }];
    for twentieths in (6..20).rev() {
        let budget = Limits { latency_ms: Some(baseline_ms * f64::from(twentieths) / 20.0), ..Limits::default() };
        let problem = problem::problem(graph, groups, levels, &sensitivity.curves, table, size, budget)
            .map_err(PipelineError::stage("search"))?;
        match search::solve(&problem, &options, &mut |_| {}) {
            Ok(found) => points.push(FrontPoint {
                latency_ratio: found.latency_ms / baseline_ms,
                loss: found.loss,
                lower_bound: found.lower_bound,
            }),
            Err(_) => break,
        }
    }
    Ok(points)
}

/// The trial of the least loss, by the curves it was found with.
fn best(holding: &mut Vec<Trial>) -> Option<Trial> {
    let losses = holding.iter().enumerate().map(|(i, trial)| (i, trial.loss));
    let (at, _) = losses.min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(holding.swap_remove(at))
}

/// Losses to a power, in units that keep numbers of ordinary size.
fn bent(curves: &LossCurves, power: f64) -> LossCurves {
    let bend = |curve: &std::collections::BTreeMap<usize, f64>| {
        curve.iter().map(|(width, loss)| (*width, loss.max(0.0).powf(power))).collect()
    };
    LossCurves(curves.0.iter().map(bend).collect())
}

impl Settling<'_> {
    /// Searches and measures until a plan holds and uses what is allowed, or the rounds are over.
    fn approach(
        &self,
        curves: &LossCurves,
        rounds: usize,
        aim: &mut Limits,
        holding: &mut Vec<Trial>,
        closest: &mut Option<Trial>,
        tell: Listener,
    ) -> Result<(), PipelineError> {
        let (mut known, mut seen) = (Aim::default(), Vec::<(Selection, Figures)>::new());
        for _ in 0..ASKED * rounds {
            let round = seen.len() + 1;
            if round > rounds {
                break;
            }
            let found = match self.search(curves, *aim)? {
                Ok(found) => Found { plan: found.levels, loss: found.loss, aim: *aim, round },
                // A corrected or bent problem may be out of reach although an earlier plan held.
                Err(_) if !holding.is_empty() || rounds == MORE_ROUNDS => break,
                Err(why) => self.fastest(*why, *aim, round, &seen)?,
            };
            let (selection, millis) = (self.selection(&found.plan), found.aim.latency_ms);
            let known_plan = seen.iter().find(|(known, _)| *known == selection).map(|(_, figures)| *figures);
            let figures = match known_plan {
                Some(figures) => figures,
                None => {
                    let trial = self.attempt(found)?;
                    tell(Event::Note(trial.describe(round, if self.estimated() { "estimated" } else { "measured" })));
                    let figures = Figures { usage: trial.usage, bytes: trial.bytes, size: trial.size };
                    seen.push((selection.clone(), figures));
                    // Whole numbers alone may do.
                    let whole = trial.holds && selection == Selection::all(&self.source.groups);
                    if trial.holds {
                        holding.push(trial);
                    } else if closest.as_ref().is_none_or(|known| trial.excess < known.excess) {
                        *closest = Some(trial);
                    }
                    if whole {
                        break;
                    }
                    figures
                }
            };
            let Figures { usage, bytes, size } = figures;
            let next = millis.zip(usage).and_then(|(millis, usage)| known.next(millis, &usage));
            // Good enough, or nothing is left to try, unless another budget is missed.
            if next.is_none() && self.fits(bytes) && size.is_none_or(|size| size <= 1.0) {
                break;
            }
            aim.latency_ms = next.or(millis);
            aim.weight_bytes =
                aim.weight_bytes.zip(size).map(|(bytes, size)| if size > 1.0 { bytes / size } else { bytes });
            aim.memory_bytes = self
                .memory
                .zip(aim.memory_bytes)
                .map(|(limit, now)| if bytes > limit { (now - (bytes - limit) * 1.05).max(0.5 * now) } else { now });
        }
        aim.latency_ms = known.held.or(aim.latency_ms);
        Ok(())
    }

    fn fits(&self, bytes: f64) -> bool {
        self.memory.is_none_or(|limit| bytes <= limit)
    }

    fn selection(&self, plan: &[usize]) -> Selection {
        self.sensitivity.ranking.select(&self.widths(plan))
    }

    fn widths(&self, plan: &[usize]) -> Vec<usize> {
        plan.iter().zip(self.levels).map(|(level, widths)| widths[*level]).collect()
    }

    /// The plan to try where the search finds none that is predicted to fit. Predictions may be wrong, and corrections may ask
    /// for more than the user did, so that only what is measured may say that a budget is out of reach: the plan of the least
    /// memory where the user's own budget allows it, else that of the least predicted latency.
    ///
    /// # Errors
    /// If neither is what is missing, or that plan was measured and takes more than is allowed: says what would do.
    fn fastest(
        &self,
        why: Infeasible,
        aim: Limits,
        round: usize,
        seen: &[(Selection, Figures)],
    ) -> Result<Found, PipelineError> {
        let figures = |levels: &[usize]| {
            let selection = self.selection(levels);
            seen.iter().find(|(known, _)| *known == selection).map(|(_, figures)| *figures)
        };
        let smaller = why.relaxations.iter().find(|way| way.latency_ms.is_none() && self.memory.is_some());
        let mut more = 0.0;
        if let Some((way, predicted)) = smaller.and_then(|way| Some((way, way.memory_bytes?))) {
            match figures(&way.solution.levels) {
                Some(figures) => more = figures.bytes - predicted,
                None => {
                    let (plan, loss) = (way.solution.levels.clone(), way.solution.loss);
                    return Ok(Found { plan, loss, aim: Limits { memory_bytes: Some(predicted), ..aim }, round });
                }
            }
        }
        let refused = |longer: f64| {
            let error = Missed { longer, more, baseline_ms: self.baseline_ms };
            PipelineError::Infeasible(explain(&why, &error, self.job, self.source))
        };
        let Some(least) = &why.least_latency else { return Err(refused(1.0)) };
        let millis = least.evaluation.latency_ms;
        let slow = aim.latency_ms.is_some_and(|limit| millis > limit) && !self.estimated();
        if !slow || why.least_memory.as_ref().is_some_and(|m| aim.memory_bytes.is_some_and(|b| m.bound > b)) {
            return Err(refused(1.0));
        }
        let usage = figures(&least.levels).and_then(|figures| figures.usage);
        match usage.zip(self.ratio) {
            // How much longer it takes than predicted.
            Some((usage, ratio)) if usage.share > 1.0 => Err(refused(usage.share * ratio * self.baseline_ms / millis)),
            _ => {
                let aim = Limits { latency_ms: Some(millis), ..aim };
                Ok(Found { plan: least.levels.clone(), loss: least.evaluation.loss, aim, round })
            }
        }
    }

    fn estimated(&self) -> bool {
        matches!(self.job.timing, Timing::Estimate(_))
    }

    /// Searches under the aim; or why no plan fits.
    fn search(&self, curves: &LossCurves, aim: Limits) -> Result<Result<Solution, Box<Infeasible>>, PipelineError> {
        let (graph, groups) = (self.source.graph_on_device(), &self.source.groups);
        let size = (self.source.imgsz, self.source.imgsz);
        let problem = problem::problem(&graph, groups, self.levels, curves, self.table, size, aim)
            .map_err(PipelineError::stage("search"))?;
        match search::solve(&problem, &search::Options::default(), &mut |_| {}) {
            Ok(found) => Ok(Ok(found)),
            Err(SearchError::Infeasible(why)) => Ok(Err(why)),
            Err(problem) => Err(PipelineError::stage("search")(problem)),
        }
    }

    /// Cuts and measures.
    fn attempt(&self, found: Found) -> Result<Trial, PipelineError> {
        let Self { job, source, .. } = *self;
        let groups = &source.groups;
        let (widths, selection) = (self.widths(&found.plan), self.selection(&found.plan));
        let cut = surgery::cut(&source.model, groups, &selection).map_err(PipelineError::stage("surgery"))?;
        let bytes = source.memory(&source.on_device(&cut), job.threads)? as f64;
        let cost = cut.graph.cost(source.imgsz, source.imgsz).map_err(PipelineError::stage("search"))?;
        let over = |limit: Option<f64>, is: f64| limit.map(|limit| is / limit);
        let file = match self.file {
            Some(_) => model::to_bytes(&source.on_device(&cut)).map_err(PipelineError::stage("search"))?.len() as f64,
            None => 0.0,
        };
        let sizes = [over(self.params.map(|n| n as f64), cost.params as f64), over(self.file, file)];
        let size = sizes.into_iter().flatten().reduce(f64::max);
        let latency = match self.ratio {
            Some(allowed) => {
                let predicted = self.table.predict(&source.model.graph, groups, &widths) / self.baseline_ms;
                Some(measure::usage(&cut, predicted, allowed, source, job)?)
            }
            None => None,
        };
        let (usage, measured) = latency.unzip();
        let Found { plan, loss, aim, round } = found;
        let share = usage.map_or(0.0, |usage| usage.share);
        Ok(Trial {
            excess: share.max(self.memory.map_or(0.0, |limit| bytes / limit)).max(size.unwrap_or(0.0)),
            holds: self.fits(bytes)
                && size.is_none_or(|size| size <= 1.0)
                && usage.is_none_or(|usage: Usage| usage.holds()),
            size,
            selection,
            plan,
            aim,
            loss,
            round,
            cut,
            measured,
            usage,
            bytes,
        })
    }

    /// What is proven about a plan: its loss by the exact evaluator, and the least loss of any plan under the corrected
    /// budget that it was searched under (or within what it takes itself, where it is over that), both by the losses as they
    /// were measured.
    fn certify(&self, trial: &Trial) -> Result<Search, PipelineError> {
        let (graph, groups) = (self.source.graph_on_device(), &self.source.groups);
        let size = (self.source.imgsz, self.source.imgsz);
        let problem =
            problem::problem(&graph, groups, self.levels, &self.sensitivity.curves, self.table, size, trial.aim)
                .map_err(PipelineError::stage("search"))?;
        let proven = search::certify(&problem, &trial.plan, &search::Options::default());
        let proven = proven.map_err(PipelineError::stage("search"))?;
        Ok(Search {
            loss: Some(proven.loss),
            lower_bound: Some(proven.lower_bound),
            gap: Some(proven.gap),
            predicted_ms: Some(proven.latency_ms),
            rounds: trial.round,
        })
    }

    /// Repairs every candidate on most of the calibration images and answers which one is closest to the baseline network on
    /// the others.
    fn compare(&self, candidates: &[Trial], tell: Listener) -> Result<usize, PipelineError> {
        let Self { job, source, .. } = *self;
        let held = source.images.len() / TRIAL_SHARE;
        if candidates.len() < 2 || held == 0 {
            return Ok(0);
        }
        tell(Event::Stage("Comparing", format!("{} plans, each repaired, on {held} images", candidates.len())));
        // Between two pairs, so that no image is seen whose mirror image is not.
        let (seen, unseen) = source.images.split_at((source.images.len() - held).next_multiple_of(2));
        let calibration = Calibration { images: &seen[..seen.len().min(TRIAL_IMAGES)], ..source.calibration(job) };
        let size = (source.imgsz, source.imgsz);
        let run = |model: &Model| outputs(model, unseen, size).map_err(PipelineError::stage("comparison"));
        let reference = run(&source.model)?;
        let baseline = floors::recall(source, seen.len(), &reference);
        let mut least = (0, (f64::INFINITY, f64::INFINITY));
        for (number, trial) in candidates.iter().enumerate() {
            let repaired = repair::repair(
                &source.model,
                &source.groups,
                &trial.selection,
                &trial.cut,
                job.repair,
                &calibration,
                &mut |done, all| tell(Event::Progress(number * all + done, candidates.len() * all)),
            )
            .map_err(PipelineError::stage("repair"))?;
            let found = run(&repaired)?;
            let pairs = reference.iter().zip(&found);
            let loss: f64 = pairs.map(|(a, b)| kl_divergence(&source.model.graph.head, a, b)).sum();
            let loss = loss / unseen.len() as f64;
            let other = floors::recall(source, seen.len(), &found);
            let missing = floors::missing(&job.floors, &source.train.names, &baseline, &other);
            let floors = if missing > 0.0 { format!(", recall {missing:.3} below the floors") } else { String::new() };
            tell(Event::Note(format!("plan {}: {}{floors}", number + 1, distance(loss))));
            // Floors go first, on all classes together.
            if (missing, loss) < least.1 {
                least = (number, (missing, loss));
            }
        }
        Ok(least.0)
    }
}
