//! The dataset of a job: training and validation images with their labels.

use super::baseline::Baseline;
use crate::data::{DataError, Dataset, LabelTask, OpenOptions, demo};
use crate::graph::Head;
use crate::pipeline::error::PipelineError;
use crate::pipeline::job::{Job, MinRecall};
use crate::pipeline::progress::Progress;
use crate::profile::{demo_task, nearest};
use crate::train;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Training and validation images of the demo.
const DEMO_IMAGES: (usize, usize) = (800, 100);

/// Images and labels.
pub struct Data {
    /// Training images and labels.
    pub train: Dataset,
    /// Validation images and labels.
    pub val: Dataset,
    /// Images of a split of their own that choose between epochs, where the job names one.
    pub held: Option<Dataset>,
    /// Where the data came from, for people.
    pub name: String,
    /// Identifies the training data, once it has been asked for.
    train_content: OnceLock<String>,
}

impl Data {
    /// Opens the dataset of a job, and draws it where it is a drawn one.
    ///
    /// # Errors
    /// If the dataset cannot be used, or does not suit the model or the minimum recalls.
    pub fn open(job: &Job, baseline: &Baseline, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let yaml = job.ranks.in_turn(|| yaml(job, baseline.labels(), progress))?;
        let name = job.data.as_ref().map_or("the embedded drawn set".to_owned(), |path| path.display().to_string());
        let options = OpenOptions { task: baseline.labels(), ..OpenOptions::default() };
        let open = |split: &str| {
            let mut set = Dataset::open_with(&yaml, split, &options)?;
            if job.skip_bad_images {
                set.skip_unreadable()?;
            }
            Ok::<_, DataError>(set)
        };
        let (train, val) = (open("train")?, open("val")?);
        let held = job.tune.held_split.as_deref().filter(|_| job.tune.epochs > 0).map(open).transpose()?;
        check_fit(job, (&name, &yaml), baseline, &train)?;
        check_min_recall(&job.floors, &val)?;
        Ok(Self { train, val, held, name, train_content: OnceLock::new() })
    }

    /// Identifies the training data, pictures and labels.
    ///
    /// # Errors
    /// Names the picture that cannot be read.
    pub fn train_content(&self) -> Result<String, PipelineError> {
        if let Some(known) = self.train_content.get() {
            return Ok(known.clone());
        }
        let found = self.train.content()?;
        Ok(self.train_content.get_or_init(|| found).clone())
    }
}

/// The file that describes the dataset of a job.
fn yaml(job: &Job, task: LabelTask, progress: &dyn Progress) -> Result<PathBuf, PipelineError> {
    let name = job.data.as_ref().and_then(|path| path.to_str());
    let drawn_here = name.and_then(|name| demo::named(name, DEMO_IMAGES.0)).transpose();
    let drawn_here = drawn_here.map_err(|e| PipelineError::Setting(format!("data: {e}")))?;
    match (&job.data, drawn_here) {
        (_, Some(count)) => drawn_for(task, &job.cache, (count, DEMO_IMAGES.1), progress),
        (Some(path), None) => Ok(path.clone()),
        (None, None) if job.model.as_ref().is_some_and(|path| demo_task(path).is_none()) => {
            Err(PipelineError::Input("a model without data: name its dataset with --data data.yaml".into()))
        }
        (None, None) => drawn_for(task, &job.cache, DEMO_IMAGES, progress),
    }
}

/// A drawn dataset, made once in a folder that is kept: its `data.yaml`. Pictures and labels that are not as they were
/// drawn are drawn again.
///
/// # Errors
/// If the folder cannot be written.
pub fn drawn(cache: &Path, train: usize, val: usize, progress: &dyn Progress) -> Result<PathBuf, PipelineError> {
    drawn_for(LabelTask::Detect, cache, (train, val), progress)
}

/// As [`drawn`], with the labels of a task.
///
/// # Errors
/// As [`drawn`].
pub fn drawn_for(
    task: LabelTask,
    cache: &Path,
    (train, val): (usize, usize),
    progress: &dyn Progress,
) -> Result<PathBuf, PipelineError> {
    let kind = match task {
        LabelTask::Detect => "drawn",
        LabelTask::Segment => "drawn-segment",
        LabelTask::Pose => "drawn-pose",
        LabelTask::Obb => "drawn-obb",
        LabelTask::Classify => "drawn-classify",
    };
    let folder = cache.join(format!("{kind}-{}-{train}-{val}", demo::SIDE));
    let (yaml, again) = demo::ensure_for(task, &folder, train, val).map_err(|e| match e {
        DataError::Io { path, source } => PipelineError::Writing { path, source },
        other => other.into(),
    })?;
    if again > 0 {
        let place = folder.display();
        progress.message(format!("{place}: {again} pictures were missing or changed; they are drawn again"));
    }
    Ok(yaml)
}

/// Refuses data with other classes or keypoints than the network's, with the command line that trains it for them.
fn check_fit(job: &Job, (name, yaml): (&str, &Path), baseline: &Baseline, data: &Dataset) -> Result<(), PipelineError> {
    let (graph, model) = (&baseline.model.graph, &baseline.name);
    let (classes, named) = (graph.classes(), data.names.len());
    let problem = match (graph.head.branch(), &data.keypoints) {
        _ if classes != named => format!("{name} names {named} classes, {model} knows {classes}"),
        // Points without a third value count as visible; the head need not tell.
        (Head::Pose { keypoints, dims, .. }, Some(shape)) if *keypoints != shape.count => {
            let (count, values) = (shape.count, shape.dims);
            format!("{name} labels {count} keypoints of {values} values, {model} finds {keypoints} of {dims}")
        }
        _ => return Ok(()),
    };
    let own = job.model.as_deref().filter(|path| demo_task(path).is_none());
    // In place of a demo, which is no file, a network of its task.
    let published = match graph.head.task() {
        "segment" => "yolo11n-seg",
        "pose" => "yolo11n-pose",
        "obb" => "yolo11n-obb",
        "classify" => "yolo11n-cls",
        _ => "yolo11n",
    };
    let way_out = train::transfer_command(own.unwrap_or(Path::new(published)), yaml);
    Err(PipelineError::Input(format!(
        "{problem}; both must agree: train the model for this data first, which keeps all but the branch that differs:\n  \
         {way_out}"
    )))
}

/// Refuses a minimum recall of a class that does not exist, or that no validation image shows.
fn check_min_recall(floors: &MinRecall, val: &Dataset) -> Result<(), PipelineError> {
    let names: Vec<&str> = val.names.iter().map(String::as_str).collect();
    for name in floors.keys() {
        let Some(class) = names.iter().position(|known| known == name) else {
            let guess = nearest(name, &names).map(|guess| format!("; did you mean `{guess}`?")).unwrap_or_default();
            return Err(PipelineError::Input(format!("floors: the dataset has no class `{name}`{guess}")));
        };
        if !val.items.iter().any(|item| item.labels.iter().any(|label| label.class == class)) {
            return Err(PipelineError::Input(format!("floors: no validation image shows `{name}`")));
        }
    }
    Ok(())
}
