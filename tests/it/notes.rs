//! Notes of tests that skipped, in a file of the run: tests write it, `tests/zz_skipped.rs` reads it.
//!
//! All test binaries of a run have the same parent, cargo; its number names the file. What other runs left is removed.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
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

/// Notes that the test which calls this skips, and for want of what.
pub fn add(what: &str) {
    let thread = std::thread::current();
    let line = format!("{what}\t{}\n", thread.name().unwrap_or("a test"));
    let _ = fs::create_dir_all(folder());
    // One write, so that lines of tests that skip at the same time stay whole.
    let opened = fs::OpenOptions::new().create(true).append(true).open(file());
    let _ = opened.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// The names of the tests that skipped in this run, each once, by what they lacked.
pub fn take() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    for entry in fs::read_dir(folder()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let mut skipped: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (what, name) in text.lines().filter_map(|line| line.split_once('\t')) {
        skipped.entry(what.to_owned()).or_default().insert(name.to_owned());
    }
    skipped
}

/// One line that counts and names them; nothing where none skipped.
pub fn line(skipped: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    let count: usize = skipped.values().map(BTreeSet::len).sum();
    let parts = skipped.iter().map(|(what, names)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        format!("without {what}: {}", names.join(", "))
    });
    let parts: Vec<String> = parts.collect();
    (count > 0).then(|| format!("SKIPPED {count} tests, {}", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_counted_and_named_by_what_they_lack() {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let skipped = BTreeMap::from([("data".to_owned(), of(&["b::c", "a"])), ("sshd".to_owned(), of(&["ssh::d"]))]);
        let expected = "SKIPPED 3 tests, without data: a, b::c; without sshd: ssh::d";
        assert_eq!(line(&skipped).as_deref(), Some(expected));
        assert_eq!(line(&BTreeMap::new()), None);
    }
}
