//! Idle check: whether a machine was throttled or busy with something else while times were taken.
//!
//! It judges by the flags, clocks and counters of the machine, and never by how long the frames took: discarding slow
//! frames because they are slow leaves fast ones, and bounds that do not hold.

use super::State;

/// The lowest share of its highest frequency that a CPU must run at.
const LEAST_CLOCK: f64 = 0.92;

/// The most that the frequency may fall while frames are timed, as a share.
const MOST_SLOWDOWN: f64 = 0.03;

/// The most CPU time that others may take: a share of one core, and the resolution of the counter in addition.
const MOST_OTHERS: f64 = 0.10;
const RESOLUTION_MS: f64 = 40.0;

/// How long frames ran between the first and the last state, and how much of it was their own work.
#[derive(Clone, Copy, Debug)]
pub struct Frames {
    /// CPU milliseconds that the measuring process took between the first and the last state.
    pub own_cpu_ms: f64,
    /// Milliseconds between the first and the last state.
    pub elapsed_ms: f64,
}

/// The reasons why times do not count; none if they do. The states are those of the window in order, the first after
/// the warm-up. The governor, the power mode and the set of CPUs must not have changed; `require_idle` also requires
/// that the machine was not throttled and, where the frames are given, not busy with something else.
pub fn judge(states: &[State], frames: Option<&Frames>, require_idle: bool) -> Vec<String> {
    let (Some(first), Some(last)) = (states.first(), states.last()) else {
        return vec!["the machine's state was not read".into()];
    };
    let mut against = Vec::new();
    for (name, a, b) in [
        ("governor", &first.governor, &last.governor),
        ("power mode", &first.power_mode, &last.power_mode),
        ("set of CPUs", &first.cores, &last.cores),
    ] {
        if a != b {
            let name_of = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
            against.push(format!("the {name} changed from {} to {}", name_of(a), name_of(b)));
        }
    }
    if require_idle {
        states.iter().for_each(|state| throttled(first, state, &mut against));
        if let Some(frames) = frames {
            disturbed(first, last, frames, &mut against);
        }
    }
    against.dedup();
    against
}

/// Adds the signs that the machine was throttled.
fn throttled(first: &State, state: &State, against: &mut Vec<String>) {
    if let Some(flags) = state.pi_throttled {
        const NOW: [&str; 4] =
            ["under-voltage", "the frequency is capped", "throttled", "at the soft temperature limit"];
        let before = first.pi_throttled.unwrap_or(0);
        for (bit, name) in NOW.iter().enumerate() {
            let since_boot = 1 << (16 + bit);
            if flags & (1 << bit) != 0 {
                against.push(format!("the board says: {name}"));
            } else if flags & since_boot != 0 && before & since_boot == 0 {
                against.push(format!("the board was for a moment: {name}"));
            }
        }
    }
    if state.throttle_events > first.throttle_events {
        against.push("throttling events were counted".into());
    }
    if state.cooling.is_some_and(|level| level > 0) {
        against.push("the kernel slows the CPUs down against heat".into());
    }
    if state.headroom_c.is_some_and(|degrees| degrees <= 0.0) {
        let now = state.temperature_c.unwrap_or(0.0);
        against.push(format!("{now:.0} degrees, at the temperature where the kernel slows the CPUs down"));
    }
    if let (Some(now), Some(most)) = (state.mhz, state.max_mhz)
        && now < LEAST_CLOCK * most
    {
        against.push(format!("{now:.0} MHz of {most:.0} MHz"));
    }
    if let (Some(before), Some(now)) = (first.mhz, state.mhz)
        && now < (1.0 - MOST_SLOWDOWN) * before
    {
        against.push(format!("the clock fell from {before:.0} MHz to {now:.0} MHz"));
    }
}

/// Adds the signs that something else was running.
fn disturbed(first: &State, last: &State, frames: &Frames, against: &mut Vec<String>) {
    if let (Some(a), Some(b)) = (first.busy_ms, last.busy_ms) {
        let others = b - a - frames.own_cpu_ms;
        if others > MOST_OTHERS * frames.elapsed_ms + RESOLUTION_MS {
            let share = 100.0 * others / frames.elapsed_ms.max(1.0);
            against.push(format!("other programs took {share:.0} % of a CPU"));
        }
    }
}
