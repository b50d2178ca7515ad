//! Text files as the editors of all systems write them.

use super::DataError;
use std::borrow::Cow;
use std::path::Path;

/// The text of a file, without the mark (BOM) that some editors put before it.
///
/// # Errors
/// Where it is in UTF-16, which would be read as garbage.
pub(super) fn decode<'a>(path: &Path, bytes: &'a [u8]) -> Result<Cow<'a, str>, DataError> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(DataError::Yaml { path: path.into(), problem: "is UTF-16 text, expected UTF-8".into() });
    }
    Ok(String::from_utf8_lossy(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes)))
}
