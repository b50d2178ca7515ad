//! Where the real weights, datasets and golden files are.
#![allow(dead_code)]

use crate::notes;
use std::path::{Path, PathBuf};

/// A path below the data folder: `$SECATEURS_DATA`, or `shared/data` beside the checkout. Where it is not there, leaves a
/// note that the test was skipped, which the last test binary tells, and gives `None`; in CI (`CI=true`) that is a failure.
pub fn data(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SECATEURS_DATA")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let full = root.join(path);
    if full.exists() {
        return Some(full);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing, and in CI nothing skips", full.display());
    eprintln!("skipped: {} is not there (set SECATEURS_DATA to the folder of the golden files)", full.display());
    notes::add("real data (SECATEURS_DATA)");
    None
}
