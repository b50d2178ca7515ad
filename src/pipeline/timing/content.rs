//! Identifies programs and files by their content, for the conditions of a latency table.

use crate::data::file_digest;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where a program is: as it is named, or in one of the folders of `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|place| place.is_file())
}

/// SHA-256 of a regular file; none where there is no such file.
pub fn content(path: &Path) -> Option<String> {
    // A folder or a pipe among the arguments is not read.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(file_digest(path).ok()?.iter().map(|byte| format!("{byte:02x}")).collect())
}
