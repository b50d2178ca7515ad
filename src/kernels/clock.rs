//! CPU time of this process.
#![allow(unsafe_code)]

/// Milliseconds of CPU time of all threads of this process, from the operating system's clock; 0 where there is none.
/// Only differences mean something.
pub fn cpu_millis() -> f64 {
    #[cfg(unix)]
    {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is a valid, writable timespec for the duration of the call.
        if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) } == 0 {
            return now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6;
        }
    }
    0.0
}
