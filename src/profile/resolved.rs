//! A profile as a job uses it: read from its file, with every flag applied, and the source of each value.

use super::overrides::Overrides;
use super::read::{self, Parsed};
use super::sources::Sources;
use super::write::commented;
use super::{Profile, ProfileError};
use std::path::Path;

/// A profile with every flag applied, and the source of each of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The values.
    pub profile: Profile,
    /// Who gave them.
    pub sources: Sources,
}

impl Resolved {
    /// Reads a profile as [`read`](super::read()) does, or takes the default one without a path, and applies flags to
    /// it.
    ///
    /// # Errors
    /// If the file cannot be read, or breaks the schema: then with every problem that was found.
    pub fn new(path: Option<&Path>, flags: Overrides) -> Result<Self, ProfileError> {
        let mut sources = Sources::default();
        let mut profile = Profile::default();
        if let Some(path) = path {
            let Parsed { value, keys } = read::file(path)?;
            profile = value;
            sources.enter(path, &keys);
            let private = path.with_extension("local.toml");
            if let Some(Parsed { value, keys }) = read::private(&private)? {
                profile.connect = value;
                sources.forget("connect");
                sources.enter(&private, &keys);
            }
        }
        let profile = flags.apply_to(profile, &mut sources);
        Ok(Self { profile, sources })
    }

    /// Replaces the threads of the network by those that the device has CPUs for.
    pub fn cap_threads(&mut self, threads: usize) {
        if threads < self.profile.device.threads {
            self.profile.device.threads = threads;
            self.sources.set("device", "threads", "CPUs of the device");
        }
    }

    /// The profile as TOML, which [`parse`](super::parse()) reads back to the same profile: every default filled in,
    /// every flag entered, and behind each key a comment that names its source.
    pub fn to_toml(&self) -> String {
        commented(&self.profile, Some(&self.sources))
    }
}
