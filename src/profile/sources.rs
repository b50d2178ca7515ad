//! Where each value of a profile comes from: its default, a profile file, or a flag of the command line.

use std::collections::BTreeMap;
use std::path::Path;

/// Section and key of a value that the profile's file or a flag gives, and who gave it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sources(BTreeMap<(&'static str, &'static str), String>);

impl Sources {
    /// Who gave the value of a key: `--latency-ratio`, `rpi5.toml`, or `default`.
    pub fn of(&self, section: &str, key: &str) -> &str {
        let found = self.0.iter().find(|((s, k), _)| (*s, *k) == (section, key));
        found.map_or("default", |(_, source)| source.as_str())
    }

    /// Enters who gave the value of a key.
    pub(super) fn set(&mut self, section: &'static str, key: &'static str, source: &str) {
        self.0.insert((section, key), source.to_owned());
    }

    /// Forgets who gave the keys of a section.
    pub(super) fn forget(&mut self, section: &str) {
        self.0.retain(|(of, _), _| *of != section);
    }

    /// Enters a file as the source of keys, by its name without folders,.
    pub(super) fn enter(&mut self, path: &Path, keys: &[(&'static str, &'static str)]) {
        let name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
        keys.iter().for_each(|(section, key)| self.set(section, key, &name));
    }
}
