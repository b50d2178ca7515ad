//! Refuses before the expensive part of a job what could not be used at its end: settings, images, annotations, the folder
//! of the results.

use super::opened::Opened;
use crate::data::{Item, LabelTask, Picture, names_differ, overlap};
use crate::detector::check_size;
use crate::eval;
use crate::files;
use crate::model;
use crate::pipeline::error::PipelineError;
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::pipeline::results::{Results, room};
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
/// and checks whether the results can be written.
///
/// # Errors
/// Names what cannot be used.
pub fn check(job: &Job, results: &Results, progress: &dyn Progress) -> Result<(), PipelineError> {
    let opened = Opened::read(job, progress)?;
    inputs(&opened, job, progress)?;
    outputs(&opened, job, results)
}

/// Warns of what is doubtful about the data; it is used all the same.
fn warn(opened: &Opened, progress: &dyn Progress) {
    let (train, val) = (&opened.data.train, &opened.data.val);
    let notes = train.notes.iter().chain(&val.notes);
    let names = names_differ(&opened.baseline.model.info.names, &train.names);
    for note in names.iter().chain(&overlap(train, val)).chain(notes) {
        progress.message(format!("warning: {note}"));
    }
}

/// Refuses a device, sizes, images and annotations that a later stage could not use.
pub fn inputs(opened: &Opened, job: &Job, progress: &dyn Progress) -> Result<(), PipelineError> {
    warn(opened, progress);
    // Before hours of work, and not when networks run there first.
    job.computed_on()?;
    for size in &job.sizes {
        check_size(*size, &opened.baseline.model.graph)?;
    }
    let timing = job.timing.source();
    if job.sizes.len() > 1 && !timing.measures() {
        return Err(PipelineError::Input(
            "several image sizes can only be compared where networks can be timed: name one imgsz".into(),
        ));
    }
    timing.check()?;
    if opened.baseline.labels() == LabelTask::Detect {
        eval::check_annotations(&opened.data.val)?;
    }
    images(opened, progress)
}

/// Refuses images whose heads cannot be read, or that end too early.
fn images(opened: &Opened, progress: &dyn Progress) -> Result<(), PipelineError> {
    let items: Vec<_> = opened.data.val.items.iter().chain(&opened.data.train.items).collect();
    progress.stage("Checking", format!("the heads of {} images", items.len()));
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

/// Refuses a folder for the results that has too little room, or where an input would be replaced. The first rank writes.
pub fn outputs(opened: &Opened, job: &Job, results: &Results) -> Result<(), PipelineError> {
    if !job.ranks.is_first() {
        return Ok(());
    }
    results.check(&files::Inputs::new(job.model.iter().chain(&job.data)))?;
    let bytes = model::to_bytes(&opened.baseline.model).map_err(PipelineError::Serialize)?.len() as u64;
    results.check_room(COPIES * bytes + REPORTS)
}

/// Whether a folder for what is kept for the next run has room for a job's checkpoints and pictures.
pub fn has_room(folder: &std::path::Path) -> bool {
    room(folder).is_none_or(|free| free >= REPORTS)
}
