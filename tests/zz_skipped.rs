//! The last of the test binaries: says in one line which tests skipped for want of real weights, photos or golden files.
//!
//! Cargo runs test binaries in the order of their names, and the test runner hides what a passing test prints. So tests
//! that skip leave a note, and this binary, which has no runner of its own, tells them.
#![allow(missing_docs)]

#[path = "it/notes.rs"]
mod notes;

fn main() {
    // `--list` asks for names only.
    if std::env::args().skip(1).any(|word| word == "--list") {
        return;
    }
    if let Some(line) = notes::line(&notes::take()) {
        println!("\n{line}\n");
    }
}
