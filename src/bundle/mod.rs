//! The bundle: the folder of results that ships. Its file names, its manifest, its signature, its bill of materials,
//! and the check that it is whole.
//!
//! `manifest.json` has the SHA-256 of every file beside it, and one of itself; [`verify`] reads every byte once. That
//! proves that nothing changed since the run that wrote the bundle. Who wrote it, the signature of the manifest proves
//! ([`verify_signed`]). [`Lock`] is `secateurs.lock` at the root of a workspace: what each bundle was made from, by
//! hash, and its plan; [`differences`] holds a bundle against it.

mod digest;
#[cfg(feature = "tools")]
mod held;
mod lock;
#[cfg(feature = "tools")]
mod locked;
mod manifest;
#[cfg(feature = "tools")]
pub mod sbom;
#[cfg(feature = "tools")]
pub mod sign;
#[cfg(feature = "tools")]
mod verify;

/// What checks a bundle: by its hashes alone, or with profiles and reports where those are compiled.
#[cfg(feature = "tools")]
mod checks {
    pub use super::digest::sha256;
    pub use super::held::differences;
    pub use super::locked::{measured, profile_values};
    pub use super::verify::{Fault, Verified, carries, pruned, verify, verify_signed, whole};
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
/// The epochs of fine-tuning, a row each.
pub const EPOCHS: &str = "results.csv";
/// What the inference binary measured.
pub const BENCH: &str = "bench.json";
/// The model for a benchmark command of the user.
pub const ONNX: &str = "model.onnx";
/// The inference binary with the model embedded.
pub const BINARY: &str = "secateurs-infer";
/// The bill of materials: the inference binary with its crates, the model with its figures (CycloneDX).
pub const SBOM: &str = "sbom.cdx.json";
/// Hashes of everything.
pub const MANIFEST: &str = "manifest.json";
/// The signature of the manifest, and so of everything (minisign).
pub const SIGNATURE: &str = "manifest.json.minisig";

/// When a file is part of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always: the first stage of a run writes it.
    Pruned,
    /// Once the inference binary is built and measured.
    Finished,
    /// In some bundles; the manifest then lists it.
    Optional,
    /// The manifest cannot list it: itself, and its signature (in signed bundles).
    Unlisted,
}

/// Every file that a run may leave, and when it is there.
pub const TABLE: [(&str, When); 13] = [
    (MODEL, When::Pruned),
    (BASELINE, When::Pruned),
    (PLAN, When::Pruned),
    (PROFILE, When::Pruned),
    (REPORT_JSON, When::Pruned),
    (REPORT_HTML, When::Pruned),
    (BENCH, When::Finished),
    (BINARY, When::Finished),
    // Where the model was fine-tuned.
    (EPOCHS, When::Optional),
    // For a benchmark command of the user.
    (ONNX, When::Optional),
    // Where `finish` was told of which crates the binary was built: `cargo xtask prune` does.
    (SBOM, When::Optional),
    (MANIFEST, When::Unlisted),
    (SIGNATURE, When::Unlisted),
];

/// The names of [`TABLE`].
pub const FILES: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = TABLE[at].0;
        at += 1;
    }
    names
};
