//! Patterns of file names that no shell has opened, such as `photos/*.jpg`.

use std::path::PathBuf;

/// The files that a pattern stands for, in the order of their names. Names that begin with a dot are left out.
///
/// # Errors
/// If it is no pattern, or no file has a name like that.
pub fn files(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
    let found = glob::glob_with(pattern, options).map_err(|error| format!("is no pattern of file names: {error}"))?;
    let mut files: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
    files.sort();
    if files.is_empty() { Err("no file has a name like that".into()) } else { Ok(files) }
}
