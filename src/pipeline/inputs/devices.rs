//! What adds up second moments for ranking and repair.

use super::baseline::Baseline;
use crate::engine::{Device, open_cuda};
use crate::pipeline::error::PipelineError;
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::ranks::Share;
use crate::repair::Pass;

/// The job's device, where all ranks have the memory for their share of so many calibration images there; else the CPU,
/// and progress says why.
///
/// # Errors
/// If the device cannot be used, or a rank cannot be reached.
pub(in crate::pipeline) fn device(
    job: &Job,
    baseline: &Baseline,
    images: usize,
    progress: &dyn Progress,
) -> Result<Device, PipelineError> {
    let Device::Cuda(ordinal) = job.device else { return Ok(Device::Cpu) };
    let own = Share::new(&job.ranks, images).range().len();
    let unusable = |source| PipelineError::Device { device: job.device, source };
    let free = open_cuda(ordinal).and_then(|device| device.free_memory()).map_err(unusable)?;
    let problem = match Pass::bytes_on_gpu(&baseline.model.graph, baseline.size(), own) {
        Ok(needed) if needed <= free => None,
        Ok(needed) => Some(format!("they need {} MiB of GPU memory, {} MiB are free", needed >> 20, free >> 20)),
        Err(problem) => Some(problem.to_string()),
    };
    // All do the same, so that all do it the same way whatever their number.
    let Some(problem) = job.ranks.of_all(problem)?.into_iter().flatten().next() else { return Ok(job.device) };
    progress.message(format!("second moments and repair stay on the CPU: {problem}"));
    Ok(Device::Cpu)
}
