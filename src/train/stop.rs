//! A request to stop: a training that gets one finishes its step, saves its state and ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// Shared by whoever receives signals and by the training. Nobody listens until a training begins, and after it ended.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    listens: AtomicBool,
    /// The signal; 0 as long as there was none.
    signal: AtomicI32,
}

impl PartialEq for Stop {
    /// Whether both are the same request.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Stop {
    /// Asks a training to stop for a signal. False where none listens, or one was asked before: then the signal is to
    /// do what it does by itself.
    pub fn request(&self, signal: i32) -> bool {
        let free = self.0.signal.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.0.listens.load(Ordering::Acquire) && free
    }

    /// The signal of a request.
    pub(super) fn requested(&self) -> Option<i32> {
        Some(self.0.signal.load(Ordering::Acquire)).filter(|signal| *signal != 0)
    }

    /// A training listens for as long as the guard lives.
    pub(super) fn listen(&self) -> Listening {
        self.0.listens.store(true, Ordering::Release);
        Listening(self.clone())
    }
}

/// Ends listening when it is dropped.
pub(super) struct Listening(Stop);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.0.listens.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_request_to_a_training_is_taken() {
        let stop = Stop::default();
        {
            let _listening = stop.listen();
            assert_eq!(stop.requested(), None);
            assert!(stop.request(2) && !stop.request(15));
            assert_eq!(stop.requested(), Some(2));
        }
        let idle = Stop::default();
        drop(idle.listen());
        assert!(!idle.request(2), "nobody listens any more");
    }
}
