//! The bundle: the folder of results that ships. Its file names, its manifest, and the check that it is whole.
//!
//! `manifest.json` has the SHA-256 of every file beside it, and one of itself; [`verify`] reads every byte once. It
//! proves that nothing changed since the run that wrote the bundle, not who wrote it. [`Lock`] is `secateurs.lock` at the root
//! of a workspace: what each bundle was made from, by hash, and its plan.

mod digest;
mod lock;
#[cfg(feature = "tools")]
mod locked;
mod manifest;
#[cfg(feature = "tools")]
mod verify;

/// What checks a bundle: by its hashes alone, or with profiles and reports where those are compiled.
#[cfg(feature = "tools")]
mod checks {
    pub use super::digest::sha256;
    pub use super::locked::{measured, profile_values};
    pub use super::verify::{Fault, Verified, carries, verify};
}
#[cfg(not(feature = "tools"))]
mod checks {
    pub use super::digest::sha256;
}

pub use checks::*;
pub use lock::{
    Difference, Input, LOCK, LOCK_VERSION, Lock, LockError, LockedGroup, LockedInputs, LockedTarget, Measured, enter,
    flatten, lock_text,
};
pub use manifest::{Listed, ManifestError, parse, seal, unsealed};

/// The model that ships.
pub const MODEL: &str = "model.safetensors";
/// The model it was made from, for comparisons on the device.
pub const BASELINE: &str = "uncut.safetensors";
/// Widths and kept channels.
pub const PLAN: &str = "plan.toml";
/// What was asked for: the profile with all its defaults and the flags of the command line.
pub const PROFILE: &str = "profile.toml";
/// The figures for programs.
pub const REPORT_JSON: &str = "report.json";
/// The figures for people.
pub const REPORT_HTML: &str = "report.html";
/// What the inference binary measured.
pub const BENCH: &str = "bench.json";
/// The model for a benchmark command of the user.
pub const ONNX: &str = "model.onnx";
/// The inference binary with the model embedded.
pub const BINARY: &str = "secateurs-infer";
/// Hashes of everything.
pub const MANIFEST: &str = "manifest.json";

/// Every file that a run may leave.
pub const FILES: [&str; 10] = [MODEL, BASELINE, PLAN, PROFILE, REPORT_JSON, REPORT_HTML, BENCH, ONNX, BINARY, MANIFEST];
