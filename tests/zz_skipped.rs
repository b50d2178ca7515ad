//! The last of the test binaries: says which tests skipped because they found no real weights, photos or golden files.
//!
//! Cargo runs test binaries in the order of their names, and the test runner hides what a passing test prints. Tests that
//! skip leave a note under the process that runs them all ([`notes`] has the other half), and this binary, which has no
//! runner of its own, tells them in one line.
#![allow(missing_docs)]

#[path = "it/notes.rs"]
mod notes;

fn main() {
    // `cargo test NAME` and `--list` ask for other tests.
    if std::env::args().skip(1).any(|word| word == "--list") {
        return;
    }
    let skipped = notes::take();
    if !skipped.is_empty() {
        let count = skipped.len();
        println!(
            "\nSKIPPED {count} tests for want of real data (SECATEURS_DATA names its folder): {}\n",
            skipped.join(", ")
        );
    }
}
