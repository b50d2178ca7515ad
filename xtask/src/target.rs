//! The little that building needs from a device profile. The worker reads it in full and reports what is wrong with it.

use crate::cross::{Glibc, parse_glibc};
use crate::process::Failure;
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};

/// How to build for a device.
#[derive(Debug, Default, PartialEq)]
pub struct Target {
    /// The profile.
    pub path: PathBuf,
    /// Rust target triple; the host's own without one.
    pub triple: Option<String>,
    /// Value of `-C target-cpu`.
    pub cpu: Option<String>,
    /// Version of the device's C library.
    pub glibc: Option<Glibc>,
    /// Further features of the inference binary.
    pub features: Vec<String>,
    /// Architecture of the GPU that the inference binary carries code for: `sm_87`.
    pub cuda: Option<String>,
    /// How programs are run on the device.
    pub connect: Connection,
}

/// How programs are run on a device, as far as building cares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connection {
    /// The device is this machine.
    #[default]
    Local,
    /// Over SSH.
    Ssh,
    /// Emulated here.
    Qemu,
    /// By a command of the user.
    Command,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Device {
    triple: Option<String>,
    target_cpu: Option<String>,
    glibc: Option<String>,
    features: Vec<String>,
    cuda: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Connect {
    kind: Connection,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Profile {
    device: Device,
    connect: Connect,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Private {
    connect: Option<Connect>,
}

/// Finds the profile of a name in the folder of the profiles.
///
/// # Errors
/// If there is none: then with the names that there are.
pub fn find(folder: &Path, name: &str) -> Result<Target, Failure> {
    let path = folder.join(format!("{name}.toml"));
    let plain = Path::new(name).components().count() == 1 && !name.starts_with('.');
    if !plain || !path.is_file() {
        return Err(Failure::Profile(unknown(folder, name)));
    }
    let text = fs::read_to_string(&path).map_err(|e| Failure::Profile(format!("{}: {e}", path.display())))?;
    // What cannot be read here is reported by the worker, with its place.
    let Profile { device, connect } = toml::from_str(&text).unwrap_or_default();
    let private = fs::read_to_string(path.with_extension("local.toml")).unwrap_or_default();
    let private = toml::from_str::<Private>(&private).unwrap_or_default().connect;
    Ok(Target {
        path,
        triple: device.triple,
        cpu: device.target_cpu,
        glibc: device.glibc.as_deref().and_then(parse_glibc),
        features: device.features,
        cuda: device.cuda,
        connect: private.unwrap_or(connect).kind,
    })
}

/// The names of the profiles in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let stems = entries.filter(|path| path.extension().is_some_and(|e| e == "toml"));
    let names = stems.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    // `NAME.local.toml` belongs to `NAME.toml`.
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".local")).collect();
    names.sort();
    names
}

fn unknown(folder: &Path, name: &str) -> String {
    let names = names(folder);
    let near = |known: &String| strsim::jaro_winkler(name, known);
    let best = names.iter().max_by(|a, b| near(a).total_cmp(&near(b))).filter(|best| near(best) > 0.8);
    let guess = best.map(|best| format!("; did you mean `{best}`?")).unwrap_or_default();
    let known = if names.is_empty() { "there are none".into() } else { format!("there are {}", names.join(", ")) };
    format!("no profile `{name}` in {}{guess} ({known})", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_profiles_say_what_to_build_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../targets");
        assert_eq!(find(&folder, "host").unwrap().triple, None);
        let host = find(&folder, "host").unwrap();
        assert_eq!((host.glibc, host.connect), (None, Connection::Local));
        let jetson = find(&folder, "jetson").unwrap();
        assert_eq!(jetson.triple.as_deref(), Some("aarch64-unknown-linux-gnu"));
        assert_eq!(jetson.cpu.as_deref(), Some("cortex-a78ae"));
        assert_eq!((jetson.cuda.as_deref(), host.cuda), (Some("sm_87"), None));
    }

    #[test]
    fn an_unknown_name_gets_the_known_ones() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../targets");
        let text = find(&folder, "jetsn").unwrap_err().to_string();
        assert!(text.contains("did you mean `jetson`?") && text.contains("generic-aarch64, host, jetson"), "{text}");
        for name in ["", "../targets/host", "zzz"] {
            assert_eq!(find(&folder, name).unwrap_err().code(), 3, "{name}");
        }
    }
}
