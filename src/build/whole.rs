//! Whether a bundle is what one finished run wrote: every file that its manifest lists, to the byte.

use super::error::BuildError;
use crate::bundle::{self, BENCH, BINARY, Listed, MANIFEST, MODEL, REPORT_JSON, sha256};
use crate::files;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest manifest that is read.
const MAX_MANIFEST: u64 = 16 << 20;

/// The largest file that is embedded or read for its figures. Larger ones are only hashed.
const MAX_FILE: u64 = 2 << 30;

/// What a finished run lists.
const NEEDED: [&str; 4] = [MODEL, REPORT_JSON, BENCH, BINARY];

/// A bundle that is whole.
pub struct Bundle {
    /// What its manifest lists.
    pub listed: Listed,
    /// The text of the manifest.
    pub manifest: Vec<u8>,
    /// The model file.
    pub model: Vec<u8>,
    /// Its SHA-256, hex digits.
    pub model_sha256: String,
    /// `report.json`.
    pub report: Vec<u8>,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
}

/// Reads a bundle, and holds every file against the manifest.
///
/// # Errors
/// If there is none, or with everything that is wrong with it.
pub fn read(folder: &Path, target: &str) -> Result<Bundle, BuildError> {
    let path = folder.join(MANIFEST);
    let manifest = files::read(&path, MAX_MANIFEST).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => BuildError::Missing { target: target.into(), folder: folder.into() },
        _ => BuildError::Io { path: path.clone(), source },
    })?;
    let damaged = |faults| BuildError::Damaged { target: target.into(), faults };
    let fault = |name: &str, problem: &str| format!("{}: {problem}", super::shown(&folder.join(name)));
    let listed = bundle::parse(&manifest).map_err(|e| damaged(vec![fault(MANIFEST, &e.to_string())]))?;
    let mut faults = Vec::new();
    for name in NEEDED.into_iter().filter(|name| !listed.files.contains_key(*name)) {
        faults.push(fault(name, "is not in manifest.json: the run that wrote the bundle did not finish"));
    }
    let (mut model, mut report, mut read) = (Vec::new(), Vec::new(), vec![path]);
    for (name, hash) in &listed.files {
        if !super::is_plain(name) {
            faults.push(fault(MANIFEST, &format!("lists `{}`, which is not the name of a file", name.escape_debug())));
            continue;
        }
        let path = folder.join(name);
        let is = match name.as_str() {
            MODEL => content(&path, &mut model),
            REPORT_JSON => content(&path, &mut report),
            _ => hash_of(&path),
        };
        match is {
            Ok(is) if is == *hash => {}
            Ok(_) => faults.push(fault(name, "is not what the run wrote: its SHA-256 is another")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => faults.push(fault(name, "is missing")),
            Err(error) => faults.push(fault(name, &error.to_string())),
        }
        read.push(path);
    }
    if !faults.is_empty() {
        return Err(damaged(faults));
    }
    let model_sha256 = listed.files.get(MODEL).cloned().unwrap_or_default();
    Ok(Bundle { listed, manifest, model, model_sha256, report, files: read })
}

/// Reads a file into memory; its SHA-256.
fn content(path: &Path, bytes: &mut Vec<u8>) -> io::Result<String> {
    *bytes = files::read(path, MAX_FILE)?;
    Ok(sha256(bytes))
}

/// The SHA-256 of a file, hex digits. It is read part by part: a checkpoint may be large.
pub fn hash_of(path: &Path) -> io::Result<String> {
    let mut file = files::open(path)?;
    let (mut hasher, mut part) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            read => hasher.update(&part[..read]),
        }
    }
}
