//! What building needs of a device profile. The worker reads and checks profiles; this is its answer.

use super::glibc::{self, Glibc};
use super::process::Failure;
use super::profiles;
use serde::{Deserialize, Deserializer, de};
use std::path::{Path, PathBuf};

/// How to build for a device.
#[derive(Debug, Default, PartialEq)]
pub struct Target {
    /// The profile.
    pub path: PathBuf,
    /// How programs are built for it.
    pub device: Device,
    /// How programs are run on it.
    pub connect: Connection,
    /// The runtime that networks run in, where secateurs drives another one than its own: as the profile names it.
    pub runtime: Option<String>,
}

/// How programs are built for a device.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Device {
    /// Rust target triple; the host's own without one.
    pub triple: Option<String>,
    /// Value of `-C target-cpu`.
    pub target_cpu: Option<String>,
    /// Version of the device's C library.
    #[serde(deserialize_with = "version")]
    pub glibc: Option<Glibc>,
    /// Further features of the inference binary.
    pub features: Vec<String>,
    /// Architecture of the GPU that the inference binary carries code for: `sm_87`.
    pub cuda: Option<String>,
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

/// A line of the worker with the values of a profile.
#[derive(Deserialize)]
struct Answer {
    profile: Profile,
}

#[derive(Deserialize)]
struct Profile {
    device: Device,
    connect: Connect,
    #[serde(default)]
    bench: Bench,
}

#[derive(Default, Deserialize)]
struct Bench {
    #[serde(default)]
    runtime: String,
}

#[derive(Deserialize)]
struct Connect {
    kind: Connection,
}

impl Target {
    /// The target of a profile, from what the worker printed of it.
    ///
    /// # Errors
    /// If that is no answer of the worker.
    pub fn of_answer(path: PathBuf, answer: &[u8]) -> Result<Self, serde_json::Error> {
        let Answer { profile: Profile { device, connect, bench } } = serde_json::from_slice(answer)?;
        let runtime = Some(bench.runtime).filter(|name| !["", "engine", "command"].contains(&name.as_str()));
        Ok(Self { path, device, connect: connect.kind, runtime })
    }
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Glibc>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let read = |text: String| glibc::parse(&text).ok_or_else(|| de::Error::custom(format!("`{text}` is no version")));
    text.map(read).transpose()
}

/// The file of a profile in the folder of the profiles.
///
/// # Errors
/// If there is none: then with the names that there are.
pub fn find(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let path = folder.join(format!("{name}.toml"));
    let plain = Path::new(name).components().count() == 1 && !name.starts_with('.');
    if plain && path.is_file() { Ok(path) } else { Err(Failure::Profile(unknown(folder, name))) }
}

/// The names of the profiles in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
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
    let shipped = match profiles::shipped(name) {
        Some(_) => format!("; it comes with secateurs: cargo xtask devices new {name}"),
        None if names.is_empty() => "; cargo secateurs init writes some".into(),
        None => String::new(),
    };
    format!("no profile `{name}` in {}{guess} ({known}){shipped}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workers_answer_says_what_to_build_for() {
        let answer =
            br#"{"reason": "profile", "profile": {"device": {"name": "jetson", "triple": "aarch64-unknown-linux-gnu",
            "target-cpu": "cortex-a78ae", "glibc": "2.35", "features": [], "cuda": "sm_87", "threads": 4},
            "connect": {"kind": "ssh", "host": "h"}, "budget": {}, "bench": {"runtime": "tensorrt"}}}"#;
        let Target { path, device, connect, runtime } = Target::of_answer("a.toml".into(), answer).unwrap();
        assert_eq!(runtime.as_deref(), Some("tensorrt"));
        assert_eq!((path.as_path(), connect), (Path::new("a.toml"), Connection::Ssh));
        assert_eq!((device.target_cpu.as_deref(), device.cuda.as_deref()), (Some("cortex-a78ae"), Some("sm_87")));
        assert_eq!((device.triple.as_deref(), device.glibc), (Some("aarch64-unknown-linux-gnu"), Some((2, 35))));
        let broken = answer.map(|byte| if byte == b'5' { b'x' } else { byte });
        for answer in [&broken[..], b"", b"{}"] {
            assert!(Target::of_answer("a.toml".into(), answer).is_err());
        }
    }

    #[test]
    fn an_unknown_name_gets_the_known_ones() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
        assert!(find(&folder, "jetson").is_ok());
        let text = find(&folder, "jetsn").unwrap_err().to_string();
        assert!(text.contains("did you mean `jetson`?") && text.contains("generic-aarch64, host, jetson"), "{text}");
        for name in ["", "../targets/host", "zzz"] {
            assert_eq!(find(&folder, name).unwrap_err().code(), 3, "{name}");
        }
    }
}
