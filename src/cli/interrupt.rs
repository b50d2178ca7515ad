//! SIGINT and SIGTERM: a training saves its state first, everything else ends at once, as does a second signal.

use crate::train::Stop;

/// What a training asks whether it shall stop; from now on signals ask it.
#[cfg(unix)]
pub fn stop() -> Stop {
    listen();
    STOP.get_or_init(Stop::default).clone()
}

/// Without signals nobody asks.
#[cfg(not(unix))]
pub fn stop() -> Stop {
    Stop::default()
}

#[cfg(unix)]
static STOP: std::sync::OnceLock<Stop> = std::sync::OnceLock::new();

/// Receives signals: ends the line that a bar may stand on, so that the shell begins on its own; then a training saves
/// its state, or the signal does its work.
#[cfg(unix)]
pub fn listen() {
    use crate::output;
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::{iterator::Signals, low_level::emulate_default_handler};
    use std::io::{self, IsTerminal};
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
        let wait = move || {
            for signal in &mut signals {
                if io::stderr().is_terminal() {
                    output::message("", "", "");
                }
                if STOP.get().is_some_and(|stop| stop.request(signal)) {
                    output::message("", "", "stopping: the training is saved after this step; once more ends at once");
                } else {
                    let _ = emulate_default_handler(signal);
                }
            }
        };
        // Without the thread the line would not be ended, and the signal would have no effect.
        if std::thread::Builder::new().name("signals".into()).spawn(wait).is_err() {
            std::process::abort();
        }
    });
}
