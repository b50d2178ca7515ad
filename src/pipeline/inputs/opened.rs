//! Model and data of a job as they were read: checked against each other, before anything is computed of them.

use super::baseline::Baseline;
use super::data::Data;
use crate::pipeline::error::PipelineError;
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;

/// Model and data.
pub struct Opened {
    /// The model.
    pub baseline: Baseline,
    /// The dataset.
    pub data: Data,
}

impl Opened {
    /// Reads model and dataset, and checks that they and the job's settings go together.
    ///
    /// # Errors
    /// Names the first file or setting that cannot be used.
    pub fn read(job: &Job, progress: &dyn Progress) -> Result<Self, PipelineError> {
        let baseline = Baseline::load(job, progress)?;
        let data = Data::open(job, &baseline, progress)?;
        Ok(Self { baseline, data })
    }
}
