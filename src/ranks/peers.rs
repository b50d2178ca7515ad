//! Whether the other ranks still live: NCCL waits for ever for one on the same machine that was killed. Linux says it, of
//! processes of the same machine; of those of other machines only their own know, and the launcher.

use super::{RankError, Ranks};
use serde::{Deserialize, Serialize};
use std::fs;

/// The processes of all ranks.
#[derive(Debug, Default)]
pub(super) struct Peers {
    own: usize,
    all: Vec<Process>,
}

/// A process, as only its machine knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    /// The machine since it was started, and the container; empty where `/proc` does not say it.
    machine: String,
    pid: u32,
    /// When it started: another process may get the number later.
    started: String,
}

impl Peers {
    /// Asks all ranks.
    ///
    /// # Errors
    /// If one cannot be reached.
    pub fn of(ranks: &Ranks) -> Result<Self, RankError> {
        Ok(Self { own: ranks.rank(), all: ranks.of_all(Process::this())? })
    }

    /// Refuses to go on without a rank of this machine that has ended.
    ///
    /// # Errors
    /// Names the rank.
    pub fn check(&self) -> Result<(), RankError> {
        let Some(own) = self.all.get(self.own).filter(|own| !own.machine.is_empty()) else { return Ok(()) };
        let ended =
            |other: &Process| other.machine == own.machine && started(other.pid).as_ref() != Some(&other.started);
        self.all.iter().position(ended).map_or(Ok(()), |rank| Err(RankError::Lost(rank)))
    }
}

impl Process {
    fn this() -> Self {
        let pid = std::process::id();
        let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let container = fs::read_link("/proc/self/ns/pid").ok();
        match (machine, container, started(pid)) {
            (Some(machine), Some(container), Some(started)) => {
                Self { machine: format!("{} {}", machine.trim(), container.display()), pid, started }
            }
            _ => Self { machine: String::new(), pid, started: String::new() },
        }
    }
}

/// When a process started, if it has not ended (proc(5): its third field, behind a name in brackets, is its state, the 22nd
/// its start).
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    fields.nth(18).filter(|_| !["Z", "X"].contains(&state)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_that_was_killed_has_ended_before_anybody_waits_for_it() {
        let own = Process::this();
        if own.machine.is_empty() {
            return;
        }
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let other = Process { pid: child.id(), started: started(child.id()).unwrap(), ..own.clone() };
        let peers = Peers { own: 0, all: vec![own.clone(), other.clone()] };
        assert_eq!(peers.check(), Ok(()));
        child.kill().unwrap();
        let ended = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            peers.check() == Err(RankError::Lost(1))
        });
        assert!(ended);
        child.wait().unwrap();
        assert_eq!(peers.check(), Err(RankError::Lost(1)));
        // Nobody knows of processes of other machines.
        let far = Process { machine: "another".into(), ..other };
        assert_eq!(Peers { own: 0, all: vec![own, far] }.check(), Ok(()));
        assert_eq!(Peers::default().check(), Ok(()));
    }
}
