//! For the `build.rs` of a program that ships a pruned model: checks the bundle in `dist/NAME` against what stands in the
//! workspace, and generates a module around its model: classes, figures, predictor.
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), secateurs::build::BuildError> {
//!     secateurs::build::embed("jetson")
//! }
//! ```
//!
//! In the program, `mod model { secateurs::model!("jetson"); }` then has `Class`, `IMGSZ`, `BATCH`, `THREADS`,
//! `PEAK_BYTES`, `LATENCY_P50_MS`, `LATENCY_P99_MS`, `MODEL`, `MODEL_SHA256` and `predictor()`.
//!
//! The build goes on only if the bundle is whole, by its own manifest, and was made from what stands in the workspace:
//! the profile `targets/NAME.toml` and the model file, as far as both are there, have the hashes that `secateurs.lock`
//! names, and the bundle has the plan and the weights that it names. The dataset is not read; `prune --locked` does that.
//!
//! This module knows no engine, no candle and no network. It reads the head of the model file and a few figures of
//! `report.json`, and never runs anything of a bundle.

mod belongs;
mod error;
mod figures;
mod generate;
mod header;
mod identifiers;
mod prune;
mod root;
mod whole;

pub use error::BuildError;

use crate::bundle::{MODEL, REPORT_JSON};
use crate::{files, output};
use std::env;
use std::path::{Path, PathBuf};

/// Checks the bundle in `dist/NAME` and generates `OUT_DIR/NAME.rs` with its model, as [`Embed::run`].
///
/// # Errors
/// As [`Embed::run`].
pub fn embed(target: &str) -> Result<(), BuildError> {
    Embed::new(target).run()
}

/// What is embedded, and how.
///
/// ```no_run
/// use secateurs::build::{BuildError, Embed};
///
/// fn main() -> Result<(), BuildError> {
///     // A bundle that lies elsewhere, made anew by this build where it is stale.
///     Embed::new("jetson").dist("models/jetson").prune_if_stale().run()
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Embed {
    target: String,
    dist: Option<PathBuf>,
    root: Option<PathBuf>,
    out_dir: Option<PathBuf>,
    prune: bool,
}

/// What was generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// The module, `OUT_DIR/NAME.rs`.
    pub module: PathBuf,
    /// Every file that was read: where one changes, the module must be generated again.
    pub watched: Vec<PathBuf>,
}

/// Set to `1`, it lets a build make a stale or missing bundle anew.
const PRUNE: &str = "SECATEURS_PRUNE";

impl Embed {
    /// The bundle of a target, in `dist/NAME` of the workspace.
    pub fn new(target: impl Into<String>) -> Self {
        Self { target: target.into(), dist: None, root: None, out_dir: None, prune: false }
    }

    /// The folder of the bundle; a relative one is below `CARGO_MANIFEST_DIR`.
    pub fn dist(mut self, folder: impl Into<PathBuf>) -> Self {
        self.dist = Some(folder.into());
        self
    }

    /// The folder with `secateurs.lock` and `targets/`. By default it is looked for from `CARGO_MANIFEST_DIR` upward: the
    /// first folder with `secateurs.lock`, `dist/NAME`, `targets/NAME.toml`, or a `Cargo.toml` that has `[workspace]`.
    pub fn root(mut self, folder: impl Into<PathBuf>) -> Self {
        self.root = Some(folder.into());
        self
    }

    /// Where to write, in place of `OUT_DIR`.
    pub fn out_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.out_dir = Some(folder.into());
        self
    }

    /// Runs `cargo secateurs prune --target NAME` where the bundle is missing, stale or damaged, as `SECATEURS_PRUNE=1`
    /// does. That takes minutes and measures on the device while cargo builds: it is for developers, not for releases.
    pub fn prune_if_stale(mut self) -> Self {
        self.prune = true;
        self
    }

    /// Checks and generates, and tells cargo on the standard output which files to watch, and what is wrong.
    ///
    /// # Errors
    /// If the bundle is missing, damaged or stale, or a file cannot be read or written. Cargo is told as well, so that
    /// the build fails even if the error is dropped.
    pub fn run(&self) -> Result<(), BuildError> {
        output::print(&format!("cargo::rerun-if-env-changed={PRUNE}\n"));
        match self.generate() {
            Ok(Embedded { watched, .. }) => {
                let line = |path: &PathBuf| format!("cargo::rerun-if-changed={}\n", path.display());
                output::print(&watched.iter().map(line).collect::<String>());
                Ok(())
            }
            Err(error) => {
                let lines = error.lines();
                output::print(&lines.iter().map(|line| format!("cargo::error={line}\n")).collect::<String>());
                Err(error)
            }
        }
    }

    /// As [`Embed::run`], and tells cargo nothing.
    ///
    /// # Errors
    /// As [`Embed::run`].
    pub fn generate(&self) -> Result<Embedded, BuildError> {
        let target = &self.target;
        if !is_plain(target) {
            return Err(BuildError::Name(target.clone()));
        }
        let out = self.out_dir.clone().map_or_else(|| variable("OUT_DIR"), Ok)?;
        let place = self.place()?;
        let checked = match place.check() {
            Err(error)
                if error.is_mended_by_pruning() && (self.prune || env::var_os(PRUNE).is_some_and(|v| v == "1")) =>
            {
                prune::run(target, &place.root, self.dist.is_some().then_some(&*place.dist))?;
                place.check()?
            }
            checked => checked?,
        };
        let report = place.dist.join(REPORT_JSON);
        let figures =
            figures::read(&checked.bundle.report).map_err(|problem| BuildError::unusable(&report, problem))?;
        let model = place.dist.join(MODEL);
        let header = header::read(&checked.bundle.model).map_err(|problem| BuildError::unusable(&model, problem))?;
        let text = generate::module(target, &header, &figures, &checked.bundle.model_sha256);
        let write = |name: String, bytes: &[u8]| {
            let path = out.join(name);
            files::write_atomic(&path, bytes).map_err(|source| BuildError::Io { path: path.clone(), source })?;
            Ok(path)
        };
        write(format!("{target}.safetensors"), &checked.bundle.model)?;
        let module = write(format!("{target}.rs"), text.as_bytes())?;
        Ok(Embedded { module, watched: checked.watched })
    }

    /// Where things are.
    fn place(&self) -> Result<Place<'_>, BuildError> {
        let package = |needed: bool| match variable("CARGO_MANIFEST_DIR") {
            Err(_) if !needed => Ok(PathBuf::new()),
            package => package,
        };
        let root = match &self.root {
            Some(root) => root.clone(),
            None => root::find(&package(true)?, &self.target),
        };
        let dist = match &self.dist {
            Some(dist) => package(dist.is_relative())?.join(dist),
            None => root.join("dist").join(&self.target),
        };
        Ok(Place { target: &self.target, root, dist })
    }
}

/// Where a bundle and what it was made from are looked for.
struct Place<'a> {
    target: &'a str,
    root: PathBuf,
    dist: PathBuf,
}

/// A bundle that may be embedded.
struct Checked {
    bundle: whole::Bundle,
    watched: Vec<PathBuf>,
}

impl Place<'_> {
    /// Whether the bundle is whole, and belongs to what stands in the workspace.
    fn check(&self) -> Result<Checked, BuildError> {
        let bundle = whole::read(&self.dist, self.target)?;
        let sources = belongs::check(&bundle, &self.dist, &self.root, self.target)?;
        let mut watched = bundle.files.clone();
        watched.extend(sources);
        Ok(Checked { bundle, watched })
    }
}

/// The value of a variable that cargo sets for build scripts.
fn variable(name: &'static str) -> Result<PathBuf, BuildError> {
    env::var_os(name).map(PathBuf::from).ok_or(BuildError::NoBuildScript(name))
}

/// Whether a name can be that of a file on every system, and stand in a literal.
fn is_plain(name: &str) -> bool {
    let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && !name.starts_with('.') && name.len() <= 100 && name.bytes().all(part)
}

/// A path on one line, for messages.
fn shown(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text
}
