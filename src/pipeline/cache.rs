//! Results of long measurements, kept by the content they were made from.
//!
//! An entry is a JSON object whose key `sha256` is the digest of its kind, its key and all its other values. Whoever asks
//! for an entry also says what makes one meaningful; one that is damaged, or means nothing, is computed anew.

use super::progress::Progress;
use crate::bundle::sha256;
use crate::files;
use crate::ranks::{RankError, Ranks};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The largest cache entry that is read.
const MAX_ENTRY: u64 = 256 << 20;

/// The digest of an entry, among its values.
const DIGEST: &str = "sha256";

/// A key of everything that a result depends on, part by part.
pub fn key(parts: &[&dyn std::fmt::Debug]) -> String {
    sha256(format!("{} {parts:?}", env!("CARGO_PKG_VERSION")).as_bytes())[..16].to_owned()
}

/// The place of an entry.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// The folder of all entries.
    pub folder: &'a Path,
    /// What kind of result it is.
    pub kind: &'a str,
    /// The [`key`] of what it was made from.
    pub key: &'a str,
}

/// The entries of a job.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    /// The folder of all entries.
    pub folder: &'a Path,
    /// Receives a message for every entry that is computed anew.
    pub progress: &'a dyn Progress,
    /// The ranks of the job: the first one reads and writes.
    pub ranks: &'a Ranks,
}

impl Cache<'_> {
    /// The result of an earlier run with the same key, or a fresh one, which is then kept; and whether it was kept. `check`
    /// says what is wrong with a result; what the file holds goes through it, and a fresh one with something wrong is not
    /// kept. A cache that cannot be read or written only costs time. All ranks of the job get what the first one finds, or
    /// compute together.
    ///
    /// # Errors
    /// As `compute`; if a rank cannot be reached.
    pub fn get_or<T: Serialize + DeserializeOwned, E: From<RankError>>(
        &self,
        kind: &str,
        key: &str,
        check: impl Fn(&T) -> Result<(), String>,
        compute: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, bool), E> {
        let entry = Entry { folder: self.folder, kind, key };
        if let Some(value) = self.ranks.by_first(|| Ok::<_, E>(self.find(&entry, &check)))? {
            return Ok((value, true));
        }
        let value = compute()?;
        if self.ranks.is_first()
            && check(&value).is_ok()
            && let Some(bytes) = entry.seal(&value)
        {
            let _ = files::write_atomic(&entry.path(), &bytes);
        }
        Ok((value, false))
    }

    /// The value of an entry that is there and passes the check.
    fn find<T: DeserializeOwned>(&self, entry: &Entry, check: impl Fn(&T) -> Result<(), String>) -> Option<T> {
        let path = entry.path();
        let found = match files::read(&path, MAX_ENTRY) {
            Ok(bytes) => entry.open(&bytes).and_then(|value: T| check(&value).map(|()| value)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => Err(e.to_string()),
        };
        let anew = |problem| self.progress.message(format!("{}: {problem}; computed anew", path.display()));
        found.map_err(anew).ok()
    }
}

impl Entry<'_> {
    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(format!("{}-{}.json", self.kind, self.key))
    }

    fn digest(&self, value: &Value) -> String {
        sha256(format!("{}-{} {value}", self.kind, self.key).as_bytes())
    }

    /// The value in an entry's bytes.
    fn open<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, String> {
        let mut value: Value = serde_json::from_slice(bytes).map_err(|e| format!("is not JSON ({e})"))?;
        let digest = value.as_object_mut().and_then(|map| map.remove(DIGEST));
        let digest = digest.ok_or_else(|| format!("has no `{DIGEST}`"))?;
        if digest != self.digest(&value) {
            return Err("has been damaged: its content does not have the digest that it names".into());
        }
        serde_json::from_value(value).map_err(|e| format!("cannot be understood ({e})"))
    }

    /// The bytes of an entry; none for what is no JSON object.
    fn seal<T: Serialize>(&self, value: &T) -> Option<Vec<u8>> {
        let mut value = serde_json::to_value(value).ok()?;
        let digest = self.digest(&value);
        value.as_object_mut()?.insert(DIGEST.into(), digest.into());
        serde_json::to_vec(&value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Event;
    use serde::Deserialize;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    #[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
    struct Losses {
        losses: BTreeMap<usize, f64>,
    }

    fn losses(loss: f64) -> Losses {
        Losses { losses: BTreeMap::from([(8, loss), (16, 0.1 + 0.2)]) }
    }

    /// What is found, whether it was kept, and the notes.
    fn run(folder: &Path, key: &str, fresh: f64) -> (Losses, bool, Vec<String>) {
        let notes = RefCell::new(Vec::new());
        let progress = RefCell::new(|event| {
            if let Event::Message(text) = event {
                notes.borrow_mut().push(text);
            }
        });
        let check = |found: &Losses| {
            let bad = found.losses.values().find(|loss| **loss < 0.0);
            bad.map_or(Ok(()), |loss| Err(format!("has a loss of {loss}")))
        };
        let cache = Cache { folder, progress: &progress, ranks: &Ranks::default() };
        let (value, kept) = cache.get_or::<_, RankError>("table", key, check, || Ok(losses(fresh))).unwrap();
        (value, kept, notes.take())
    }

    #[test]
    fn a_second_run_reads_what_the_first_wrote() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(run(folder.path(), "k", 7.0), (losses(7.0), false, vec![]));
        assert_eq!(run(folder.path(), "k", 8.0), (losses(7.0), true, vec![]));
        assert_eq!(run(folder.path(), "l", 9.0), (losses(9.0), false, vec![]));
    }

    #[test]
    fn an_entry_that_was_changed_or_means_nothing_is_computed_anew_with_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table-k.json");
        run(folder.path(), "k", 7.0);
        let good = std::fs::read_to_string(&path).unwrap();
        let entry = Entry { folder: folder.path(), kind: "table", key: "k" };
        let cases = [
            (good[..good.len() / 2].to_owned(), "is not JSON"),
            (String::new(), "is not JSON"),
            ("[]".into(), "has no `sha256`"),
            (r#"{"losses":{"8":7.0,"16":0.3}}"#.into(), "has no `sha256`"),
            (good.replace("7.0", "7.5"), "has been damaged"),
            (good.replace(",\"8\":7.0", ""), "has been damaged"),
            (String::from_utf8(entry.seal(&losses(-1.0)).unwrap()).unwrap(), "has a loss of -1"),
            (String::from_utf8(entry.seal(&BTreeMap::from([("loss", 1)])).unwrap()).unwrap(), "cannot be understood"),
            // The entry of another key under this one's name.
            (String::from_utf8(Entry { key: "l", ..entry }.seal(&losses(1.0)).unwrap()).unwrap(), "has been damaged"),
        ];
        for (bytes, expected) in cases {
            std::fs::write(&path, &bytes).unwrap();
            let (value, kept, notes) = run(folder.path(), "k", 7.0);
            assert_eq!((value, kept), (losses(7.0), false), "{bytes}");
            assert!(notes.len() == 1 && notes[0].contains(expected) && notes[0].contains("table-k.json"), "{notes:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), good);
        }
        // What is wrong from the start is given, and not kept.
        let fresh = || run(folder.path(), "m", -2.0);
        assert_eq!((fresh(), fresh().1), ((losses(-2.0), false, vec![]), false));
    }
}
