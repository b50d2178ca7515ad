//! Ranks that are processes of MPI, on one machine or on many.
//!
//! An error of MPI ends all ranks, as its standard has it; so does a launcher when one of its processes ends without
//! having said goodbye.

use super::{Collectives, Launched, RankError, Ranks};
use mpi::datatype::PartitionMut;
use mpi::environment::{Threading, Universe, initialize_with_threading};
use mpi::point_to_point::send_receive_into;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// Whether this program can work together with others.
pub const HAS_MPI: bool = true;

/// How often a rank that rests looks whether the others are there.
const LOOK: Duration = Duration::from_millis(2);

/// The processes of this program that MPI knows; MPI is left when it is dropped.
struct Mpi {
    /// One call at a time: threads take turns.
    turn: Mutex<Universe>,
    rank: usize,
    size: usize,
}

/// Joins the processes that were started together with this one.
///
/// # Errors
/// If MPI cannot be used from changing threads, or does not know all of them.
pub fn join(launched: &Launched) -> Result<Ranks, RankError> {
    let Some((universe, threading)) = initialize_with_threading(Threading::Serialized) else {
        return Err(RankError::Library("it was joined before"));
    };
    if threading < Threading::Serialized {
        return Err(RankError::Library("it was built without support for threads (MPI_THREAD_SERIALIZED)"));
    }
    let world = universe.world();
    let reached = world.size() as usize;
    if reached != launched.size {
        let advice = match launched.launcher {
            "torchrun" => "start them by mpirun or srun; torchrun's reach each other by NCCL alone, for --device cuda",
            "srun" => "`srun --mpi=list` says what Slurm offers: try `srun --mpi=pmix`, or mpirun inside `sbatch`",
            _ => "start them by the mpirun of the MPI that this program was built with",
        };
        let (launcher, size) = (launched.launcher, launched.size);
        return Err(RankError::Apart { launcher, size, reached, advice });
    }
    let rank = world.rank() as usize;
    Ok(Ranks::new(Mpi { turn: Mutex::new(universe), rank, size: reached }))
}

/// The bytes; where there are none, with the address of one. An empty slice of Rust has the address 1, which Open MPI
/// takes for `MPI_IN_PLACE`.
fn solid(bytes: &[u8]) -> &[u8] {
    static NONE: [u8; 1] = [0];
    if bytes.is_empty() { &NONE[..0] } else { bytes }
}

impl Drop for Mpi {
    /// Leaving MPI waits for the others, who wait for a rank that has panicked: it ends all.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.abort(101);
        }
    }
}

impl Collectives for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, own: &[u8], lens: &[usize]) -> Result<Vec<u8>, RankError> {
        let counts: Vec<i32> = lens.iter().map(|len| *len as i32).collect();
        let starts = counts.iter().scan(0i32, |next, count| {
            let start = *next;
            *next = next.checked_add(*count)?;
            Some(start)
        });
        let starts: Vec<i32> = starts.collect();
        if starts.len() < counts.len() {
            return Err(RankError::Library("more than 2 GiB were to be gathered at once"));
        }
        let all: usize = lens.iter().sum();
        let mut bytes = vec![0u8; all];
        if all == 0 {
            return Ok(bytes);
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parts = PartitionMut::new(&mut bytes[..], &counts[..], &starts[..]);
        SimpleCommunicator::world().all_gather_varcount_into(solid(own), &mut parts);
        Ok(bytes)
    }

    fn exchange(&self, partner: usize, own: &[u8], theirs: &mut [u8]) -> Result<(), RankError> {
        if own.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let world = SimpleCommunicator::world();
        let other = world.process_at_rank(partner as i32);
        send_receive_into(own, &other, theirs, &other);
        Ok(())
    }

    /// MPI's own barrier waits busily.
    fn rest(&self) -> Result<(), RankError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = SimpleCommunicator::world().immediate_barrier();
        while let Err(still) = waiting.test() {
            waiting = still;
            sleep(LOOK);
        }
        Ok(())
    }

    fn abort(&self, code: i32) {
        SimpleCommunicator::world().abort(code)
    }
}
