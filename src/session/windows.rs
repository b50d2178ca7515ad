//! Frames enough from windows that can be believed.

use crate::bench::{Recording, Window};
use crate::board::{Frames, judge};
use std::fmt;
use thiserror::Error;

/// How often a window is taken before the session ends.
pub(super) const TRIES: usize = 3;

/// A machine that was not itself, each time it was looked at.
#[derive(Clone, Debug, Error, PartialEq)]
pub struct Unsteady {
    /// How often the same window was taken.
    pub tries: usize,
    /// What spoke against them.
    pub reasons: Vec<String>,
}

impl fmt::Display for Unsteady {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut reasons: Vec<&str> = Vec::new();
        for reason in &self.reasons {
            if !reasons.contains(&reason.as_str()) {
                reasons.push(reason);
            }
        }
        write!(f, "the device was not steady in {} tries: {}", self.tries, reasons.join("; "))
    }
}

/// What believed windows hold.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// The windows, without their frames.
    pub windows: Vec<Window>,
    /// What spoke against the others.
    pub discarded: Vec<String>,
    /// All frames of the network.
    pub network: Recording,
    /// All frames of the network that ran in turn with it.
    pub against: Recording,
    /// All frames of the network, those of discarded windows too, in the order they ran.
    pub everything: Recording,
}

impl Collected {
    /// The windows of another collection, taken after these.
    pub fn add(&mut self, later: Self) {
        self.windows.extend(later.windows);
        self.discarded.extend(later.discarded);
        append(&mut self.network, later.network);
        append(&mut self.against, later.against);
        append(&mut self.everything, later.everything);
    }
}

/// Takes windows of at most `most` frames until there are `runs`. `take` measures a window of the given number of
/// frames. Without `believe` nothing is judged; its value says whether the machine
/// must also be neither slowed down nor busy with something else.
///
/// # Errors
/// That of `take`, or [`Unsteady`] when a window could not be believed three times.
pub fn collect<E: From<Unsteady>>(
    runs: usize,
    most: usize,
    believe: Option<bool>,
    take: &mut dyn FnMut(usize) -> Result<Window, E>,
) -> Result<Collected, E> {
    let mut all = Collected::default();
    while all.network.samples.wall.len() < runs {
        let left = runs - all.network.samples.wall.len();
        // Windows of the same length: a short last one would see less of the machine.
        let size = left.div_ceil(left.div_ceil(most.max(1))).max(1);
        let mut reasons = Vec::new();
        let mut believed = None;
        for _ in 0..TRIES {
            let window = take(size)?;
            let against = objections(&window, believe);
            append(&mut all.everything, window.network.clone());
            if against.is_empty() {
                believed = Some(window);
                break;
            }
            all.discarded.push(against.join("; "));
            reasons.extend(against);
        }
        let window = believed.ok_or(Unsteady { tries: TRIES, reasons })?;
        add(&mut all, window);
    }
    Ok(all)
}

/// What speaks against a window.
fn objections(window: &Window, believe: Option<bool>) -> Vec<String> {
    if window.network.samples.wall.is_empty() {
        return vec!["the window has no frames".into()];
    }
    let frames = Frames { own_cpu_ms: window.own_cpu_ms, elapsed_ms: window.elapsed_ms };
    believe.map_or_else(Vec::new, |quiet| judge(&window.states, Some(&frames), quiet))
}

fn add(all: &mut Collected, mut window: Window) {
    append(&mut all.network, std::mem::take(&mut window.network));
    append(&mut all.against, window.against.take().unwrap_or_default());
    all.windows.push(window);
}

fn append(all: &mut Recording, window: Recording) {
    all.peak_memory_bytes = all.peak_memory_bytes.max(window.peak_memory_bytes);
    all.samples.wall.extend(window.samples.wall);
    all.samples.cpu.extend(window.samples.cpu);
}
