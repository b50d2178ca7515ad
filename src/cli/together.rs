//! Commands that several processes run together, one on each rank that a launcher has started.

use super::failure::Failure;
use crate::output;
use crate::ranks::Ranks;
use std::thread::sleep;
use std::time::Duration;

/// What the other ranks wait with an error of their own: where all fail alike, the first one has spoken and ended them.
const FIRST: Duration = Duration::from_secs(1);

/// Runs a command on all ranks. An error of one ends all, with its number; `json` is the format of messages.
pub fn together(json: bool, run: impl FnOnce(&Ranks) -> Result<(), Failure>) -> Result<(), Failure> {
    let ranks = Ranks::join()?;
    // No rank leaves while another may still need it.
    let Err(failure) = run(&ranks).and_then(|()| Ok(ranks.barrier()?)) else { return Ok(()) };
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

/// Refuses a command that works by itself where a launcher has started several processes.
pub fn alone(command: &str) -> Result<(), Failure> {
    match crate::ranks::Launched::read(&|name| std::env::var(name).ok())? {
        Some(launched) if launched.size > 1 => Err(Failure::Usage(format!(
            "`secateurs {command}` does not share its work, and {} has started {} processes of it: start one",
            launched.launcher, launched.size
        ))),
        _ => Ok(()),
    }
}

/// Does something on one rank after the other: what the first one has written, the others find.
pub fn in_turn<T>(ranks: &Ranks, mut work: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut done = None;
    for turn in 0..ranks.size() {
        if turn == ranks.rank() {
            done = Some(work()?);
        }
        ranks.barrier()?;
    }
    done.ok_or_else(|| Failure::internal("a rank had no turn"))
}
