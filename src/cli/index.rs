//! `secateurs index`: the page that compares the bundles of several targets.

use super::failure::Failure;
use crate::bundle::REPORT_JSON;
use crate::files;
use crate::report::{Report, Target, render_index};
use std::path::{Path, PathBuf};

/// A report is a few hundred kilobytes.
const MAX_REPORT: u64 = 64 << 20;

/// The bundles.
#[derive(clap::Args)]
pub struct Args {
    /// The page
    #[arg(long, value_name = "HTML")]
    out: PathBuf,
    /// A target's name, the exit code of its run, and the folder of its bundle
    #[arg(long = "bundle", value_name = "NAME=CODE=DIR", value_parser = bundle, required = true)]
    bundles: Vec<Bundle>,
}

#[derive(Clone, Debug, PartialEq)]
struct Bundle {
    name: String,
    code: u8,
    folder: PathBuf,
}

fn bundle(text: &str) -> Result<Bundle, String> {
    let mut parts = text.splitn(3, '=');
    let (name, code, folder) = (parts.next(), parts.next().and_then(|code| code.parse().ok()), parts.next());
    match (name, code, folder) {
        (Some(name), Some(code), Some(folder)) => Ok(Bundle { name: name.into(), code, folder: folder.into() }),
        _ => Err("expected NAME=CODE=DIR".into()),
    }
}

/// Runs it.
///
/// # Errors
/// If a report is there and cannot be read, or the page cannot be written.
pub fn run(args: &Args) -> Result<(), Failure> {
    let base = args.out.parent().unwrap_or(Path::new(""));
    let target = |bundle: &Bundle| {
        let report = read(&bundle.folder.join(REPORT_JSON))?;
        let inside = bundle.folder.strip_prefix(base).unwrap_or(&bundle.folder);
        let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        Ok(Target { name: bundle.name.clone(), code: bundle.code, link: parts.join("/"), report })
    };
    let targets = args.bundles.iter().map(target).collect::<Result<Vec<_>, Failure>>()?;
    if !base.as_os_str().is_empty() {
        std::fs::create_dir_all(base).map_err(|e| Failure::writing(base, &e))?;
    }
    files::write_atomic(&args.out, render_index(&targets).as_bytes()).map_err(|e| Failure::writing(&args.out, &e))
}

/// A report, if there is one.
fn read(path: &Path) -> Result<Option<Report>, Failure> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = files::read(path, MAX_REPORT).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    let report = serde_json::from_slice(&bytes).map_err(|e| Failure::Input(format!("{}: {e}", path.display())))?;
    Ok(Some(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_named_with_its_end_and_place() {
        let expected = Bundle { name: "rpi5".into(), code: 7, folder: "dist/a=b".into() };
        assert_eq!(bundle("rpi5=7=dist/a=b"), Ok(expected));
        for wrong in ["rpi5", "rpi5=x=dist", "rpi5=7", "rpi5=300=dist"] {
            assert!(bundle(wrong).is_err(), "{wrong}");
        }
    }
}
