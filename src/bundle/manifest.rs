//! The manifest: SHA-256 of every file of a bundle, of what went in, and of the manifest itself.
//!
//! Its own digest stands in it under `digest`. It is taken over the file's bytes with zeros in that place, so that a
//! change of any byte, white space too, is noticed.

use super::digest::sha256;
use super::{MANIFEST, SIGNATURE};
use serde::Deserialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// What stands in the place of the digest while it is taken: as many zeros as it has digits.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A manifest that says nothing reliable.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ManifestError {
    /// It is no JSON, or lacks what every manifest has.
    #[error("is no manifest of a run: {0}")]
    Format(String),
    /// It has no digest.
    #[error("has no digest of itself: an older version wrote it, run prune again")]
    Unsealed,
    /// Its bytes are not those of the digest.
    #[error("is not what the run wrote: its digest is that of other bytes")]
    Changed,
}

/// What a manifest lists.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Listed {
    /// SHA-256 by file name, without the manifest's own.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of what went in.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 of the manifest with zeros in this place.
    #[serde(default)]
    digest: String,
}

impl Listed {
    /// Of files and inputs.
    pub fn new(files: BTreeMap<String, String>, inputs: BTreeMap<String, String>) -> Self {
        Self { files, inputs, digest: String::new() }
    }

    /// Whether a file in the folder of this manifest is of the set: listed, the manifest itself, or its signature.
    pub fn owns(&self, name: &str) -> bool {
        name == MANIFEST || name == SIGNATURE || self.files.contains_key(name)
    }
}

/// What a manifest has under `digest` before it is sealed.
pub fn unsealed() -> &'static str {
    ZEROS
}

/// Enters the digest of a manifest whose `digest` is [`unsealed`].
pub fn seal(manifest: &str) -> String {
    manifest.replacen(ZEROS, &sha256(manifest.as_bytes()), 1)
}

/// Reads a manifest, and refuses one of which a byte has changed.
///
/// # Errors
/// If it is no manifest, has no digest, or has that of other bytes.
pub fn parse(bytes: &[u8]) -> Result<Listed, ManifestError> {
    let format = |e: &dyn std::fmt::Display| ManifestError::Format(e.to_string());
    let text = std::str::from_utf8(bytes).map_err(|e| format(&e))?;
    let listed: Listed = serde_json::from_str(text).map_err(|e| format(&e))?;
    if listed.digest.is_empty() {
        return Err(ManifestError::Unsealed);
    }
    let blank = text.replacen(&listed.digest, ZEROS, 1);
    if sha256(blank.as_bytes()) == listed.digest { Ok(listed) } else { Err(ManifestError::Changed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_manifest_counts() {
        let text =
            format!("{{\n  \"digest\": \"{}\",\n  \"files\": {{ \"a\": \"b\" }},\n  \"inputs\": {{}}\n}}", unsealed());
        assert_eq!(parse(text.as_bytes()), Err(ManifestError::Changed));
        let sealed = seal(&text);
        assert_eq!(parse(sealed.as_bytes()).unwrap().files["a"], "b");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut bytes = sealed.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(parse(&bytes).is_err(), "byte {at}, bit {bit}");
            }
        }
        assert_eq!(parse(b"{\"files\": {}, \"inputs\": {}}"), Err(ManifestError::Unsealed));
        assert!(matches!(parse(&sealed.as_bytes()[..30]), Err(ManifestError::Format(_))));
    }
}
