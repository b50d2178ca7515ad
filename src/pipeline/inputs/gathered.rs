//! Everything that the stages of a job read: model, data, calibration images, deployment, output sensitivity.

use super::baseline::Baseline;
use super::calibration::CalibrationSet;
use super::check;
use super::data::Data;
use super::deployment::Deployment;
use super::devices;
use super::opened::Opened;
use crate::bundle::sha256;
use crate::engine::Device;
use crate::importance::{Batches, sensitivity};
use crate::model::Model;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::ranks::Ranks;
use crate::repair::{Calibration, Sensitivity};
use crate::report::Report;

/// Weight of the pull toward the weights before the refit, as a share of the inputs' mean variance.
pub(in crate::pipeline) const RIDGE: f64 = 0.03;

/// Images per batch while the output sensitivity is estimated.
const SENSITIVITY_BATCH: usize = 4;

/// The inputs of a job.
pub struct Inputs {
    /// The model.
    pub baseline: Baseline,
    /// The dataset.
    pub data: Data,
    /// The calibration images.
    pub calibration: CalibrationSet,
    /// Models as the device runs them.
    pub deployment: Deployment,
    /// How much the model's outputs depend on its layers, on the calibration images.
    pub sensitivity: Sensitivity,
    /// The ranks that share the images.
    pub ranks: Ranks,
    /// What runs networks: see [`Job::computed_on`], and whether second moments or the output sensitivity are the CPU's none
    /// the less.
    pub computed_on: String,
    /// What adds up second moments.
    pub moments_on: Device,
}

impl Inputs {
    /// Reads and checks everything the job names, and computes what the stages need of it.
    ///
    /// # Errors
    /// Names the first file or setting that cannot be used.
    pub fn gather(job: &Job, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let opened = Opened::read(job, progress)?;
        check::inputs(&opened, job, progress)?;
        Self::prepare(opened, job, progress)
    }

    /// Loads the calibration images, and estimates how the outputs depend on the layers.
    ///
    /// # Errors
    /// Names the image that cannot be used, or the rank that has others.
    pub fn prepare(opened: Opened, job: &Job, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let Opened { baseline, data } = opened;
        let calibration = CalibrationSet::load(job, &baseline, &data, progress)?;
        let ranks = job.ranks.clone();
        let computed_on = job.computed_on()?;
        check_ranks(&ranks, &baseline, &calibration, &computed_on)?;
        let moments_on = devices::moments_on(job, &baseline, calibration.images.len(), progress)?;
        let sensitivity_on = devices::sensitivity_on(job, &baseline, progress)?;
        let stays = |device: Device, text: &'static str| if device == job.device { "" } else { text };
        let computed_on = computed_on
            + stays(moments_on, ", second moments on the CPU")
            + stays(sensitivity_on, ", output sensitivity on the CPU");
        let deployment = Deployment::new(job, &baseline, &calibration)?;
        if deployment.stores_only() {
            progress.message("the CPU has no f16 arithmetic: f16 is stored, and computed as f32".into());
        }
        let layers = baseline.model.graph.convs().count();
        progress.stage("Estimating", format!("output sensitivity of {layers} layers"));
        let (height, width) = baseline.size();
        let images =
            Batches { images: &calibration.images, height, width, batch: SENSITIVITY_BATCH, ranks: ranks.clone() };
        let mut step = |done, all| progress.step(done, all);
        let sensitivity =
            sensitivity(&baseline.model, &images, sensitivity_on, job.seed, &mut step).during(Task::Sensitivity)?;
        Ok(Self { baseline, data, calibration, deployment, sensitivity, ranks, computed_on, moments_on })
    }

    /// The calibration images as importance and repair take them.
    pub fn repair_calibration(&self, seed: u64) -> Calibration<'_> {
        Calibration {
            images: &self.calibration.images,
            height: self.baseline.imgsz.height,
            width: self.baseline.imgsz.width,
            ridge: RIDGE,
            seed,
            sensitivity: Some(&self.sensitivity),
            ranks: self.ranks.clone(),
            device: self.moments_on,
        }
    }

    /// Writes into a model where it came from and what was done to it. Nothing that is measured, and no folder: the same
    /// inputs give the same bytes wherever they lie.
    pub fn add_provenance(&self, mut model: Model, job: &Job, report: &Report) -> Model {
        let file = job.model.as_ref().and_then(|path| path.file_name());
        let source = file.map_or_else(|| self.baseline.name.clone(), |name| name.to_string_lossy().into_owned());
        let facts = [
            ("source", source),
            ("source-sha256", self.baseline.sha256.clone()),
            ("secateurs", report.version.clone()),
            ("target", job.target.clone()),
            ("importance", report.importance.clone()),
            ("seed", job.seed.to_string()),
        ];
        model.info.provenance.extend(facts.map(|(key, value)| (key.to_owned(), value)));
        model.info.imgsz = Some(self.baseline.imgsz);
        if model.info.names.is_empty() {
            model.info.names = self.data.train.names.clone();
        }
        model
    }
}

/// Refuses ranks of which one has another model or other calibration images than the first, since its machine may have
/// other files under the same paths; or another device, whose figures differ.
fn check_ranks(
    ranks: &Ranks,
    baseline: &Baseline,
    calibration: &CalibrationSet,
    computed_on: &str,
) -> Result<(), PipelineError> {
    let devices = ranks.of_all(computed_on.to_owned())?;
    if let Some(rank) = devices.iter().position(|other| *other != devices[0]) {
        return Err(PipelineError::Setting(format!(
            "rank {rank} computes on {}, and rank 0 on {}: all need the same kind of device, or --device cpu",
            devices[rank], devices[0]
        )));
    }
    let own = (baseline.sha256.clone(), calibration.sha256.clone(), sha256(calibration.labels_text().as_bytes()));
    let all = ranks.of_all(own)?;
    all.iter().position(|other| *other != all[0]).map_or(Ok(()), |rank| {
        Err(PipelineError::Input(format!(
            "rank {rank} has another model, other calibration images or other labels than rank 0: all need the same files"
        )))
    })
}
