//! Reads a lock: bounded, every key known, every value in agreement with the others.

use super::text::{flatten, key, profile_digest};
use super::{Input, LOCK_VERSION, Lock, LockError, LockedGroup, LockedInputs, LockedTarget, Measured};
use crate::files;
use crate::size::ImageSize;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use toml::Table;

/// The largest lock that is read, bytes.
const MAX_LOCK: u64 = 64 << 20;

impl Lock {
    /// Reads a lock; none where there is no such file.
    ///
    /// # Errors
    /// If it cannot be read, or is no lock.
    pub fn read(path: &Path) -> Result<Option<Self>, LockError> {
        text_of(path)?.map(|text| Self::parse(path, &text)).transpose()
    }

    /// Reads the text of a lock as if it were the file `path`.
    ///
    /// # Errors
    /// If it is no TOML, has keys that this version does not know, or contradicts itself.
    pub fn parse(path: &Path, text: &str) -> Result<Self, LockError> {
        let format = |problem: String| LockError::Format { path: path.into(), problem };
        if text.len() as u64 > MAX_LOCK {
            return Err(format(format!("is larger than {MAX_LOCK} bytes")));
        }
        let placed = |error: toml::de::Error| {
            let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|b| *b == b'\n').count());
            let line = line.map_or(String::new(), |line| format!("line {line}: "));
            format(format!("{line}{}", error.message()))
        };
        let Head { lock_version } = toml::from_str(text).map_err(placed)?;
        if lock_version != LOCK_VERSION {
            return Err(LockError::Version { path: path.into(), found: lock_version });
        }
        let Raw { target, .. } = toml::from_str(text).map_err(placed)?;
        let checked = target.into_iter().map(|(name, raw)| {
            let target = raw.check().map_err(|problem| format(format!("target {}: {problem}", key(&name))))?;
            Ok((name, target))
        });
        Ok(Self { targets: checked.collect::<Result<_, LockError>>()? })
    }
}

/// The text of a lock; none where there is no such file.
pub(super) fn text_of(path: &Path) -> Result<Option<String>, LockError> {
    let fail = |source| LockError::Io { path: path.into(), source };
    match files::read(path, MAX_LOCK) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| fail(io::Error::new(io::ErrorKind::InvalidData, "is no text in UTF-8"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(fail(e)),
    }
}

/// What is read first: a newer lock may have other keys.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Head {
    lock_version: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    #[serde(rename = "lock-version")]
    _version: u64,
    #[serde(default)]
    target: BTreeMap<String, RawTarget>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawTarget {
    board: String,
    compiler: Option<String>,
    cuda: bool,
    features: Vec<String>,
    imgsz: ImageSize,
    manifest: String,
    profile_sha256: String,
    seed: u64,
    skip_bad_images: bool,
    version: String,
    data: Option<Input>,
    files: BTreeMap<String, String>,
    measured: Measured,
    model: Input,
    #[serde(default)]
    plan: BTreeMap<String, LockedGroup>,
    profile: Table,
    profile_file: Input,
}

impl RawTarget {
    /// The target, if its values agree with each other.
    fn check(self) -> Result<LockedTarget, String> {
        let profile = flatten(&self.profile);
        if profile_digest(&profile) != self.profile_sha256 {
            return Err("the values of `profile` are not those of `profile-sha256`: run prune again".into());
        }
        let inputs = [Some(&self.model), self.data.as_ref(), Some(&self.profile_file)];
        let hashes = inputs.into_iter().flatten().map(|input| &input.sha256).chain(self.files.values());
        for hash in hashes.chain([&self.manifest]) {
            if hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("`{}` is no SHA-256: expected 64 hex digits", hash.escape_debug()));
            }
        }
        for (name, group) in &self.plan {
            let LockedGroup { before, width, kept } = group;
            let ascends = kept.windows(2).all(|two| two[0] < two[1]);
            if !ascends || kept.last().is_some_and(|last| last >= before) || kept.len() != *width {
                let name = key(name);
                return Err(format!(
                    "plan {name}: expected {width} ascending positions of channels below {before} in `kept`"
                ));
            }
        }
        Ok(LockedTarget {
            inputs: LockedInputs {
                version: self.version,
                seed: self.seed,
                features: self.features,
                compiler: self.compiler,
                cuda: self.cuda,
                skip_bad_images: self.skip_bad_images,
                model: self.model,
                data: self.data,
                profile_file: self.profile_file,
                profile,
            },
            imgsz: self.imgsz,
            board: self.board,
            plan: self.plan,
            files: self.files,
            manifest: self.manifest,
            measured: self.measured,
        })
    }
}
