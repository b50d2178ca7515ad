//! Budgets that can be met are met, and what is advised where they cannot is true.

#[path = "../harness/mod.rs"]
mod harness;

use harness::{Bench, ended};

/// The memory that a message says would do, MiB.
fn advised(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once("--memory-mib ")?;
    rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
}

#[test]
fn a_memory_budget_that_advice_would_allow_is_met() {
    let bench = Bench::new();
    let mut refused = 0;
    for hundredths in [2, 9, 11, 13, 16, 20, 25, 30] {
        let mib = f64::from(hundredths) / 100.0;
        let (code, text) = ended(&bench.prune(mib, "out", "cache").output().unwrap());
        if code == 0 {
            continue;
        }
        assert_eq!(code, 4, "{mib} MiB: {text}");
        let advice = advised(&text).unwrap_or_else(|| panic!("{mib} MiB: no advice\n{text}"));
        assert!(advice > mib, "{mib} MiB is refused, and {advice} MiB would do\n{text}");
        refused += 1;
    }
    assert!((1..8).contains(&refused), "{refused} of 8 refused");
}
