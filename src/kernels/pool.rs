//! A few threads that wait for work, so that no frame starts a thread or allocates.

use super::pin::pin_thread;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

type Job = *const (dyn Fn(usize, usize) + Sync);

/// Turns of waiting before a thread sleeps (some tens of microseconds).
const SPINS: usize = 4_000;

/// Turns of waiting before the caller lets other programs have the core.
const PATIENCE: usize = 20_000;

/// Turns of waiting where there are more threads than cores: whoever waits busily keeps from its core the thread
/// that it waits for.
const CROWDED_TURNS: usize = 1;

/// A thread's run of items, on cache lines of its own (two, because they are fetched in pairs).
#[repr(align(128))]
#[derive(Default)]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

struct Shared {
    /// Counts the jobs; a change is the signal to start.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// One for each thread, the caller's first.
    shares: Vec<Share>,
    /// Workers that have not finished the job.
    busy: AtomicUsize,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    failed: AtomicBool,
    /// Turns of waiting of a worker before it sleeps, and of the caller before it lets others have its core.
    spins: usize,
    patience: usize,
}

// SAFETY: `job` is written only while no worker is busy, before the epoch changes (release), and read only after
// (acquire); the closure behind it is `Sync` and outlives the job, because `run` waits for `busy` to reach 0.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// A fixed set of threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` threads, the caller's included. Fewer where the system refuses to start more.
    pub fn new(threads: usize) -> Self {
        Self::start(threads, false)
    }

    /// As [`Pool::new`], each new thread on a core of its own if `pinned`; the first core is left to the caller.
    pub(super) fn start(threads: usize, pinned: bool) -> Self {
        let workers = threads.saturating_sub(1);
        let crowded = threads > available();
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            shares: (0..=workers).map(|_| Share::default()).collect(),
            busy: AtomicUsize::new(0),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            spins: if crowded { CROWDED_TURNS } else { SPINS },
            patience: if crowded { CROWDED_TURNS } else { PATIENCE },
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(format!("kernels-{index}")).spawn(move || {
                if pinned {
                    pin_thread(index + 1);
                }
                work(&shared, index);
            });
            thread.ok()
        };
        let workers = (0..workers).map_while(start).collect();
        Self { shared, workers }
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(item, thread)` for every item. Each thread starts with a run of items of its own, the same part of
    /// every job, so that what it wrote in one job is still in its cache in the next; one that is done helps the
    /// others.
    ///
    /// # Panics
    /// If the job panics.
    pub(super) fn run(&mut self, items: usize, job: &(dyn Fn(usize, usize) + Sync)) {
        if self.workers.is_empty() || items <= 1 {
            (0..items).for_each(|item| job(item, 0));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; this function returns after all workers are done with the job. No worker
        // is busy now: `busy` was 0 when the last job ended, and `&mut self` keeps other callers out.
        unsafe {
            let job = job as *const (dyn Fn(usize, usize) + Sync + '_);
            *shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), Job>(job));
        }
        let threads = self.threads();
        for (index, share) in shared.shares.iter().enumerate().take(threads) {
            share.next.store(items * index / threads, Ordering::Relaxed);
            share.end.store(items * (index + 1) / threads, Ordering::Relaxed);
        }
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        shared.epoch.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::Relaxed) {
                worker.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| take_items(shared, job, 0)));
        let mut turns = 0usize;
        while shared.busy.load(Ordering::Acquire) > 0 {
            turns += 1;
            if turns > shared.patience { thread::yield_now() } else { std::hint::spin_loop() }
        }
        assert!(own.is_ok() && !shared.failed.load(Ordering::Relaxed), "a kernel panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

/// CPU cores that this process may use, as it was started: a thread that is bound to one sees only that.
pub fn available() -> usize {
    static FOUND: OnceLock<usize> = OnceLock::new();
    *FOUND.get_or_init(|| thread::available_parallelism().map_or(1, usize::from))
}

fn take_items(shared: &Shared, job: &(dyn Fn(usize, usize) + Sync), thread: usize) {
    let (before, from) = shared.shares.split_at(thread);
    for share in from.iter().chain(before) {
        let end = share.end.load(Ordering::Relaxed);
        while share.next.load(Ordering::Relaxed) < end {
            let item = share.next.fetch_add(1, Ordering::Relaxed);
            if item < end {
                job(item, thread);
            }
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut turns = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            turns += 1;
            if turns < shared.spins {
                std::hint::spin_loop();
                continue;
            }
            // Either this thread sees the new epoch here, or the caller sees the flag and wakes it: each writes, then
            // reads what the other writes. Fences, since qemu lets a load pass an earlier store to another address even
            // where both are sequentially consistent.
            shared.asleep[index].store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if shared.epoch.load(Ordering::Relaxed) == seen {
                thread::park();
            }
            shared.asleep[index].store(false, Ordering::Relaxed);
        }
        seen = shared.epoch.load(Ordering::Acquire);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: see `Shared`; the epoch has changed, so the job is there and lives until `busy` is 0.
        let done = catch_unwind(AssertUnwindSafe(|| unsafe {
            if let Some(job) = *shared.job.get() {
                take_items(shared, &*job, index + 1);
            }
        }));
        if done.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        shared.busy.fetch_sub(1, Ordering::Release);
    }
}
