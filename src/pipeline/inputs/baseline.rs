//! The model that a job prunes, with its channel groups and the size of its images.

use crate::bundle::sha256;
use crate::data::demo;
use crate::detector::input_size;
use crate::files;
use crate::graph::{Branch, Dtype, Head};
use crate::group::{Groups, groups};
use crate::import;
use crate::model::{self, Model};
use crate::pipeline::error::PipelineError;
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::size::ImageSize;
use crate::train::Augment;
use crate::vision::Preprocess;
use std::path::Path;

/// The model of the embedded demo: a narrow YOLO11 trained on the drawn set of [`demo`].
pub const DEMO_MODEL: &[u8] = include_bytes!("../demo.safetensors");

/// The model before pruning.
pub struct Baseline {
    /// The model, in f32.
    pub model: Model,
    /// Where it came from, for people.
    pub name: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// The groups of channels that are removed together.
    pub groups: Groups,
    /// Size of the image.
    pub imgsz: ImageSize,
}

impl Baseline {
    /// Reads the model of a job.
    ///
    /// # Errors
    /// If it cannot be imported, has a task that the job does not prune, or does not suit the image size.
    pub fn load(job: &Job, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let name = job.model.as_ref().map_or("the embedded demo".to_owned(), |path| path.display().to_string());
        progress.stage("Importing", name.clone());
        let (model, sha256) = match &job.model {
            Some(path) => {
                let model = import::load(path)?;
                let bytes = files::read(path, model::MAX_FILE).map_err(|e| PipelineError::reading(path, e))?;
                (model, sha256(&bytes))
            }
            None => (model::from_bytes(Path::new("demo.safetensors"), DEMO_MODEL)?, sha256(DEMO_MODEL)),
        };
        if model.graph.dtype != Dtype::F32 {
            progress.message(format!("{name} is in {}: its values are taken as f32", model.graph.dtype.name()));
        }
        // Training and judging follow the branch whose duplicates are suppressed.
        let model = match model.graph.head {
            Head::EndToEnd { one2many: true, .. } => {
                let fail = |e: model::ModelError| PipelineError::Input(format!("{name}: {e}"));
                model.with_branch(Branch::One2Many).map_err(fail)?
            }
            _ => model,
        };
        let model = model.into_f32();
        if model.graph.head.is_one2one() || model.graph.head.boxes().is_some_and(|boxes| boxes.reg_max == 1) {
            let problem = format!(
                "{name}: boxes without a distribution, as YOLO26 has them, and one2one branches cannot be pruned yet"
            );
            return Err(PipelineError::Input(problem));
        }
        if !matches!(model.graph.head, Head::Detect { .. } | Head::Classify { .. }) {
            let task = model.graph.head.task();
            let problem = format!("{name}: its task is `{task}`; the job prunes detectors and classifiers");
            return Err(PipelineError::Input(problem));
        }
        let demo = job.model.is_none().then_some(ImageSize::square(demo::SIDE));
        let imgsz = input_size(&model, job.imgsz.or(demo))?;
        model
            .graph
            .shapes(imgsz.height, imgsz.width)
            .map_err(|e| PipelineError::Input(format!("{name}: at {imgsz} px: {e}")))?;
        let groups = groups(&model.graph);
        let baseline = Self { model, name, sha256, groups, imgsz };
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

    /// Whether it classifies whole images.
    pub fn classifies(&self) -> bool {
        matches!(self.model.graph.head, Head::Classify { .. })
    }

    /// How training images are varied.
    pub fn augment(&self) -> Augment {
        if self.model.graph.input_channels() == 1 { Augment::SIGNS } else { Augment::default() }
    }
}
