//! Chooses the image size together with the widths: a smaller image leaves time for wider layers.
//!
//! Every size is planned, cut and repaired under the same budget in milliseconds, that of the first size. Losses of
//! different sizes cannot be compared, so each repaired network is evaluated on training images, those that calibration did
//! not see first.

use super::job::{Event, Job, Listener};
use super::{Clock, PipelineError, Source, measure, plan};
use crate::data::Dataset;
use crate::eval::Prepared;
use crate::report::Asked;
use crate::{repair, surgery};

/// The most training images to evaluate on.
const IMAGES: usize = 128;

/// The job with its size settled, and the budget in milliseconds.
pub(super) fn choose(job: &Job, tell: Listener) -> Result<Job, PipelineError> {
    let mut budget = job.budget;
    let mut best: Option<(f64, Job)> = None;
    let mut refused = None;
    for (number, side) in job.sizes.iter().enumerate() {
        let tried = Job { imgsz: Some(*side), sizes: vec![*side], budget, ..job.clone() };
        let source = Source::gather(&tried, tell)?;
        if number == 0
            && let Some(ratio) = budget.latency_ratio.take()
        {
            let allowed = ratio * measure::baseline_millis(&source, job)?;
            budget.latency_ms = Some(budget.latency_ms.map_or(allowed, |known| known.min(allowed)));
        }
        let tried = Job { budget, ..tried };
        match attempt(&tried, &source, tell) {
            Ok(map) => {
                tell(Event::Note(format!("{side} px: mAP50-95 {map:.4} on training images")));
                if best.as_ref().is_none_or(|(most, _)| map > *most) {
                    best = Some((map, tried));
                }
            }
            // Another size may fit.
            Err(why @ PipelineError::Infeasible(_)) => {
                tell(Event::Note(format!("{side} px: {why}")));
                refused = Some(why);
            }
            Err(why) => return Err(why),
        }
    }
    let words = || measure::describe(&Asked { ..budget });
    match best {
        Some((_, job)) => Ok(job),
        None => Err(refused.unwrap_or_else(|| PipelineError::Infeasible(format!("no image size meets {}", words())))),
    }
}

/// mAP50-95 of the plan at one size, after repair.
fn attempt(job: &Job, source: &Source, tell: Listener) -> Result<f64, PipelineError> {
    let planned = plan(job, source, tell, &mut Clock::default())?;
    let cut = surgery::cut(&source.model, &source.groups, &planned.selection);
    let cut = cut.map_err(PipelineError::stage("surgery"))?;
    let mut progress = |done, all| tell(Event::Progress(done, all));
    let calibration = source.calibration(job);
    let repaired = repair::repair(
        &source.model,
        &source.groups,
        &planned.selection,
        &cut,
        job.repair,
        &calibration,
        &mut progress,
    );
    let repaired = repaired.map_err(PipelineError::stage("repair"))?;
    // Images that calibration saw come last.
    let seen = |index: &usize| source.calibration_items.binary_search(index).is_ok();
    let mut order: Vec<usize> = (0..source.train.items.len()).collect();
    order.sort_by_key(seen);
    let items = order.into_iter().take(IMAGES).map(|index| source.train.items[index].clone()).collect();
    let sample = Dataset { items, annotations: None, ..source.train.clone() };
    let prepared = Prepared::new(&sample, source.imgsz).map_err(super::evaluation)?;
    let found = prepared.evaluate(&repaired, rayon::current_num_threads());
    let map = found.map_err(super::evaluation)?.map50_95;
    // Below zero stands for a figure that there is not.
    if map < 0.0 {
        return Err(PipelineError::Input(format!(
            "{}: image sizes cannot be compared, because the training images show no labelled object",
            source.data_name
        )));
    }
    Ok(map)
}
