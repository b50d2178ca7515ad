//! What is refused before the expensive part of a job: settings, images and annotations that could not be used at its end.

use super::job::{Event, Job, Listener, Timing};
use super::results::{Results, room};
use super::{PipelineError, Source, external};
use crate::data::{Item, Picture, names_differ, overlap};
use crate::detector::check_side;
use crate::eval;
use crate::files::Inputs;
use crate::graph::Head;
use crate::model;
use crate::vision::Image;
use rayon::prelude::*;

/// How many unusable images are named.
const NAMED: usize = 5;

/// Room for reports and the code of the inference binary, bytes.
const REPORTS: u64 = 32 << 20;

/// Files of the size of the model that lie in the results' folder while a set is replaced: baseline, shipped, and the one
/// in the binary, of the old and of the new set.
const COPIES: u64 = 6;

/// Checks all that a job names without doing any of it: reads model, labels, annotations and the heads of the images,
/// and looks whether the results can be written.
///
/// # Errors
/// Names what cannot be used.
pub fn check(job: &Job, results: &Results, tell: Listener) -> Result<(), PipelineError> {
    let source = Source::open(job, tell)?;
    inputs(&source, job, tell)?;
    outputs(&source, job, results)
}

/// Says what is doubtful about the data, as `Event::Note`: it is used all the same.
pub(super) fn doubts(source: &Source, tell: Listener) {
    let (train, val) = (&source.train, &source.val);
    let notes = train.notes.iter().chain(&val.notes);
    for note in names_differ(&source.model.info.names, &train.names).iter().chain(&overlap(train, val)).chain(notes) {
        tell(Event::Note(format!("warning: {note}")));
    }
}

/// Refuses sizes, floors, images and annotations that a later stage could not use.
pub(super) fn inputs(source: &Source, job: &Job, tell: Listener) -> Result<(), PipelineError> {
    doubts(source, tell);
    let stride = source.model.graph.stride();
    for side in &job.sizes {
        check_side(*side, stride).map_err(|e| PipelineError::Setting(e.to_string()))?;
    }
    let estimated = matches!(job.timing, Timing::Estimate(_));
    if job.sizes.len() > 1 && estimated {
        return Err(PipelineError::Input(
            "several image sizes can only be compared where networks can be timed: name one imgsz".into(),
        ));
    }
    if let Timing::Command(command, _) = &job.timing {
        external::check(command)?;
    }
    if !matches!(source.model.graph.head, Head::Classify { .. }) {
        eval::check_annotations(&source.val).map_err(super::evaluation)?;
    }
    images(source, tell)
}

/// Refuses images whose heads cannot be read, or that are cut off.
fn images(source: &Source, tell: Listener) -> Result<(), PipelineError> {
    let items: Vec<_> = source.val.items.iter().chain(&source.train.items).collect();
    tell(Event::Stage("Checking", format!("the heads of {} images", items.len())));
    let head = |item: &&Item| match &item.image {
        Picture::File(path) => Image::check(path).err(),
        Picture::Grey(..) => None,
    };
    let bad: Vec<String> = items.par_iter().filter_map(head).map(|e| e.to_string()).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let more = bad.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    Err(PipelineError::Input(bad.into_iter().take(NAMED).collect::<Vec<_>>().join("\n") + &more))
}

/// Refuses a folder for the results in which there is not room enough, or where an input would be replaced.
pub(super) fn outputs(source: &Source, job: &Job, results: &Results) -> Result<(), PipelineError> {
    results.check(&Inputs::new(job.model.iter().chain(&job.data)))?;
    let bytes = model::to_bytes(&source.model).map_err(PipelineError::stage("writing"))?.len() as u64;
    results.check_room(COPIES * bytes + REPORTS)
}

/// Whether a folder for what is kept for the next run has room for a job's checkpoints and pictures.
pub fn has_room(folder: &std::path::Path) -> bool {
    room(folder).is_none_or(|free| free >= REPORTS)
}
