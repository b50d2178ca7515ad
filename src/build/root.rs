//! The root of the caller's workspace, found without cargo: a build script has no time for `cargo metadata`.

use crate::bundle::LOCK;
use crate::files;
use std::path::{Path, PathBuf};

/// The largest `Cargo.toml` that is read.
const MAX_MANIFEST: u64 = 4 << 20;

/// From a package's folder upward the first folder with `secateurs.lock`, the bundle or the profile of the target, or a
/// workspace; the package's own where there is none. An unpacked package has its bundle beside its `Cargo.toml`, and is
/// found first.
pub fn find(package: &Path, target: &str) -> PathBuf {
    let profile = format!("targets/{target}.toml");
    let is_root = |folder: &&Path| {
        let has = |name: &str| folder.join(name).is_file();
        has(LOCK)
            || folder.join("dist").join(target).is_dir()
            || has(&profile)
            || is_workspace(&folder.join("Cargo.toml"))
    };
    package.ancestors().find(is_root).unwrap_or(package).into()
}

fn is_workspace(manifest: &Path) -> bool {
    let text = files::read(manifest, MAX_MANIFEST).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let table = text.and_then(|text| text.parse::<toml::Table>().ok());
    table.is_some_and(|table| table.contains_key("workspace"))
}
