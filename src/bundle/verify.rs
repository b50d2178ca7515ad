//! Whether a bundle is what one run wrote, all of it.

use super::manifest::{self, Listed};
use super::{BASELINE, BENCH, BINARY, FILES, MANIFEST, MODEL, PLAN, PROFILE, REPORT_HTML, REPORT_JSON, digest::sha256};
use crate::profile::{self, Profile};
use crate::report::Report;
use crate::{files, model};
use std::fmt;
use std::path::{Path, PathBuf};

/// What every finished bundle has.
const NEEDED: [&str; 8] = [MODEL, BASELINE, PLAN, PROFILE, REPORT_JSON, REPORT_HTML, BENCH, BINARY];

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
#[derive(Debug)]
pub struct Verified {
    /// What the manifest lists.
    pub listed: Listed,
    /// What was asked for.
    pub profile: Profile,
    /// What was measured.
    pub report: Report,
    /// Bytes of all its files.
    pub bytes: u64,
}

/// Reads every file of a finished bundle and holds it against the manifest: nothing is missing, changed, renamed or added
/// under a name of a run's, and the inference binary carries the model. Files of other names are their owner's.
///
/// # Errors
/// Everything that is wrong, at least one thing.
pub fn verify(folder: &Path) -> Result<Verified, Vec<Fault>> {
    let fault = |name: &str, problem: String| Fault { file: folder.join(name), problem };
    let read = |name: &str| files::read(&folder.join(name), model::MAX_FILE).map_err(|e| fault(name, e.to_string()));
    let manifest = read(MANIFEST).map_err(|fault| vec![fault])?;
    let listed = manifest::parse(&manifest).map_err(|e| vec![fault(MANIFEST, e.to_string())])?;
    let mut faults: Vec<Fault> = NEEDED
        .into_iter()
        .filter(|name| !listed.files.contains_key(*name))
        .map(|name| fault(name, "is not in manifest.json: the run that wrote the bundle did not finish".into()))
        .collect();
    let mut bytes = manifest.len() as u64;
    let mut whole = |name: &str| {
        let hash = listed.files.get(name)?;
        let checked = read(name).and_then(|content| {
            let is = sha256(&content) == *hash;
            if is { Ok(content) } else { Err(fault(name, "is not what the run wrote: its SHA-256 is another".into())) }
        });
        bytes += checked.as_ref().map_or(0, |content| content.len() as u64);
        checked.map_err(|fault| faults.push(fault)).ok()
    };
    let (mut model, mut binary, mut profile, mut report) = (None, None, None, None);
    for name in FILES {
        match name {
            MODEL => model = whole(name),
            BINARY => binary = whole(name),
            PROFILE => profile = whole(name),
            REPORT_JSON => report = whole(name),
            _ => drop(whole(name)),
        }
    }
    for name in listed.files.keys().filter(|name| !FILES.contains(&name.as_str())) {
        faults.push(fault(MANIFEST, format!("lists `{}`, which no run writes", name.escape_debug())));
    }
    for name in FILES.into_iter().filter(|name| *name != MANIFEST && !listed.files.contains_key(*name)) {
        if folder.join(name).symlink_metadata().is_ok() && !NEEDED.contains(&name) {
            faults.push(fault(name, "is not in manifest.json: it belongs to another run".into()));
        }
    }
    if let (Some(model), Some(binary)) = (&model, &binary)
        && !carries(binary, model)
    {
        faults.push(fault(BINARY, format!("carries another model than {MODEL}")));
    }
    let profile = profile.map(|text| {
        let text = String::from_utf8(text).map_err(|e| fault(PROFILE, e.to_string()))?;
        profile::parse(&folder.join(PROFILE), &text).map_err(|e| fault(PROFILE, e.to_string()))
    });
    let report = report.map(|json| serde_json::from_slice(&json).map_err(|e| fault(REPORT_JSON, e.to_string())));
    match (profile, report) {
        (Some(Ok(profile)), Some(Ok(report))) if faults.is_empty() => Ok(Verified { listed, profile, report, bytes }),
        (profile, report) => {
            faults.extend(profile.and_then(Result::err));
            faults.extend(report.and_then(|read: Result<Report, Fault>| read.err()));
            Err(faults)
        }
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
