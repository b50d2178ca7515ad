//! `secateurs.lock`: per target what a bundle was made from, which plan it has, what came out, and how it measured.
//!
//! The file stands at the root of a workspace and is made to be committed: TOML with sorted keys, one line per value and
//! one per group of channels, so that a diff shows what changed. It has several targets; rewriting one leaves the bytes
//! of the others alone. [`Lock::parse`] reads it, [`LockedTarget::differences`] names what a run does not share with it,
//! [`enter`] writes a target into it.
//!
//! This file knows no profile, no model and no report: a build script reads a lock without them.

mod differences;
mod read;
mod text;
mod write;

pub use differences::Difference;
pub use text::flatten;
pub use write::{enter, text as lock_text};

use crate::size::ImageSize;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use thiserror::Error;
use toml::Value;

/// The name of the file, at the root of a workspace.
pub const LOCK: &str = "secateurs.lock";

/// The version of the format, under `lock-version`.
pub const LOCK_VERSION: u64 = 1;

/// A lock that cannot be used.
#[derive(Debug, Error)]
pub enum LockError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is no TOML, or its values are not those of a lock.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The place and what was expected there.
        problem: String,
    },
    /// A newer version of secateurs wrote it.
    #[error("{}: has lock-version {found}, this version of secateurs reads {LOCK_VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
}

/// A lock: its targets by name. The name is that of the profile, `targets/NAME.toml`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lock {
    /// The targets.
    pub targets: BTreeMap<String, LockedTarget>,
}

/// Everything that is locked for one target.
#[derive(Clone, Debug, PartialEq)]
pub struct LockedTarget {
    /// What the bundle was made from: a run that differs in any of it is not the same run.
    pub inputs: LockedInputs,
    /// Size of the image that was chosen.
    pub imgsz: ImageSize,
    /// What measured: CPU, threads, image size. Another machine gives the same plan and other figures.
    pub board: String,
    /// The groups of channels by name. Every channel is kept where single weights were set to zero instead.
    pub plan: BTreeMap<String, LockedGroup>,
    /// SHA-256 by file name of the files of the bundle that do not change when it is measured again, and of the binary:
    /// `model.safetensors`, `uncut.safetensors`, `plan.toml`, `profile.toml`, `secateurs-infer`.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of `manifest.json`, and so of every file of the bundle.
    pub manifest: String,
    /// How the bundle measured.
    pub measured: Measured,
}

/// What a bundle is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct LockedInputs {
    /// Version of secateurs.
    pub version: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Features that the inference binary is built with, sorted.
    pub features: Vec<String>,
    /// `rustc --version` of the compiler; none where the run did not know it.
    pub compiler: Option<String>,
    /// Whether the training ran on a CUDA device.
    pub cuda: bool,
    /// Whether images that cannot be read were left out.
    pub skip_bad_images: bool,
    /// The model: its file by SHA-256.
    pub model: Input,
    /// The dataset: SHA-256 of class names, pictures, labels and annotations of both splits, wherever they lie; `path` is
    /// its YAML file. None never comes from a run of this version, and means that the data is not locked.
    pub data: Option<Input>,
    /// The file of the profile, `targets/NAME.toml`, by SHA-256. `NAME.local.toml` does not count.
    pub profile_file: Input,
    /// The values of the profile with its defaults and the flags of the command line, by section and key
    /// (`budget.latency-ratio`). The connection, the seed and the paths of model and data are left out: they are not what
    /// is computed, or stand above.
    pub profile: BTreeMap<String, Value>,
}

/// A file that went in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// With `/` between folders; relative to the folder of the lock where it lies in there. [`Input::DEMO`] or `drawn:N` for
    /// what secateurs has in itself and draws.
    pub path: String,
    /// SHA-256, hex digits.
    pub sha256: String,
}

/// One group of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedGroup {
    /// Channels before.
    pub before: usize,
    /// Channels after.
    pub width: usize,
    /// Positions of the kept channels, ascending.
    pub kept: Vec<usize>,
}

/// The figures of a bundle. Latencies are absent where nothing was measured on the device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Measured {
    /// Why no latency is claimed, where none is.
    pub simulated: Option<String>,
    /// Median time per frame, milliseconds.
    pub p50_ms: Option<f64>,
    /// With 95 % confidence the true median is at most this; absent when there were too few frames to say.
    pub p50_bound_ms: Option<f64>,
    /// 99th percentile, milliseconds.
    pub p99_ms: Option<f64>,
    /// With 95 % confidence the true 99th percentile is at most this; absent when there were too few frames to say.
    pub p99_bound_ms: Option<f64>,
    /// Latency over that of the model before pruning, interleaved.
    pub latency_ratio: Option<f64>,
    /// Weights, activations and workspace, bytes.
    pub peak_memory_bytes: u64,
    /// Trained values.
    pub params: u64,
    /// mAP50-95 of a detector, by COCO's rules; absent where no validation image shows an object.
    pub map50_95: Option<f64>,
    /// Accuracy of a classifier.
    pub accuracy: Option<f64>,
}

impl Input {
    /// The path of the embedded demo: its model, and its drawn data.
    pub const DEMO: &str = "demo";

    /// An input by its path; none is the embedded demo. `root` is the folder of the lock. Both are made absolute, not
    /// followed through links.
    pub fn new(path: Option<&Path>, root: &Path, sha256: String) -> Self {
        let drawn = |path: &&Path| path.to_str().is_some_and(is_embedded);
        let path = match path {
            None => Self::DEMO.to_owned(),
            Some(path) if drawn(&path) => path.to_string_lossy().into_owned(),
            Some(path) => relative(path, root),
        };
        Self { path, sha256 }
    }

    /// The file, if it is one.
    pub fn file(&self, root: &Path) -> Option<PathBuf> {
        (!is_embedded(&self.path)).then(|| root.join(&self.path))
    }
}

/// Whether a path names what secateurs has in itself or draws.
fn is_embedded(path: &str) -> bool {
    path == Input::DEMO || ["demo:", "drawn:"].iter().any(|prefix| path.starts_with(prefix))
}

/// A path with `/`, relative to a folder where it lies in there.
fn relative(path: &Path, root: &Path) -> String {
    let plain = |path: &Path| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut plain = PathBuf::new();
        for part in absolute.components() {
            match part {
                Component::ParentDir => drop(plain.pop()),
                other => plain.push(other),
            }
        }
        plain
    };
    let (path, root) = (plain(path), plain(root));
    match path.strip_prefix(&root) {
        Ok(inside) => {
            let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            let text = parts.join("/");
            if is_embedded(&text) { format!("./{text}") } else { text }
        }
        Err(_) => path.to_string_lossy().into_owned(),
    }
}

impl Lock {
    /// The target of a name.
    pub fn target(&self, name: &str) -> Option<&LockedTarget> {
        self.targets.get(name)
    }
}

#[cfg(test)]
mod tests;
