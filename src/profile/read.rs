//! Reads the text of a profile: bounded, with its syntax errors in plain words; `schema` says what must be in it.

use super::section::Problems;
use super::{Connect, Problem, Profile, ProfileError, schema};
use crate::files;
use std::path::Path;
use toml::de::DeTable;

/// The largest profile that is read.
const MAX_FILE: u64 = 1 << 20;

/// Reads a profile. Paths in it are relative to the folder it lies in. Beside `NAME.toml` there may be
/// `NAME.local.toml` with a `[connect]` of its own, which wins: a place for the names of private machines.
///
/// # Errors
/// If the file cannot be read, or breaks the schema: then with every problem that was found.
pub fn read(path: &Path) -> Result<Profile, ProfileError> {
    let mut profile = file(path)?.value;
    if let Some(private) = private(&path.with_extension("local.toml"))? {
        profile.connect = private.value;
    }
    Ok(profile)
}

/// What was read of a text.
pub(super) struct Parsed<T> {
    pub(super) value: T,
    /// Sections and keys that the text gives.
    pub(super) keys: Vec<(&'static str, &'static str)>,
}

/// Reads `NAME.toml`.
pub(super) fn file(path: &Path) -> Result<Parsed<Profile>, ProfileError> {
    let text = text_of(path)?;
    with_problems(path, &text, |table, problems| schema::profile(path, table, problems))
}

/// Reads `NAME.local.toml`: its connection, if there is such a file and it has one.
pub(super) fn private(path: &Path) -> Result<Option<Parsed<Connect>>, ProfileError> {
    if !path.is_file() {
        return Ok(None);
    }
    let Parsed { value, keys } = with_problems(path, &text_of(path)?, schema::private)?;
    Ok(value.map(|value| Parsed { value, keys }))
}

fn text_of(path: &Path) -> Result<String, ProfileError> {
    let io = |source| ProfileError::Io { path: path.into(), source };
    let bytes = files::read(path, MAX_FILE).map_err(io)?;
    let text = String::from_utf8(bytes);
    text.map_err(|_| io(std::io::Error::new(std::io::ErrorKind::InvalidData, "is no text in UTF-8")))
}

/// Reads the text of a profile as if it were the file `path`.
///
/// # Errors
/// If the text breaks the schema: with every problem that was found.
pub fn parse(path: &Path, text: &str) -> Result<Profile, ProfileError> {
    Ok(with_problems(path, text, |table, problems| schema::profile(path, table, problems))?.value)
}

/// Reads a table; the result counts only if nothing is wrong with the text.
fn with_problems<T>(
    path: &Path,
    text: &str,
    read: impl for<'t> FnOnce(&DeTable<'t>, &mut Problems<'t>) -> T,
) -> Result<Parsed<T>, ProfileError> {
    if text.len() as u64 > MAX_FILE {
        let source = std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("is larger than {MAX_FILE} bytes"));
        return Err(ProfileError::Io { path: path.into(), source });
    }
    let mut problems = Problems::new(path, text);
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in syntax {
        let found = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        problems.add(error.span(), in_plain_words(error.message(), found), None);
    }
    if !problems.found.is_empty() {
        return Err(ProfileError::Invalid(sorted(problems.found)));
    }
    let value = read(table.get_ref(), &mut problems);
    let Problems { found, keys, .. } = problems;
    if found.is_empty() { Ok(Parsed { value, keys }) } else { Err(ProfileError::Invalid(sorted(found))) }
}

/// What the parser says of some text, for people who do not know its terms.
fn in_plain_words(message: &str, found: &str) -> String {
    let found = found.trim().trim_matches(['"', '\'']);
    let about = if found.is_empty() { "the value is missing".to_owned() } else { format!("is `{found}`") };
    match message {
        "duplicate key" => format!("`{found}` is given twice"),
        message if message.starts_with("string values must be quoted") => {
            format!("{about}, expected a number, true or false, or text in quotes")
        }
        message if message.starts_with("invalid boolean") => format!("{about}, expected true or false"),
        message if message.starts_with("invalid basic string") || message.starts_with("invalid literal string") => {
            "text does not end on its line: a quote is missing".to_owned()
        }
        other => other.to_owned(),
    }
}

fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort();
    problems
}
