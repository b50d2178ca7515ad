//! Results of long measurements, kept by the content they were made from.

use crate::files;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The largest cache entry that is read.
const MAX_ENTRY: u64 = 256 << 20;

/// Hex digits of the SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A key of everything that a result depends on, part by part.
pub fn key(parts: &[&dyn std::fmt::Debug]) -> String {
    sha256(format!("{} {parts:?}", env!("CARGO_PKG_VERSION")).as_bytes())[..16].to_owned()
}

/// The result of an earlier run with the same key, or a fresh one, which is then kept. A cache that cannot be read or
/// written only costs time.
pub fn cached<T: Serialize + DeserializeOwned, E>(
    folder: &Path,
    kind: &str,
    key: &str,
    compute: impl FnOnce() -> Result<T, E>,
) -> Result<(T, bool), E> {
    let path: PathBuf = folder.join(format!("{kind}-{key}.json"));
    let found = files::read(&path, MAX_ENTRY).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(value) = found {
        return Ok((value, true));
    }
    let value = compute()?;
    if let Ok(bytes) = serde_json::to_vec(&value) {
        let _ = files::write_atomic(&path, &bytes);
    }
    Ok((value, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_reads_what_the_first_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let run = |value: u32| cached::<u32, ()>(folder.path(), "table", &key(&[&1, &"a"]), || Ok(value)).unwrap();
        assert_eq!(run(7), (7, false));
        assert_eq!(run(8), (7, true));
        std::fs::write(folder.path().join(format!("table-{}.json", key(&[&1, &"a"]))), b"torn").unwrap();
        assert_eq!(run(9), (9, false));
    }
}
