//! What estimates the output sensitivity and adds up second moments: the job's device, where its memory suffices.

use super::baseline::Baseline;
use crate::engine::{Device, open_cuda};
use crate::importance;
use crate::pipeline::error::PipelineError;
use crate::pipeline::job::Job;
use crate::pipeline::progress::Progress;
use crate::ranks::Share;
use crate::repair::Pass;
use std::fmt::Display;

/// What adds up second moments for ranking and repair: the job's device, where all ranks have the memory for their share
/// of so many calibration images there; else the CPU, and progress says why.
///
/// # Errors
/// If the device cannot be used, or a rank cannot be reached.
pub(in crate::pipeline) fn moments_on(
    job: &Job,
    baseline: &Baseline,
    images: usize,
    progress: &dyn Progress,
) -> Result<Device, PipelineError> {
    let own = Share::new(&job.ranks, images).range().len();
    let needed = || Pass::bytes_on_gpu(&baseline.model.graph, baseline.size(), own);
    where_it_fits(job, ["second moments and repair stay", "they need"], needed, progress)
}

/// What estimates the output sensitivity: the job's device, where all ranks have the memory for one image at a time there;
/// else the CPU, and progress says why.
///
/// # Errors
/// As [`moments_on`].
pub(in crate::pipeline) fn sensitivity_on(
    job: &Job,
    baseline: &Baseline,
    progress: &dyn Progress,
) -> Result<Device, PipelineError> {
    let needed = || importance::sensitivity_bytes_on_gpu(&baseline.model.graph, baseline.size());
    where_it_fits(job, ["output sensitivity stays", "it needs"], needed, progress)
}

/// The job's device, where all ranks have the bytes of memory that are needed there.
fn where_it_fits<E: Display>(
    job: &Job,
    [what, needs]: [&str; 2],
    needed: impl FnOnce() -> Result<usize, E>,
    progress: &dyn Progress,
) -> Result<Device, PipelineError> {
    let Device::Cuda(ordinal) = job.device else { return Ok(Device::Cpu) };
    let unusable = |source| PipelineError::Device { device: job.device, source };
    let free = open_cuda(ordinal).and_then(|device| device.free_memory()).map_err(unusable)?;
    let problem = match needed() {
        Ok(needed) if needed <= free => None,
        Ok(needed) => Some(format!("{needs} {} MiB of GPU memory, {} MiB are free", needed >> 20, free >> 20)),
        Err(problem) => Some(problem.to_string()),
    };
    // All do the same, so that all do it the same way whatever their number.
    let Some(problem) = job.ranks.of_all(problem)?.into_iter().flatten().next() else { return Ok(job.device) };
    progress.message(format!("{what} on the CPU: {problem}"));
    Ok(Device::Cpu)
}
