//! Keeps a thread on one CPU core, where the operating system lets programs ask for it.

/// Binds the calling thread to the `index`-th core that it may run on, counted modulo their number. Does nothing where
/// that is not possible.
pub(super) fn pin_thread(index: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the sets are plain data of the size that is passed on, and live during the calls.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return;
        }
        let cores = (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed));
        let count = cores.clone().count().max(1);
        if let Some(cpu) = cores.clone().nth(index % count) {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut one);
            libc::sched_setaffinity(0, size, &one);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = index;
}
