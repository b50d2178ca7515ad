//! What a run does not share with what is locked.

use super::text::line;
use super::{Input, LockedInputs};
use std::collections::BTreeSet;
use std::fmt;

/// Hex digits of a SHA-256 that people compare.
const DIGITS: usize = 16;

/// One thing in which a run differs from what is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is about: `seed`, `profile budget.latency-ratio`.
    pub what: String,
    /// The locked value.
    pub locked: String,
    /// That of the run.
    pub now: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {} is locked, now {}", self.what, self.locked, self.now)
    }
}

impl LockedInputs {
    /// Everything in which a run differs from these inputs. Where a file lies does not count, nor a compiler that only one
    /// of both knows.
    pub fn differences(&self, now: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |what: &str, locked: String, now: String| {
            if locked != now {
                found.push(Difference { what: what.to_owned(), locked, now });
            }
        };
        compare("version of secateurs", self.version.clone(), now.version.clone());
        compare("seed", self.seed.to_string(), now.seed.to_string());
        compare("features of the inference binary", self.features.join(", "), now.features.join(", "));
        if let (Some(locked), Some(now)) = (&self.compiler, &now.compiler) {
            compare("compiler", locked.clone(), now.clone());
        }
        compare("--cuda", self.cuda.to_string(), now.cuda.to_string());
        compare("--skip-bad-images", self.skip_bad_images.to_string(), now.skip_bad_images.to_string());
        let names: BTreeSet<&String> = self.profile.keys().chain(now.profile.keys()).collect();
        for name in names {
            let of = |inputs: &Self| inputs.profile.get(name).map_or("nothing".to_owned(), line);
            compare(&format!("profile {name}"), of(self), of(now));
        }
        let files = [
            ("model", Some(&self.model), Some(&now.model)),
            ("data (pictures, labels, classes)", self.data.as_ref(), now.data.as_ref()),
            ("file of the profile", Some(&self.profile_file), Some(&now.profile_file)),
        ];
        for (what, locked, now) in files {
            if locked.map(|input| &input.sha256) != now.map(|input| &input.sha256) {
                compare(what, describe(locked), describe(now));
            }
        }
        found
    }
}

/// A file with the first digits of its hash.
fn describe(input: Option<&Input>) -> String {
    input.map_or("nothing".to_owned(), |Input { path, sha256 }| {
        format!("{} (SHA-256 {}...)", path.escape_debug(), sha256.get(..DIGITS).unwrap_or(sha256))
    })
}
