//! Collects frames from windows in which the machine was neither throttled nor busy.

use crate::bench::{Recording, Window};
use crate::board::{Frames, judge};
use std::fmt;
use thiserror::Error;

/// How often a window is taken before the session ends.
pub const TRIES: usize = 3;

/// A machine that was throttled or busy in every try.
#[derive(Clone, Debug, Error, PartialEq)]
pub struct Unsteady {
    /// How often the same window was taken.
    pub tries: usize,
    /// Why each was discarded.
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

/// What the windows that count hold.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// The windows, without their frames.
    pub windows: Vec<Window>,
    /// Why the others were discarded.
    pub discarded: Vec<String>,
    /// All frames of the network.
    pub network: Recording,
    /// All frames of the network that was interleaved with it.
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
/// frames. Without `require_idle` every window counts; its value says whether a window counts only if the machine was
/// neither throttled nor busy with something else.
///
/// # Errors
/// That of `take`, or [`Unsteady`] when a window was discarded three times.
pub fn collect<E: From<Unsteady>>(
    runs: usize,
    most: usize,
    require_idle: Option<bool>,
    take: &mut dyn FnMut(usize) -> Result<Window, E>,
) -> Result<Collected, E> {
    let mut all = Collected::default();
    while all.network.samples.wall.len() < runs {
        let left = runs - all.network.samples.wall.len();
        // Windows of the same length: a short last one would see less of the machine.
        let size = left.div_ceil(left.div_ceil(most.max(1))).max(1);
        let mut reasons = Vec::new();
        let mut accepted = None;
        for _ in 0..TRIES {
            let window = take(size)?;
            let against = objections(&window, require_idle);
            append(&mut all.everything, window.network.clone());
            if against.is_empty() {
                accepted = Some(window);
                break;
            }
            all.discarded.push(against.join("; "));
            reasons.extend(against);
        }
        let window = accepted.ok_or(Unsteady { tries: TRIES, reasons })?;
        add(&mut all, window);
    }
    Ok(all)
}

/// Why a window does not count.
fn objections(window: &Window, require_idle: Option<bool>) -> Vec<String> {
    if window.network.samples.wall.is_empty() {
        return vec!["the window has no frames".into()];
    }
    let frames = Frames { own_cpu_ms: window.own_cpu_ms, elapsed_ms: window.elapsed_ms };
    require_idle.map_or_else(Vec::new, |idle| judge(&window.states, Some(&frames), idle))
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
    all.energy_mj.extend(window.energy_mj);
}
