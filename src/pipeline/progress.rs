//! What a job reports while it runs. Only the binaries know terminals; the library calls a [`Progress`].

use std::cell::RefCell;

/// What happens, for a terminal or a log.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stage begins: a verb of at most twelve characters, and what it works on.
    Stage(&'static str, String),
    /// Part of the stage is done: so many steps of so many.
    Progress(usize, usize),
    /// A line for the user, about the stage that runs.
    Message(String),
}

/// Receives events.
///
/// A closure becomes one by `RefCell::new(|event| ..)`; `()` ignores everything.
pub trait Progress {
    /// Takes an event.
    fn report(&self, event: Event);

    /// Reports that a stage begins.
    fn stage(&self, verb: &'static str, what: String) {
        self.report(Event::Stage(verb, what));
    }

    /// Reports that so many steps of so many are done.
    fn step(&self, done: usize, all: usize) {
        self.report(Event::Progress(done, all));
    }

    /// Reports a line for the user.
    fn message(&self, text: String) {
        self.report(Event::Message(text));
    }
}

impl Progress for () {
    fn report(&self, _: Event) {}
}

impl<F: FnMut(Event)> Progress for RefCell<F> {
    fn report(&self, event: Event) {
        // A listener that reports while it listens would be its own cause.
        if let Ok(mut listener) = self.try_borrow_mut() {
            listener(event);
        }
    }
}
