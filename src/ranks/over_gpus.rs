//! Ranks that reach each other through their GPUs alone, where a launcher has started them without MPI: bytes go through
//! a small buffer of the device.

use super::peers::Peers;
use super::{Collectives, Gpus, Launched, RankError, Ranks};
use crate::kernels::cuda::Device;
use crate::kernels::cuda::nccl::{MEETING, Nccl, NcclError, UniqueId};
use std::env;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Values of the buffer that each rank has.
const EACH: usize = 1 << 18;

/// They, as one of them sees them.
struct OverGpus {
    // Left before the device is.
    gpus: Arc<Gpus>,
    device: Mutex<Device>,
    rank: usize,
    size: usize,
}

/// Joins the ranks of a launcher.
///
/// # Errors
/// See [`Ranks::over_gpus`].
pub(super) fn join(
    launched: &Launched,
    open: impl FnOnce() -> Result<(Nccl, Device), NcclError>,
) -> Result<Ranks, RankError> {
    let Launched { launcher, rank, size, .. } = *launched;
    if env::var_os(MEETING).is_none() {
        return Err(match &launched.meeting {
            Some(meeting) => RankError::Untold { variable: MEETING, meeting: meeting.clone() },
            None => RankError::Nowhere { launcher, size },
        });
    }
    let (nccl, device) = open()?;
    joined(&nccl, nccl.id()?, [rank, size], device)
}

/// Joins ranks by what they have in common.
pub(super) fn joined(
    nccl: &Nccl,
    id: UniqueId,
    [rank, size]: [usize; 2],
    mut device: Device,
) -> Result<Ranks, RankError> {
    device.reserve(size.max(2) * EACH).map_err(NcclError::from)?;
    let communicator = nccl.join(id, rank, size, &device)?;
    let gpus = Arc::new(Gpus { communicator, peers: OnceLock::new() });
    let ranks = Ranks::new(OverGpus { gpus: gpus.clone(), device: Mutex::new(device), rank, size });
    let _ = gpus.peers.set(Peers::of(&ranks)?);
    Ok(ranks)
}

/// Bytes as values, the last one filled up.
fn values(bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len().div_ceil(4)];
    bytemuck::cast_slice_mut::<f32, u8>(&mut values)[..bytes.len()].copy_from_slice(bytes);
    values
}

impl OverGpus {
    fn device(&self) -> Result<MutexGuard<'_, Device>, RankError> {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.enter()?;
        Ok(device)
    }
}

impl Collectives for OverGpus {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, own: &[u8], lens: &[usize]) -> Result<Vec<u8>, RankError> {
        let mut device = self.device()?;
        let mut all: Vec<Vec<u8>> = lens.iter().map(|len| Vec::with_capacity(*len)).collect();
        // All ranks give as many as the one that gives most.
        let most = lens.iter().copied().max().unwrap_or(0);
        for first in (0..most).step_by(4 * EACH) {
            let each = (most - first).div_ceil(4).min(EACH);
            let now = own.get(first..).unwrap_or_default();
            let now = values(&now[..now.len().min(4 * each)]);
            device.upload(self.rank * each, &now)?;
            let started = self.gpus.communicator().gather(&device, [self.rank * each, 0], each);
            self.gpus.finish(&device, started.map_err(RankError::from))?;
            let mut found = vec![0.0; each * self.size];
            device.download(0, &mut found)?;
            let found = bytemuck::cast_slice::<f32, u8>(&found).chunks_exact(4 * each);
            for ((all, len), found) in all.iter_mut().zip(lens).zip(found) {
                all.extend_from_slice(&found[..len.saturating_sub(first).min(4 * each)]);
            }
        }
        Ok(all.concat())
    }

    fn exchange(&self, partner: usize, own: &[u8], theirs: &mut [u8]) -> Result<(), RankError> {
        let mut device = self.device()?;
        for (own, theirs) in own.chunks(4 * EACH).zip(theirs.chunks_mut(4 * EACH)) {
            let own = values(own);
            device.upload(0, &own)?;
            let started = self.gpus.communicator().exchange(&device, partner, [0, EACH], own.len());
            self.gpus.finish(&device, started.map_err(RankError::from))?;
            let mut found = vec![0.0; own.len()];
            device.download(EACH, &mut found)?;
            theirs.copy_from_slice(&bytemuck::cast_slice::<f32, u8>(&found)[..theirs.len()]);
        }
        Ok(())
    }

    fn rest(&self) -> Result<(), RankError> {
        self.gather(&[0], &vec![1; self.size]).map(drop)
    }

    /// A process that ends is seen by those of its machine and ended by its launcher: each by itself.
    fn abort(&self, _code: i32) {
        self.gpus.communicator.abort();
    }

    fn gpus(&self) -> Option<Arc<Gpus>> {
        Some(self.gpus.clone())
    }
}
