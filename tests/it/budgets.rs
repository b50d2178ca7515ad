//! Budgets that can be met are met, and what is advised where they cannot is true.

use crate::harness::{Bench, ended, memory};

/// The memory that a message says would do, MiB.
fn advised(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once("--memory-mib ")?;
    rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
}

#[test]
fn the_memory_that_is_advised_would_do() {
    let bench = Bench::new();
    let run = |mib: f64| ended(&bench.prune_at("64", mib, "out", "cache").output().unwrap());
    let mut refused = 0;
    for mib in [0.02, 0.11, memory(-0.2), memory(-0.05), memory(0.1), memory(0.6)] {
        let (code, text) = run(mib);
        if code == 0 {
            continue;
        }
        assert_eq!(code, 4, "{mib} MiB: {text}");
        let advice = advised(&text).unwrap_or_else(|| panic!("{mib} MiB: no advice\n{text}"));
        assert!(advice > mib, "{mib} MiB is refused, and {advice} MiB would do\n{text}");
        let (code, after) = run(advice);
        assert_eq!(code, 0, "{advice} MiB was advised by\n{text}\n{after}");
        refused += 1;
    }
    assert!((1..6).contains(&refused), "{refused} of 6 refused");
}
