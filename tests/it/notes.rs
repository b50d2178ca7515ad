//! Notes of tests that skipped, in a file of the run: tests write it, `tests/zz_skipped.rs` reads it.
//!
//! All test binaries of a run have the same parent, cargo; its number names the file. What other runs left is removed.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const PREFIX: &str = "skipped-";

fn folder() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn file() -> PathBuf {
    #[cfg(unix)]
    let parent = std::os::unix::process::parent_id();
    #[cfg(not(unix))]
    let parent = 0;
    folder().join(format!("{PREFIX}{parent}"))
}

/// Notes that the test which calls this skips.
pub fn add() {
    let thread = std::thread::current();
    let line = format!("{}\n", thread.name().unwrap_or("a test"));
    let _ = fs::create_dir_all(folder());
    // One write, so that lines of tests that skip at the same time stay whole.
    let opened = fs::OpenOptions::new().create(true).append(true).open(file());
    let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// The names of the tests that skipped in this run, each once.
pub fn take() -> Vec<String> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    for entry in fs::read_dir(folder()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let names: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    names.into_iter().collect()
}
