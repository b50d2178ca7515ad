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
    /// Where they can meet, `HOST:PORT`: an address of the machine of rank 0 and a free port there.
    pub meeting: Option<String>,
}

/// Launchers: name, and the variables of size, rank and local rank. Open MPI; what MPICH and Intel MPI set; Slurm within
/// a step (a batch script has the job's variables without being one of its tasks); `torchrun`.
const LAUNCHERS: [(&str, [&str; 3]); 4] = [
    ("mpirun", ["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"]),
    ("mpiexec", ["PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"]),
    ("srun", ["SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID"]),
    ("torchrun", ["WORLD_SIZE", "RANK", "LOCAL_RANK"]),
];

/// The first of the ports where the tasks of a step of Slurm meet if nobody says one, and how many there are; below those
/// that Linux gives to whoever asks for any.
const PORTS: (u64, u64) = (12_000, 20_000);

impl Launched {
    /// What this process's environment says.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn here() -> Result<Option<Self>, RankError> {
        Self::read(&|name| std::env::var(name).ok())
    }

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
            return Ok(Some(Self { launcher, rank: at, size: count, local: number(local)?, meeting: meeting(get) }));
        }
        Ok(None)
    }
}

/// Where processes meet: at the address and port that `torchrun` sets, or a user of any launcher; else, in a step of
/// Slurm, on the first of its machines, at a port that follows from job and step.
fn meeting(get: &dyn Fn(&'static str) -> Option<String>) -> Option<String> {
    let number = |name| get(name)?.trim().parse::<u64>().ok();
    let slurm = || Some(first_host(&get("SLURM_STEP_NODELIST")?));
    let host = get("MASTER_ADDR").filter(|host| !host.trim().is_empty()).or_else(slurm)?;
    // The agents of torchrun keep a server of their own at its port.
    let taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let step = || {
        let id = number("SLURM_JOB_ID")?.wrapping_mul(31).wrapping_add(number("SLURM_STEP_ID").unwrap_or(0));
        Some(PORTS.0 + id % PORTS.1)
    };
    let port = number("MASTER_PORT").map(|port| port + u64::from(taken)).or_else(step)?;
    let host = host.trim();
    // An address of IPv6.
    Some(if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

/// The first machine of a list of Slurm: `gpu[003-006,009],cpu1` begins with `gpu003`.
fn first_host(list: &str) -> String {
    let (prefix, numbers) = match list.find(['[', ',']) {
        Some(at) if list[at..].starts_with('[') => list.split_at(at),
        Some(at) => return list[..at].to_owned(),
        None => return list.to_owned(),
    };
    let first: String = numbers[1..].chars().take_while(char::is_ascii_digit).collect();
    prefix.to_owned() + &first
}
