//! Ranks of which each has a GPU: sums over what lies in the memory of these, by NCCL.

use super::peers::Peers;
use super::{RankError, Ranks};
use crate::kernels::cuda::Device;
use crate::kernels::cuda::nccl::{Communicator, Nccl, UniqueId};
use std::fmt;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

/// How long a rank stays that has found another one ended.
const SETTLED: Duration = Duration::from_millis(500);

/// The GPUs of all ranks.
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

    /// Starts what all ranks start.
    pub fn communicator(&self) -> &Communicator {
        &self.communicator
    }

    /// Waits for the end of what all ranks have started in a device's main stream, or gives them up: after an error,
    /// also that of starting, nothing waits for them any more.
    ///
    /// # Errors
    /// `started`, those of the library and of the device; names a rank that has ended.
    pub fn finish(&self, device: &Device, started: Result<(), RankError>) -> Result<(), RankError> {
        started.inspect_err(|_| self.communicator.abort())?;
        let waited = self.communicator.wait(device, &|| self.peers.get().map_or(Ok(()), Peers::check));
        if let Err(RankError::Lost(_)) = waited {
            // This rank ends next: the others shall find the one that ended first, not this one.
            sleep(SETTLED);
        }
        waited
    }
}

impl fmt::Debug for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GPU of rank {} of {}", self.communicator.rank(), self.communicator.size())
    }
}
