//! Whether a bundle was made from what stands in the workspace: the profile and the model by their hashes in
//! `secateurs.lock`, and the lock's entry against the bundle.
//!
//! What is not there is not compared: an unpacked package has its bundle, but neither profile nor lock.

use super::error::BuildError;
use super::shown;
use super::whole::{self, Bundle};
use crate::bundle::{BASELINE, Input, LOCK, Lock, LockedTarget, MANIFEST, MODEL, PLAN};
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};

/// Files whose bytes the lock names for good; the others hold paths and times.
const LOCKED: [&str; 3] = [MODEL, BASELINE, PLAN];

/// What a manifest says of its run.
#[derive(Deserialize)]
struct Run {
    version: String,
    seed: u64,
}

/// Compares; every file outside the bundle that was read.
///
/// # Errors
/// With everything that differs, or if a file cannot be read.
pub fn check(bundle: &Bundle, dist: &Path, root: &Path, target: &str) -> Result<Vec<PathBuf>, BuildError> {
    let stale = |changes| BuildError::Stale { target: target.into(), changes };
    let path = root.join(LOCK);
    let profile = root.join("targets").join(format!("{target}.toml"));
    let Some(lock) = Lock::read(&path).map_err(BuildError::Lock)? else {
        if profile.is_file() {
            let problem = format!("{} is missing: nothing says what the bundle was made from", shown(&path));
            return Err(stale(vec![problem]));
        }
        return Ok(Vec::new());
    };
    let mut read = vec![path.clone()];
    let Some(locked) = lock.target(target) else {
        return Err(stale(vec![format!("{} knows no target `{target}`", shown(&path))]));
    };
    let mut changes = Vec::new();
    let inputs = &locked.inputs;
    for (what, input) in [("profile", &inputs.profile_file), ("model", &inputs.model)] {
        let Some((path, hash)) = current(input, root)? else { continue };
        if hash != input.sha256 {
            changes.push(format!("{}: the {what} has changed since the bundle was made", shown(&path)));
        }
        read.push(path);
    }
    changes.extend(
        lock_against(locked, bundle)
            .into_iter()
            .map(|(name, problem)| format!("{}: {problem} than {} names", shown(&dist.join(name)), shown(&path))),
    );
    if changes.is_empty() { Ok(read) } else { Err(stale(changes)) }
}

/// The file of an input where it is there, and its hash now.
fn current(input: &Input, root: &Path) -> Result<Option<(PathBuf, String)>, BuildError> {
    let Some(path) = input.file(root).filter(|_| !input.path.is_empty()) else { return Ok(None) };
    match whole::hash_of(&path) {
        Ok(hash) => Ok(Some((path, hash))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(BuildError::Io { path, source }),
    }
}

/// What in a bundle is not what the lock names: the file, and what it is.
fn lock_against(locked: &LockedTarget, bundle: &Bundle) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for name in LOCKED {
        if let Some(hash) = locked.files.get(name)
            && bundle.listed.files.get(name) != Some(hash)
        {
            found.push((name, "is another".to_owned()));
        }
    }
    let inputs = &locked.inputs;
    if bundle.listed.inputs.get("model").is_some_and(|hash| *hash != inputs.model.sha256) {
        found.push((MANIFEST, "was made from another model".to_owned()));
    }
    match serde_json::from_slice::<Run>(&bundle.manifest) {
        Ok(Run { version, seed }) => {
            if version != inputs.version {
                let version = version.escape_debug();
                found.push((MANIFEST, format!("was made by version {version} of secateurs, another")));
            }
            if seed != inputs.seed {
                found.push((MANIFEST, format!("was made with seed {seed}, another")));
            }
        }
        Err(error) => found.push((MANIFEST, format!("says less ({error})"))),
    }
    found
}
