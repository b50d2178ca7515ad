//! Ranks of which each has a GPU: sums over what lies in the memory of these, by NCCL.

use super::peers::Peers;
use super::{RankError, Ranks};
use crate::kernels::cuda::Device;
use crate::kernels::cuda::nccl::{Communicator, Nccl, NcclError, UniqueId};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

/// How long a rank stays that has found another one ended.
const SETTLED: Duration = Duration::from_millis(500);

/// The GPUs of all ranks. A call returns when all ranks have made theirs, or one of them has ended.
pub struct Gpus {
    pub(super) communicator: Communicator,
    /// Once they are known.
    pub(super) peers: OnceLock<Peers>,
}

impl Gpus {
    /// Joins them, of which `device` is this rank's.
    ///
    /// # Errors
    /// Those of the library; if a rank cannot be reached.
    pub(super) fn join(ranks: &Ranks, nccl: &Nccl, device: &Device) -> Result<Self, RankError> {
        let own = if ranks.is_first() { nccl.id()?.bytes().to_vec() } else { Vec::new() };
        let none = || RankError::Unsent("NCCL's id has another length on rank 0".into());
        let id = UniqueId::of(&ranks.broadcast(own)?).ok_or_else(none)?;
        let peers = OnceLock::from(Peers::of(ranks)?);
        let communicator = nccl.join(id, ranks.rank(), ranks.size(), device)?;
        Ok(Self { communicator, peers })
    }

    /// Replaces values of a device's memory, from position `at` on, by their sums over all ranks: the same bits on each of
    /// them, and in every run the same as NCCL takes the same way.
    ///
    /// # Errors
    /// Those of the library and of the device; names a rank that has ended.
    ///
    /// # Panics
    /// If the memory ends before: a mistake of the caller.
    pub fn sum(&self, device: &Device, at: usize, len: usize) -> Result<(), RankError> {
        self.run(device, |communicator| communicator.sum(device, at, len))
    }

    /// Replaces values of a device's memory by those of rank 0.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    ///
    /// # Panics
    /// As [`sum`](Self::sum).
    pub fn broadcast(&self, device: &Device, at: usize, len: usize) -> Result<(), RankError> {
        self.run(device, |communicator| communicator.broadcast(device, at, len))
    }

    /// Starts something, and waits for its end.
    pub(super) fn run(
        &self,
        device: &Device,
        start: impl FnOnce(&Communicator) -> Result<(), NcclError>,
    ) -> Result<(), RankError> {
        start(&self.communicator)?;
        let waited = self.communicator.wait(device, &|| self.peers.get().map_or(Ok(()), Peers::check));
        if let Err(RankError::Lost(_)) = waited {
            // This rank ends next: the others shall find the one that ended first, not this one.
            sleep(SETTLED);
        }
        waited
    }
}
