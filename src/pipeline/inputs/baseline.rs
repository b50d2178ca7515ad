//! The model that a job prunes, with its channel groups and the size of its images.

use crate::bundle::sha256;
use crate::data::{LabelTask, demo};
use crate::detector::input_size;
use crate::files;
use crate::graph::{Dtype, Head};
use crate::group::{Groups, groups};
use crate::import;
use crate::model::{self, Model, ModelError, Removed};
use crate::pipeline::error::PipelineError;
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::profile::demo_task;
use crate::quantise::Exceptions;
use crate::report::BranchChoice;
use crate::size::ImageSize;
use crate::train::Augment;
use crate::vision::Preprocess;
use std::path::Path;

/// The model of the embedded demo: a narrow YOLO11 trained on the drawn set of [`demo`].
pub const DEMO_MODEL: &[u8] = include_bytes!("../demo.safetensors");

/// The models of the demo, each trained on the drawn set of its task.
const DEMO_MODELS: [(LabelTask, &[u8]); 5] = [
    (LabelTask::Detect, DEMO_MODEL),
    (LabelTask::Segment, include_bytes!("../demo-segment.safetensors")),
    (LabelTask::Pose, include_bytes!("../demo-pose.safetensors")),
    (LabelTask::Obb, include_bytes!("../demo-obb.safetensors")),
    (LabelTask::Classify, include_bytes!("../demo-classify.safetensors")),
];

/// The model before pruning.
pub struct Baseline {
    /// The model, in f32.
    pub model: Model,
    /// Where it came from, for people.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// The branch of its end-to-end head, where it has such a head.
    pub branch: Option<BranchChoice>,
    /// The groups of channels that are removed together.
    pub groups: Groups,
    /// Size of the image.
    pub imgsz: ImageSize,
    /// The layers that its file keeps out of int8, where it is in int8.
    pub full_precision: Exceptions,
}

impl Baseline {
    /// Reads the model of a job.
    ///
    /// # Errors
    /// If it cannot be imported, has a task that the job does not prune, or does not suit the image size.
    pub fn load(job: &Job, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let demo = demo_model(job)?;
        let name = match &job.model {
            Some(path) if demo.is_none() => path.display().to_string(),
            Some(path) => format!("the embedded {}", path.display()),
            None => "the embedded demo".to_owned(),
        };
        progress.stage("Importing", name.clone());
        let (model, sha256) = match (&job.model, demo) {
            (Some(path), None) => {
                let model = import::load(path)?;
                let bytes = files::read(path, model::MAX_FILE).map_err(|e| PipelineError::reading(path, e))?;
                (model, sha256(&bytes))
            }
            (_, demo) => {
                let bytes = demo.unwrap_or(DEMO_MODEL);
                (model::from_bytes(Path::new("demo.safetensors"), bytes)?, sha256(bytes))
            }
        };
        if demo.is_none() && model.graph.dtype != Dtype::F32 {
            progress.message(format!("{name} is in {}: its values are taken as f32", model.graph.dtype.name()));
        }
        let full_precision = model.graph.exceptions.clone();
        let whole = model.into_f32();
        let fail = |e: ModelError| PipelineError::Input(format!("{name}: {e}"));
        let model = whole.deployed(job.head).map_err(fail)?;
        let usual = (demo.is_some() && model.info.imgsz.is_none()).then_some(ImageSize::square(demo::SIDE));
        let imgsz = input_size(&model, job.imgsz.or(usual))?;
        let ImageSize { height, width } = imgsz;
        model.graph.shapes(height, width).map_err(|e| PipelineError::Input(format!("{name}: at {imgsz} px: {e}")))?;
        let branch = match &whole.graph.head {
            Head::EndToEnd { one2many, .. } => {
                let removed = Removed::between(&whole, &model, imgsz).map_err(fail)?;
                Some(BranchChoice { branch: model.graph.branch(), removed: one2many.then_some(removed) })
            }
            _ => None,
        };
        if let Some(BranchChoice { branch, removed: Some(removed) }) = &branch {
            progress.message(format!("head {}: without the other branch the model has {removed}", branch.name()));
        }
        let groups = groups(&model.graph);
        let baseline = Self { model, name, sha256, branch, groups, imgsz, full_precision };
        baseline.preprocess()?;
        Ok(baseline)
    }

    /// How images become its input.
    ///
    /// # Errors
    /// If no image does.
    pub fn preprocess(&self) -> Result<Preprocess, PipelineError> {
        let fail = |source| PipelineError::Preprocess { model: self.name.clone(), source };
        Preprocess::new(&self.model).map_err(fail)
    }

    /// Height and width of its images, pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.imgsz.height, self.imgsz.width)
    }

    /// The width of every group.
    pub fn widths(&self) -> Vec<usize> {
        self.groups.groups.iter().map(|group| group.width()).collect()
    }

    /// The labels of its task.
    pub fn labels(&self) -> LabelTask {
        LabelTask::named(self.model.graph.head.task())
    }

    /// Whether it classifies whole images.
    pub fn classifies(&self) -> bool {
        matches!(self.model.graph.head, Head::Classify { .. })
    }

    /// How training images are varied.
    pub fn augment(&self) -> Augment {
        Augment::of(&self.model.graph)
    }
}

/// The file of the demo that a job prunes: `demo`, or `demo:TASK`; none where it names another model.
fn demo_model(job: &Job) -> Result<Option<&'static [u8]>, PipelineError> {
    let Some(path) = &job.model else { return Ok(Some(DEMO_MODEL)) };
    let Some(task) = demo_task(path) else { return Ok(None) };
    let found = DEMO_MODELS.iter().find(|(known, _)| known.name() == task);
    let names = || DEMO_MODELS.map(|(known, _)| format!("demo:{}", known.name())).join(", ");
    let problem = || PipelineError::Setting(format!("model: {}: expected one of {}", path.display(), names()));
    found.map(|(_, bytes)| Some(*bytes)).ok_or_else(problem)
}
