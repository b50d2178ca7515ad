//! The pool of threads: every item once, no lost wake-up, no busy waiting for threads without a core, panics.

use super::*;
use std::time::{Duration, Instant};

#[test]
fn a_pool_gives_every_item_to_one_thread_and_survives_many_jobs() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    for threads in 1..5 {
        let mut pool = Pool::new(threads);
        for items in (0..200).chain([5000]) {
            let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            pool.run(items, &|item, worker| {
                assert!(worker < threads);
                counts[item].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{items} items on {threads} threads");
        }
    }
}

#[test]
fn a_pool_wakes_threads_that_are_about_to_sleep() {
    // In a thread of its own, so that a pool that hangs is a failure.
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut rng = StdRng::seed_from_u64(9);
        let mut pool = Pool::new(2);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            // The pauses end about when the other thread gives up waiting.
            (0..rng.random_range(1000..40_000)).for_each(|_| std::hint::spin_loop());
            pool.run(2, &|_, _| ());
        }
        done.send(()).unwrap();
    });
    finished.recv_timeout(Duration::from_secs(60)).expect("a thread sleeps while there is work");
}

/// Threads that wait busily for threads without a core would take a time slice, some milliseconds, for every job.
#[test]
fn many_more_threads_than_cores_still_end() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let threads = (4 * available()).max(16);
        let mut pool = Pool::new(threads);
        let count = AtomicUsize::new(0);
        for _ in 0..300 {
            pool.run(64, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        done.send(count.into_inner()).unwrap();
    });
    assert_eq!(finished.recv_timeout(Duration::from_secs(120)).expect("the threads keep each other waiting"), 300 * 64);
}

#[test]
#[should_panic(expected = "a kernel panicked")]
fn a_panic_in_a_job_reaches_the_caller() {
    Pool::new(3).run(100, &|item, _| assert_ne!(item, 57));
}
