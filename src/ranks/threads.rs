//! Ranks that are threads of one process, for tests.

use super::{Collectives, RankError, Ranks};
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// One of them: a channel to and from each, itself included.
struct Thread {
    rank: usize,
    to: Vec<Sender<Vec<u8>>>,
    from: Vec<Mutex<Receiver<Vec<u8>>>>,
}

/// What `work` gives on each of so many ranks, in their order.
///
/// # Panics
/// If one of them does: it is then lost for the others.
pub fn on_threads<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = threads(size).into_iter().map(|ranks| scope.spawn(move || work(ranks))).collect();
        running.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// So many ranks that are to be threads: each takes one. A thread that ends and drops its own is lost for the others.
fn threads(size: usize) -> Vec<Ranks> {
    let mut ranks: Vec<Thread> = (0..size).map(|rank| Thread { rank, to: Vec::new(), from: Vec::new() }).collect();
    for from in 0..size {
        for to in 0..size {
            let (send, receive) = channel();
            ranks[from].to.push(send);
            // In the order of those who send.
            ranks[to].from.push(Mutex::new(receive));
        }
    }
    ranks.into_iter().map(Ranks::new).collect()
}

impl Thread {
    fn send(&self, to: usize, bytes: &[u8]) -> Result<(), RankError> {
        self.to[to].send(bytes.to_vec()).map_err(|_| RankError::Lost(to))
    }

    fn receive(&self, from: usize) -> Result<Vec<u8>, RankError> {
        let channel = self.from[from].lock().unwrap_or_else(PoisonError::into_inner);
        channel.recv().map_err(|_| RankError::Lost(from))
    }
}

impl Collectives for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn gather(&self, own: &[u8], lens: &[usize]) -> Result<Vec<u8>, RankError> {
        assert_eq!(own.len(), lens[self.rank], "rank {} gives what it has not announced", self.rank);
        (0..self.size()).try_for_each(|to| self.send(to, own))?;
        let mut all = Vec::new();
        for (from, len) in lens.iter().enumerate() {
            let bytes = self.receive(from)?;
            assert_eq!(bytes.len(), *len, "rank {from} gave what rank {} does not expect", self.rank);
            all.extend(bytes);
        }
        Ok(all)
    }

    fn exchange(&self, partner: usize, own: &[u8], theirs: &mut [u8]) -> Result<(), RankError> {
        self.send(partner, own)?;
        theirs.copy_from_slice(&self.receive(partner)?);
        Ok(())
    }

    fn rest(&self) -> Result<(), RankError> {
        self.gather(&[], &vec![0; self.size()]).map(drop)
    }

    fn abort(&self, _code: i32) {}
}
