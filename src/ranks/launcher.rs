//! What a launcher says in the environment of the processes that it starts.

use super::RankError;

/// A process among those that a launcher has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Who started it.
    pub launcher: &'static str,
    /// Its number.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Its number among those on the same machine, where the launcher says it.
    pub local: Option<usize>,
}

/// Launchers: name, and the variables of size, rank and local rank. Open MPI; what MPICH and Intel MPI set; Slurm within
/// a step (a batch script has the job's variables without being one of its tasks); `torchrun`.
const LAUNCHERS: [(&str, [&str; 3]); 4] = [
    ("mpirun", ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"]),
    ("mpiexec", ["PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"]),
    ("srun", ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"]),
    ("torchrun", ["WORLD_SIZE", "RANK", "LOCAL_RANK"]),
];

impl Launched {
    /// What the environment `get` says; the first launcher counts whose size is set.
    ///
    /// # Errors
    /// If size or rank is no number, or the rank is none of them.
    pub fn read(get: &dyn Fn(&'static str) -> Option<String>) -> Result<Option<Self>, RankError> {
        let number = |variable: &'static str| {
            let Some(value) = get(variable) else { return Ok(None) };
            match value.trim().parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(RankError::Environment { variable, value, expected: "a number" }),
            }
        };
        for (launcher, [size, rank, local]) in LAUNCHERS {
            let Some(count) = number(size)?.filter(|count| *count > 0) else { continue };
            let at = number(rank)?.unwrap_or(0);
            if at >= count {
                let value = at.to_string();
                return Err(RankError::Environment {
                    variable: rank,
                    value,
                    expected: "less than the number of processes",
                });
            }
            return Ok(Some(Self { launcher, rank: at, size: count, local: number(local)? }));
        }
        Ok(None)
    }
}
