//! Whether a bundle is what one run wrote, all of it.

use super::manifest::{self, Listed};
use super::sign::{PublicKey, Signature};
use super::{BINARY, FILES, MANIFEST, MODEL, PLAN, PROFILE, REPORT_JSON, SIGNATURE, TABLE, When, digest::sha256};
use crate::profile::{self, Profile};
use crate::report::Report;
use crate::{files, model};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Something that is wrong with a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, and what was expected.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.problem)
    }
}

/// A bundle that is whole.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What the manifest lists.
    pub listed: Listed,
    /// `manifest.json`.
    pub manifest: Vec<u8>,
    /// The signature, where there is one. Only [`verify_signed`] proves that it is one of this manifest.
    pub signature: Option<Signature>,
    /// What was asked for.
    pub profile: Profile,
    /// What was measured.
    pub report: Report,
    /// `plan.toml`.
    pub plan_text: String,
    /// `model.safetensors`.
    pub model: Vec<u8>,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// Reads every file of a finished bundle and holds it against the manifest: nothing is missing, changed, renamed or
/// added under a name of a run's, and the inference binary carries the model. Files of other names are their owner's.
///
/// # Errors
/// Everything that is wrong, at least one thing.
pub fn verify(folder: &Path) -> Result<Verified, Vec<Fault>> {
    Reader::new(folder).read(Extent::All, None)
}

/// As [`verify`], of a bundle whose manifest must be signed with the secret half of a key. Where it is not, nothing
/// else is read.
///
/// # Errors
/// As [`verify`]; a signature that is missing, of another key, or of other bytes.
pub fn verify_signed(folder: &Path, key: &PublicKey) -> Result<Verified, Vec<Fault>> {
    Reader::new(folder).read(Extent::All, Some(key))
}

/// As [`verify`], of a bundle that is about to be signed: what lies there as its signature does not count.
///
/// # Errors
/// As [`verify`].
pub fn whole(folder: &Path) -> Result<Verified, Vec<Fault>> {
    Reader::new(folder).read(Extent::Unsigned, None)
}

/// Reads what the first stage of a run left, before the inference binary is there, and holds it against the manifest.
/// What a later stage left is not read: it is about to be replaced.
///
/// # Errors
/// As [`verify`].
pub fn pruned(folder: &Path) -> Result<Verified, Vec<Fault>> {
    Reader::new(folder).read(Extent::Pruned, None)
}

/// How much of a bundle is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What the first stage of a run left.
    Pruned,
    /// Everything but the signature.
    Unsigned,
    /// Everything.
    All,
}

/// Reads one folder, and gathers what is wrong with it.
struct Reader<'a> {
    folder: &'a Path,
    bytes: u64,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn new(folder: &'a Path) -> Self {
        Self { folder, bytes: 0, faults: Vec::new() }
    }

    fn fault(&self, name: &str, problem: impl Into<String>) -> Fault {
        Fault { file: self.folder.join(name), problem: problem.into() }
    }

    fn read(mut self, extent: Extent, key: Option<&PublicKey>) -> Result<Verified, Vec<Fault>> {
        let manifest = self.file(MANIFEST).map_err(|fault| vec![fault])?;
        let listed = manifest::parse(&manifest).map_err(|e| vec![self.fault(MANIFEST, e.to_string())])?;
        let signature = match extent {
            Extent::All => self.signature(&manifest, key).map_err(|fault| vec![fault])?,
            Extent::Pruned | Extent::Unsigned => None,
        };
        let mut kept = self.listed_files(&listed, extent);
        if extent != Extent::Pruned {
            self.refuse_strangers(&listed);
            if let (Some(model), Some(binary)) = (kept.get(MODEL), kept.get(BINARY))
                && !carries(binary, model)
            {
                self.faults.push(self.fault(BINARY, format!("carries another model than {MODEL}")));
            }
        }
        let profile_text = self.text(PROFILE, &mut kept);
        let plan_text = self.text(PLAN, &mut kept);
        let profile = profile_text.as_ref().and_then(|text| {
            let read = profile::parse(&self.folder.join(PROFILE), text);
            read.map_err(|e| self.faults.push(self.fault(PROFILE, e.to_string()))).ok()
        });
        let report = kept.remove(REPORT_JSON).and_then(|json| {
            let read = serde_json::from_slice(&json);
            read.map_err(|e| self.faults.push(self.fault(REPORT_JSON, e.to_string()))).ok()
        });
        let read = (plan_text, kept.remove(MODEL), profile, report);
        match read {
            (Some(plan_text), Some(model), Some(profile), Some(report)) if self.faults.is_empty() => {
                let bytes = self.bytes;
                Ok(Verified { listed, manifest, signature, profile, report, plan_text, model, bytes })
            }
            _ => Err(self.faults),
        }
    }

    fn file(&mut self, name: &str) -> Result<Vec<u8>, Fault> {
        let content = files::read(&self.folder.join(name), model::MAX_FILE);
        let content = content.map_err(|e| self.fault(name, e.to_string()))?;
        self.bytes += content.len() as u64;
        Ok(content)
    }

    /// The signature of the manifest, if there is one: its form, and with a key whether it is that key's.
    fn signature(&mut self, manifest: &[u8], key: Option<&PublicKey>) -> Result<Option<Signature>, Fault> {
        let there = self.folder.join(SIGNATURE).symlink_metadata().is_ok();
        if !there {
            let missing = "is missing: the bundle is not signed, and a key was given";
            return if key.is_some() { Err(self.fault(SIGNATURE, missing)) } else { Ok(None) };
        }
        let content = self.file(SIGNATURE)?;
        let signature = Signature::parse(&content).map_err(|problem| self.fault(SIGNATURE, problem))?;
        if let Some(key) = key {
            signature.check(manifest, key).map_err(|problem| self.fault(SIGNATURE, problem))?;
        }
        Ok(Some(signature))
    }

    /// Holds the files of this extent against their hashes, and gives those that are looked into.
    fn listed_files(&mut self, listed: &Listed, extent: Extent) -> BTreeMap<&'static str, Vec<u8>> {
        let mut kept = BTreeMap::new();
        for (name, when) in TABLE {
            let expected = when == When::Pruned || (when == When::Finished && extent != Extent::Pruned);
            if when == When::Unlisted || (extent == Extent::Pruned && !expected) {
                continue;
            }
            let Some(hash) = listed.files.get(name) else {
                if expected {
                    let problem = "is not in manifest.json: the run that wrote the bundle did not finish";
                    self.faults.push(self.fault(name, problem));
                }
                continue;
            };
            match self.file(name) {
                Ok(content) if sha256(&content) != *hash => {
                    self.faults.push(self.fault(name, "is not what the run wrote: its SHA-256 is another"));
                }
                Ok(content) if [MODEL, BINARY, PROFILE, PLAN, REPORT_JSON].contains(&name) => {
                    kept.insert(name, content);
                }
                Ok(_) => {}
                Err(fault) => self.faults.push(fault),
            }
        }
        kept
    }

    /// Names of runs' files that this run did not write, in the manifest or beside it.
    fn refuse_strangers(&mut self, listed: &Listed) {
        for name in listed.files.keys().filter(|name| !FILES.contains(&name.as_str())) {
            self.faults.push(self.fault(MANIFEST, format!("lists `{}`, which no run writes", name.escape_debug())));
        }
        for (name, when) in TABLE {
            if listed.files.contains_key(name) {
                if when == When::Unlisted {
                    self.faults.push(self.fault(MANIFEST, format!("lists {name}, which no run lists")));
                }
            } else if when == When::Optional && self.folder.join(name).symlink_metadata().is_ok() {
                self.faults.push(self.fault(name, "is not in manifest.json: it belongs to another run"));
            }
        }
    }

    fn text(&mut self, name: &str, kept: &mut BTreeMap<&'static str, Vec<u8>>) -> Option<String> {
        let text = String::from_utf8(kept.remove(name)?);
        text.map_err(|e| self.faults.push(self.fault(name, e.to_string()))).ok()
    }
}

/// Whether a program has the bytes of a model in it.
pub fn carries(program: &[u8], model: &[u8]) -> bool {
    !model.is_empty() && program.windows(model.len()).any(|part| part == model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_carries_the_model_that_lies_in_it_and_no_other() {
        let program = b"\x7fELF code {model one} more";
        assert!(carries(program, b"{model one}"));
        assert!(!carries(program, b"{model two}") && !carries(program, b"{model one} more and more"));
        assert!(!carries(program, b""), "a program without a model");
    }
}
