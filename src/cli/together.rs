//! Commands that several processes run together, one on each rank that a launcher has started.

use super::device::DeviceArgs;
use super::failure::Failure;
use crate::engine::{open_cuda, open_nccl};
use crate::kernels::cuda::nccl::MEETING;
use crate::output;
use crate::ranks::{HAS_MPI, Launched, RankError, Ranks};
use std::thread::sleep;
use std::time::Duration;

/// What the other ranks wait with an error of their own: where all fail alike, the first one has spoken and ended them.
const FIRST: Duration = Duration::from_secs(1);

/// Runs a command on all ranks. An error of one ends all, with its number; `json` is the format of messages, `device`
/// what the command trains on.
pub fn together<T>(
    json: bool,
    device: Option<&DeviceArgs>,
    run: impl FnOnce(&Ranks) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let ranks = match by_nccl(device)? {
        Some((launched, device)) => {
            let open = || Ok((open_nccl()?, open_cuda(device.ordinal(&launched))?));
            Ranks::over_gpus(&launched, open)?
        }
        None => Ranks::join()?,
    };
    // No rank leaves while another may still need it.
    let failure = match run(&ranks).and_then(|done| ranks.rest().map(|()| done).map_err(Failure::from)) {
        Ok(done) => return Ok(done),
        Err(failure) => failure,
    };
    if ranks.size() == 1 {
        return Err(failure);
    }
    if failure.is_of_all_ranks() {
        return Err(if ranks.is_first() { failure } else { Failure::Program(failure.code()) });
    }
    if !ranks.is_first() {
        sleep(FIRST);
    }
    output::message("", "note", &format!(": rank {} of {} ends all ranks:", ranks.rank(), ranks.size()));
    failure.show(json);
    ranks.abort(failure.code().into());
    Err(Failure::Program(failure.code()))
}

/// The process among those that a launcher has started and MPI does not reach, but their GPUs do; and its device.
fn by_nccl(device: Option<&DeviceArgs>) -> Result<Option<(Launched, &DeviceArgs)>, RankError> {
    let by_mpi = |launched: &Launched| HAS_MPI && launched.launcher != "torchrun";
    let launched = Launched::here()?.filter(|launched| launched.size > 1 && !by_mpi(launched));
    Ok(launched.zip(device.filter(|device| device.may_be_cuda())))
}

/// The variable that must say where such processes meet when they start, and what their launcher says.
pub fn meeting(device: &DeviceArgs) -> Option<(&'static str, String)> {
    let (launched, _) = by_nccl(Some(device)).ok()??;
    Some((MEETING, launched.meeting?))
}

/// Refuses a command that works by itself where a launcher has started several processes.
pub fn alone(command: &str) -> Result<(), Failure> {
    match Launched::here()? {
        Some(launched) if launched.size > 1 => Err(Failure::Usage(format!(
            "`secateurs {command}` does not share its work, and {} has started {} processes of it: start one",
            launched.launcher, launched.size
        ))),
        _ => Ok(()),
    }
}
