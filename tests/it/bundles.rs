//! A finished bundle of the demo, made once for all tests of verifying, signing and bills of materials; and ways to
//! change a copy of it so that its manifest still agrees.

use crate::results::{built, worker};
use secateurs::bundle::{self, BINARY, LOCK, MANIFEST, MODEL, REPORT_JSON};
use secateurs::report::Report;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A key for these tests, without a password. It signs nothing else.
pub const SECRET: &str = "untrusted comment: secateurs test key, signs nothing of worth\n\
    RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAALpXFMyIURYjVN/vOC+qJKHWIQhNQHLKPacm+h8hp\
    tdp80mVPGHgUxBl0ZEPxHPtkxP/6xISJVz58LrPw8yrcVXj05xdP1B6LAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
pub const PUBLIC: &str = "RWQulcUzIhRFiBl0ZEPxHPtkxP/6xISJVz58LrPw8yrcVXj05xdP1B6L";
/// The public half of another key.
pub const OTHER: &str = "RWSEyqMYrk6VEukap22/MK0+i7V70y7t+wqJvwqUn01LcqkmuP6lC7Ez";

/// A list of crates as the driver writes it.
pub const CRATES: &str = r#"{"target": "x86_64-unknown-linux-gnu", "features": ["runtime"], "crates": [
    {"name": "secateurs", "version": "0.1.0", "license": "MIT OR Apache-2.0", "source": null, "sha256": null,
     "build-only": false, "dependencies": [1]},
    {"name": "serde", "version": "1.0.229", "license": "MIT/Apache-2.0",
     "source": "registry+https://github.com/rust-lang/crates.io-index",
     "sha256": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "build-only": false,
     "dependencies": [2]},
    {"name": "serde_derive", "version": "1.0.229", "license": null,
     "source": "registry+https://github.com/rust-lang/crates.io-index",
     "sha256": "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "build-only": true,
     "dependencies": []}]}"#;

/// Runs the worker with arguments that have no spaces in them.
pub fn run(arguments: &str, folder: &Path) -> (i32, String) {
    worker(&arguments.split(' ').collect::<Vec<_>>(), folder)
}

/// Prunes the demo in the two stages of the driver, and finishes the bundle with a bill of materials, a signature and
/// an entry in the lock.
fn make(folder: &Path) {
    fs::write(folder.join("host.toml"), "[bench]\nruns = 4\nwarmup = 0\nquiet = false\n").unwrap();
    fs::write(folder.join("test.key"), SECRET).unwrap();
    fs::write(folder.join("crates.json"), CRATES).unwrap();
    let prune = "prune --profile host.toml --memory-mib 2.2 --epochs 0 --calibration-images 16 --out out";
    let (code, text) = run(&format!("{prune} --sign test.key"), folder);
    assert!(code == 2 && text.contains("--sign is for the finished bundle"), "{code} {text}");
    let (code, text) = run(&format!("{prune} --first-stage --lock {LOCK}"), folder);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run("verify .out.new", folder);
    assert!(code == 9 && text.contains("secateurs-infer: is not in manifest.json"), "{code} {text}");
    // What the binary runs stays where it is.
    let model = folder.join(MODEL);
    fs::copy(folder.join(".out.new").join(MODEL), &model).unwrap();
    built(&folder.join("built"), &model);
    let finish = "finish --out out --binary built --crates crates.json --sign test.key --held";
    let (code, text) = run(&format!("{finish} --lock {LOCK}"), folder);
    assert_eq!(code, 0, "{text}");
}

/// The bundle that all tests copy, beside its lock.
fn made() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        // What lives as long as the process is never dropped: it lies where cargo cleans up.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        make(folder.path());
        folder
    });
    made.path()
}

/// The lock that the bundle is entered in.
pub fn lock_of_the_bundle() -> PathBuf {
    made().join(LOCK)
}

/// A folder with a copy of the bundle in `out`, and the key that it is signed with in `test.key`.
pub fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("test.key"), SECRET).unwrap();
    copy_files(&made().join("out"), &folder.path().join("out"));
    folder
}

/// Copies the files of a bundle.
pub fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The files of a bundle, without what its folder has besides.
pub fn files(bundle: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(bundle).unwrap().map(|entry| entry.unwrap().path());
    let is = |path: &PathBuf| bundle::FILES.iter().any(|name| path.ends_with(name));
    let mut paths: Vec<PathBuf> = paths.filter(is).collect();
    paths.sort();
    paths
}

/// Makes the manifest agree with the files again, as somebody would who wants a change to go unnoticed.
pub fn reseal(bundle: &Path) {
    let path = bundle.join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, hash) in manifest["files"].as_object_mut().unwrap() {
        *hash = bundle::sha256(&fs::read(bundle.join(name)).unwrap()).into();
    }
    manifest["digest"] = bundle::unsealed().into();
    fs::write(path, bundle::seal(&serde_json::to_string_pretty(&manifest).unwrap())).unwrap();
}

/// Changes the report of a bundle, whose manifest then agrees with it.
pub fn change_report(bundle: &Path, change: impl FnOnce(&mut Report)) {
    let path = bundle.join(REPORT_JSON);
    let mut report: Report = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut report);
    fs::write(path, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
    reseal(bundle);
}

/// Puts another model, and a binary that carries it, into a bundle, whose manifest then agrees with them. What the
/// binary runs is the file in the bundle, which must stay where it is.
pub fn change_model(bundle: &Path, model: &[u8]) {
    fs::write(bundle.join(MODEL), model).unwrap();
    built(&bundle.join(BINARY), &bundle.join(MODEL));
    reseal(bundle);
}
