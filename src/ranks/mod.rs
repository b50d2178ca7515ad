//! Processes that work on one job together: each has a number, its rank, and what they must know of each other goes
//! through collectives, which all ranks call in the same order.
//!
//! A way to reach other ranks is a [`Collectives`], which sends bytes; sums are made of these, so that they are added
//! in the same order whatever carries them: for 2, 4, 8 ranks and so on as a tree of pairs. [`Share`] says which images of
//! a batch are a rank's. There are [`Alone`] (one process), [`on_threads`] (for tests), with the feature `mpi` MPI (MPI
//! Forum, "MPI: A Message-Passing Interface Standard", 3.1), and where every rank has a GPU NCCL
//! ([`Ranks::over_gpus`]). [`Gpus`] adds what lies in the memory of GPUs. Nothing here knows models, images or files.

mod alone;
mod error;
mod gpus;
mod launcher;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(not(feature = "mpi"))]
#[path = "no_mpi.rs"]
mod mpi;
mod over_gpus;
mod peers;
mod share;
mod threads;

pub use alone::Alone;
pub use error::RankError;
pub use gpus::Gpus;
pub use launcher::Launched;
pub use mpi::HAS_MPI;
pub use share::{PARTS, Share, tree, tree_of};
pub use threads::on_threads;

use crate::kernels::cuda::Device;
use crate::kernels::cuda::nccl::{Nccl, NcclError};
use bytemuck::Pod;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

/// The most bytes that are sent at a time, from all ranks together: message passing libraries count in 32 bits.
const AT_ONCE: usize = 1 << 30;

/// A way to reach the other ranks. A call returns when the others have made theirs.
pub trait Collectives: Send + Sync {
    /// Number of this rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// The bytes of all ranks, one after the other; `lens` says how many each rank gives, and is the same everywhere.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    fn gather(&self, own: &[u8], lens: &[usize]) -> Result<Vec<u8>, RankError>;

    /// Sends bytes to another rank, and receives as many from it.
    ///
    /// # Errors
    /// If it cannot be reached.
    fn exchange(&self, partner: usize, own: &[u8], theirs: &mut [u8]) -> Result<(), RankError>;

    /// Waits until all ranks are here. That may take long, and leaves the CPU to others.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    fn rest(&self) -> Result<(), RankError>;

    /// Ends all ranks with an exit code, where they are processes that it can end; gives back control where they are not.
    fn abort(&self, code: i32);

    /// The GPUs through which the ranks are reached, if that is how.
    fn gpus(&self) -> Option<Arc<Gpus>> {
        None
    }
}

/// The ranks of a job, as one of them sees them.
#[derive(Clone)]
pub struct Ranks(Arc<dyn Collectives>);

impl Ranks {
    /// The ranks that `collectives` reaches.
    pub fn new(collectives: impl Collectives + 'static) -> Self {
        Self(Arc::new(collectives))
    }

    /// Joins the ranks that a launcher has started, as its environment says: `mpirun`, `srun`. This process alone where
    /// there is none.
    ///
    /// # Errors
    /// If there are others and they cannot be reached.
    pub fn join() -> Result<Self, RankError> {
        match Launched::here()? {
            Some(launched) if launched.size > 1 => mpi::join(&launched),
            _ => Ok(Self::default()),
        }
    }

    /// Joins the ranks that a launcher has started through NCCL alone; `open` opens it and the GPU of this rank. They meet
    /// where the environment tells NCCL ([`MEETING`](crate::kernels::cuda::nccl::MEETING)), which is to be what the launcher
    /// says ([`Launched::meeting`]).
    ///
    /// # Errors
    /// If the environment does not say where, those of `open` and of the library.
    pub fn over_gpus(
        launched: &Launched,
        open: impl FnOnce() -> Result<(Nccl, Device), NcclError>,
    ) -> Result<Self, RankError> {
        over_gpus::join(launched, open)
    }

    /// The GPUs of all ranks, of which `device` is this one's: those through which the ranks are reached, or joined now.
    ///
    /// # Errors
    /// Those of `open`, which opens NCCL, and of the library; if a rank cannot be reached.
    pub fn gpus(
        &self,
        device: &Device,
        open: impl FnOnce() -> Result<Nccl, NcclError>,
    ) -> Result<Arc<Gpus>, RankError> {
        match self.0.gpus() {
            Some(gpus) => Ok(gpus),
            None => Gpus::join(self, &open()?, device).map(Arc::new),
        }
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.0.rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Whether this is the rank that writes files and talks to people.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Ends all ranks: see [`Collectives::abort`].
    pub fn abort(&self, code: i32) {
        self.0.abort(code);
    }

    /// The bytes of all ranks, in their order.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, RankError> {
        if self.size() == 1 {
            return Ok(vec![own.to_vec()]);
        }
        let lens = self.0.gather(&(own.len() as u64).to_le_bytes(), &vec![8; self.size()])?;
        let len = |bytes: &[u8]| bytes.iter().rev().fold(0, |len, byte| len << 8 | usize::from(*byte));
        let lens: Vec<usize> = lens.chunks_exact(8).map(len).collect();
        let mut all: Vec<Vec<u8>> = lens.iter().map(|len| Vec::with_capacity(*len)).collect();
        let at_once = AT_ONCE / self.size();
        for first in (0..lens.iter().copied().max().unwrap_or(0)).step_by(at_once) {
            let now: Vec<usize> = lens.iter().map(|len| len.saturating_sub(first).min(at_once)).collect();
            let from = first.min(own.len());
            let bytes = self.0.gather(&own[from..from + now[self.rank()]], &now)?;
            let mut rest = &bytes[..];
            for (all, len) in all.iter_mut().zip(now) {
                let (part, behind) = rest.split_at(len);
                all.extend_from_slice(part);
                rest = behind;
            }
        }
        Ok(all)
    }

    /// The bytes of rank 0; what the others give is not looked at.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn broadcast(&self, own: Vec<u8>) -> Result<Vec<u8>, RankError> {
        if self.size() == 1 {
            return Ok(own);
        }
        let all = self.gather(if self.is_first() { &own } else { &[] })?;
        Ok(all.into_iter().next().unwrap_or_default())
    }

    /// Waits until all ranks are here. That may take long, and leaves the CPU to others.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn rest(&self) -> Result<(), RankError> {
        self.0.rest()
    }

    /// What every rank has, in their order.
    ///
    /// # Errors
    /// If a rank cannot be reached, or something has no JSON: a number that is not finite.
    pub fn of_all<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>, RankError> {
        if self.size() == 1 {
            return Ok(vec![own]);
        }
        let unfit = |e: serde_json::Error| RankError::Unsent(e.to_string());
        let bytes = serde_json::to_vec(&own).map_err(unfit)?;
        self.gather(&bytes)?.iter().map(|bytes| serde_json::from_slice(bytes).map_err(unfit)).collect()
    }

    /// What rank 0 makes, on every rank; the others rest meanwhile.
    ///
    /// # Errors
    /// Those of `make`, on rank 0; if a rank cannot be reached, or what is made has no JSON.
    pub fn by_first<T, E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: From<RankError>,
    {
        if self.size() == 1 {
            return make();
        }
        let made = if self.is_first() { Some(make()?) } else { None };
        self.rest()?;
        let unfit = |e: serde_json::Error| RankError::Unsent(e.to_string());
        let own = made.as_ref().map_or_else(|| Ok(Vec::new()), serde_json::to_vec).map_err(unfit)?;
        let bytes = self.broadcast(own)?;
        Ok(made.map_or_else(|| serde_json::from_slice(&bytes).map_err(unfit), Ok)?)
    }

    /// Does something on one rank after the other: what the first one has written, the others find.
    ///
    /// # Errors
    /// Those of `work`; if a rank cannot be reached.
    pub fn in_turn<T, E: From<RankError>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        for _ in 0..self.rank() {
            self.rest()?;
        }
        let done = work()?;
        for _ in self.rank()..self.size() {
            self.rest()?;
        }
        Ok(done)
    }

    /// The rank that does a unit of work: in turn, there and back, so that ranks get about as much of units that become
    /// smaller one after the other.
    pub fn owner(&self, unit: usize) -> usize {
        let (round, at) = (unit / self.size(), unit % self.size());
        if round.is_multiple_of(2) { at } else { self.size() - 1 - at }
    }

    /// The units of work that this rank does, ascending, of so many.
    pub fn mine(&self, units: usize) -> impl Iterator<Item = usize> {
        (0..units).filter(|unit| self.owner(*unit) == self.rank())
    }

    /// What was found in all units of work, in their order; `own` is what this rank found in its.
    ///
    /// # Errors
    /// As [`of_all`](Self::of_all).
    pub fn units<T: Serialize + DeserializeOwned>(&self, own: Vec<T>) -> Result<Vec<T>, RankError> {
        Ok(self.in_order(self.of_all(own)?))
    }

    /// As [`units`](Self::units), of values that need not be finite.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn units_f64(&self, own: &[f64]) -> Result<Vec<f64>, RankError> {
        let all = self.gather(bytemuck::cast_slice(own))?;
        Ok(self.in_order(all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect()))
    }

    /// What every rank found in its units of work, in the order of the units.
    fn in_order<T>(&self, all: Vec<Vec<T>>) -> Vec<T> {
        let units = all.iter().map(Vec::len).sum();
        let mut all: Vec<_> = all.into_iter().map(Vec::into_iter).collect();
        (0..units).filter_map(|unit| all[self.owner(unit)].next()).collect()
    }

    /// The values of all ranks; rank `r` gives `lens[r]` of them.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    fn gather_f64(&self, own: &[f64], lens: &[usize]) -> Result<Vec<f64>, RankError> {
        let lens: Vec<usize> = lens.iter().map(|len| 8 * len).collect();
        let bytes = self.0.gather(bytemuck::cast_slice(own), &lens)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// The largest of every value over all ranks.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn largest<const N: usize>(&self, own: [f64; N]) -> Result<[f64; N], RankError> {
        if self.size() == 1 {
            return Ok(own);
        }
        let all = self.gather_f64(&own, &vec![N; self.size()])?;
        let column = |at: usize| all.iter().skip(at).step_by(N).copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(std::array::from_fn(column))
    }

    /// Replaces every value by its sum over all ranks, the same bits on each of them.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn sum_f32(&self, values: &mut [f32]) -> Result<(), RankError> {
        self.sum(values)
    }

    /// As [`sum_f32`](Self::sum_f32).
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<(), RankError> {
        self.sum(values)
    }

    /// Recursive doubling (Thakur et al., "Optimization of Collective Communication Operations in MPICH", 2005): in
    /// round `i` ranks whose numbers differ in bit `i` exchange their sums. Ranks beyond the largest power of two hand
    /// theirs to a lower one first, and get the result last.
    fn sum<T: Pod + AddAssign>(&self, values: &mut [T]) -> Result<(), RankError> {
        let (rank, size) = (self.rank(), self.size());
        if size == 1 {
            return Ok(());
        }
        let even = if size.is_power_of_two() { size } else { size.next_power_of_two() / 2 };
        for values in values.chunks_mut(AT_ONCE / size_of::<T>()) {
            let mut theirs = values.to_vec();
            let meet = |values: &[T], partner: usize, theirs: &mut [T]| {
                self.0.exchange(partner, bytemuck::cast_slice(values), bytemuck::cast_slice_mut(theirs))
            };
            if rank >= even {
                meet(values, rank - even, &mut theirs)?;
                meet(values, rank - even, &mut theirs)?;
                values.copy_from_slice(&theirs);
                continue;
            }
            let extra = rank + even < size;
            let rounds = (0..even.trailing_zeros()).map(|round| rank ^ (1 << round));
            for partner in extra.then_some(rank + even).into_iter().chain(rounds) {
                meet(values, partner, &mut theirs)?;
                values.iter_mut().zip(&theirs).for_each(|(sum, theirs)| *sum += *theirs);
            }
            if extra {
                meet(values, rank + even, &mut theirs)?;
            }
        }
        Ok(())
    }
}

impl Default for Ranks {
    /// This process alone.
    fn default() -> Self {
        Self::new(Alone)
    }
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl PartialEq for Ranks {
    /// Whether both stand at the same place among as many.
    fn eq(&self, other: &Self) -> bool {
        (self.rank(), self.size()) == (other.rank(), other.size())
    }
}

#[cfg(test)]
mod tests;
