//! Building for another kind of machine: which of the ways to do it this machine has.
//!
//! [`facts`] finds out what is installed, [`choose`] decides by that alone, in the order rustup target, Debian's own
//! compiler, cargo-zigbuild, cross; and names the commands that install what is missing.

use super::glibc::Glibc;
use super::process::Failure;
use super::target::Device;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Programs built with Debian's or rustup's standard library and a linker of these days need this much.
const COMMON_GLIBC: Glibc = (2, 34);

/// The compiler that Debian installs.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// What is installed here that matters for a target triple.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Rust target triple.
    pub triple: String,
    /// Whether this machine runs such programs itself.
    pub native: bool,
    /// Whether the compiler in use has the target's standard library.
    pub rustup_std: bool,
    /// Whether rustup is there to get it.
    pub rustup: bool,
    /// Whether Debian's compiler has the target's standard library.
    pub debian_std: bool,
    /// A linker for the target.
    pub linker: Option<OsString>,
    /// Whether cargo-zigbuild is there.
    pub zigbuild: bool,
    /// Whether cross and a container engine are there.
    pub cross: bool,
}

/// A way to build.
#[derive(Clone, Debug, PartialEq)]
pub enum Tool {
    /// The compiler in use, for this machine.
    Native,
    /// The compiler in use, with the target's standard library from rustup.
    Rustup {
        /// The linker.
        linker: OsString,
    },
    /// Debian's compiler and standard library.
    Debian {
        /// The linker.
        linker: OsString,
    },
    /// cargo-zigbuild, which links against any version of the C library.
    Zigbuild,
    /// cross, which builds in a container.
    Cross,
}

impl Tool {
    /// The way, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native => "this machine's own compiler",
            Self::Rustup { .. } => "the compiler in use with rustup's target",
            Self::Debian { .. } => "Debian's cross toolchain",
            Self::Zigbuild => "cargo-zigbuild",
            Self::Cross => "cross",
        }
    }

    /// A short name for folders: products of different compilers must not meet in one.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Native => "infer",
            Self::Rustup { .. } => "infer-rustup",
            Self::Debian { .. } => "infer-debian",
            Self::Zigbuild => "infer-zig",
            Self::Cross => "infer-cross",
        }
    }
}

/// What is installed here that could build for a device.
///
/// # Errors
/// If the compiler does not say what it builds for.
pub fn facts(device: &Device) -> Result<Facts, Failure> {
    let host = host_triple()?;
    Ok(look(device.triple.as_deref().unwrap_or(&host), &host))
}

/// The compiler in one line, if it says so.
pub fn compiler() -> Option<String> {
    output(&rustc(), &["--version"])
}

/// The compiler that cargo uses.
fn rustc() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from)
}

/// The target triple that the compiler builds for by itself.
fn host_triple() -> Result<String, Failure> {
    let fail = |problem: String| Failure::Program { program: "rustc -vV".into(), problem };
    let output = Command::new(rustc()).arg("-vV").output().map_err(|e| fail(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| fail("names no host".into()))
}

/// Looks for everything that could build for a triple.
fn look(triple: &str, host: &str) -> Facts {
    let sysroot = |rustc: &Path| output(rustc, &["--print", "sysroot"]).map(PathBuf::from);
    let has_std = |rustc: &Path| sysroot(rustc).is_some_and(|root| has_std(&root, triple));
    let rustc = rustc();
    let container = || in_path("docker") || in_path("podman");
    Facts {
        triple: triple.into(),
        native: triple == host,
        rustup_std: has_std(&rustc),
        rustup: in_path("rustup"),
        debian_std: Path::new(DEBIAN_RUSTC).is_file() && has_std(Path::new(DEBIAN_RUSTC)),
        linker: linker(triple),
        zigbuild: in_path("cargo-zigbuild"),
        cross: in_path("cross") && container(),
    }
}

/// The linker that the environment names for a triple, or the usual one.
fn linker(triple: &str) -> Option<OsString> {
    let named = std::env::var_os(variable(triple, "LINKER")).filter(|name| !name.is_empty());
    named.or_else(|| gnu_linker(triple).filter(|name| in_path(name)).map(OsString::from))
}

/// GNU's name of the C compiler for a triple: `aarch64-linux-gnu-gcc`.
fn gnu_linker(triple: &str) -> Option<String> {
    let (arch, rest) = triple.split_once('-')?;
    let system = rest.strip_prefix("unknown-").unwrap_or(rest);
    Some(format!("{arch}-{system}-gcc"))
}

/// The name of cargo's variable of a target: `CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER`.
pub fn variable(triple: &str, what: &str) -> String {
    format!("CARGO_TARGET_{}_{what}", triple.to_uppercase().replace(['-', '.'], "_"))
}

fn has_std(sysroot: &Path, triple: &str) -> bool {
    let folder = sysroot.join("lib/rustlib").join(triple).join("lib");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// Whether a program can be started by its name.
pub fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// The first line that a program prints.
fn output(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// The first way that is there. `glibc` is the device's version of the C library.
///
/// # Errors
/// If there is none: the commands that would install one.
pub fn choose(facts: &Facts, glibc: Option<Glibc>) -> Result<Tool, Vec<String>> {
    let old = glibc.is_some_and(|glibc| glibc < COMMON_GLIBC);
    if facts.native {
        return Ok(Tool::Native);
    }
    // Only zig can link against a C library that is older than the one installed here.
    if old {
        return if facts.zigbuild && facts.rustup_std { Ok(Tool::Zigbuild) } else { Err(missing(facts, true)) };
    }
    match &facts.linker {
        Some(linker) if facts.rustup_std => return Ok(Tool::Rustup { linker: linker.clone() }),
        Some(linker) if facts.debian_std => return Ok(Tool::Debian { linker: linker.clone() }),
        _ => {}
    }
    if facts.zigbuild && facts.rustup_std {
        return Ok(Tool::Zigbuild);
    }
    if facts.cross { Ok(Tool::Cross) } else { Err(missing(facts, false)) }
}

/// The commands that install what is missing, the easiest way first.
fn missing(facts: &Facts, old: bool) -> Vec<String> {
    let triple = &facts.triple;
    let mut commands = Vec::new();
    if facts.rustup && !facts.rustup_std {
        commands.push(format!("rustup target add {triple}"));
    }
    if old {
        commands.push("pip install ziglang && cargo install --locked cargo-zigbuild".into());
        return commands;
    }
    if facts.linker.is_none() {
        let package = gnu_linker(triple).map_or_else(|| "gcc".into(), |gcc| debian_package(&gcc));
        commands.push(format!("sudo apt-get install {package}"));
    }
    if triple == "aarch64-unknown-linux-gnu" && !facts.rustup_std && !facts.debian_std {
        commands.push("sudo .ci/cross-setup    (on Debian, without rustup: compiler, linker and qemu)".into());
    }
    commands
}

/// Debian's package of a cross compiler: `gcc-aarch64-linux-gnu`, `gcc-x86-64-linux-gnu`.
fn debian_package(gcc: &str) -> String {
    format!("gcc-{}", gcc.trim_end_matches("-gcc").replace('_', "-"))
}

/// How cargo is to be called with a tool.
pub struct Call {
    /// `cargo` or a program like it.
    pub program: OsString,
    /// Its way to build.
    pub subcommand: &'static str,
    /// Variables to set.
    pub env: Vec<(String, OsString)>,
    /// Arguments after the subcommand.
    pub arguments: Vec<String>,
}

impl Default for Call {
    fn default() -> Self {
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Self { program, subcommand: "build", env: Vec::new(), arguments: Vec::new() }
    }
}

/// How cargo is to be called for a target, with the code of its GPU where there is an `nvcc`.
pub fn call(tool: &Tool, device: &Device, triple: &str, nvcc: Option<&Path>) -> Call {
    let mut call = Call::default();
    let link = |linker: &OsString| (variable(triple, "LINKER"), linker.clone());
    match tool {
        Tool::Native => {}
        Tool::Rustup { linker } => call.env.push(link(linker)),
        Tool::Debian { linker } => call.env.extend([("RUSTC".into(), DEBIAN_RUSTC.into()), link(linker)]),
        Tool::Zigbuild => call.subcommand = "zigbuild",
        Tool::Cross => call.program = "cross".into(),
    }
    if *tool != Tool::Native {
        let glibc = device.glibc.filter(|_| *tool == Tool::Zigbuild);
        let suffix = glibc.map(|(major, minor)| format!(".{major}.{minor}")).unwrap_or_default();
        call.arguments.extend(["--target".into(), format!("{triple}{suffix}")]);
    }
    if let Some(cpu) = &device.target_cpu {
        call.arguments.extend(["--config".into(), format!("target.{triple}.rustflags=[\"-C\", \"target-cpu={cpu}\"]")]);
    }
    if !device.features.is_empty() {
        call.arguments.extend(["--features".into(), device.features.join(",")]);
    }
    if let (Some(arch), Some(nvcc)) = (&device.cuda, nvcc) {
        call.arguments.extend(["--features".into(), "cuda".into()]);
        call.env.extend([("NVCC".into(), nvcc.into()), ("SECATEURS_CUDA_ARCH".into(), arch.into())]);
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(what: &str) -> Facts {
        Facts {
            triple: "aarch64-unknown-linux-gnu".into(),
            native: what.contains("native"),
            rustup_std: what.contains("target"),
            rustup: what.contains("rustup"),
            debian_std: what.contains("debian"),
            linker: what.contains("gcc").then(|| "aarch64-linux-gnu-gcc".into()),
            zigbuild: what.contains("zig"),
            cross: what.contains("cross"),
        }
    }

    #[test]
    fn the_first_way_that_is_there_is_taken() {
        let gcc = || "aarch64-linux-gnu-gcc".into();
        let cases = [
            ("native", None, Tool::Native),
            ("rustup target gcc debian zig cross", None, Tool::Rustup { linker: gcc() }),
            ("rustup gcc debian zig cross", None, Tool::Debian { linker: gcc() }),
            ("rustup target zig cross", None, Tool::Zigbuild),
            ("rustup debian zig cross", None, Tool::Cross),
            ("rustup target gcc zig", Some((2, 31)), Tool::Zigbuild),
            ("rustup target gcc zig", Some((2, 35)), Tool::Rustup { linker: gcc() }),
        ];
        for (what, glibc, expected) in cases {
            assert_eq!(choose(&installed(what), glibc), Ok(expected), "{what} {glibc:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_installs_it() {
        let cases = [
            ("rustup", None, vec!["rustup target add aarch64", "apt-get install gcc-aarch64-linux-gnu", "cross-setup"]),
            ("rustup target", None, vec!["apt-get install gcc-aarch64-linux-gnu"]),
            ("gcc", None, vec!["cross-setup"]),
            ("rustup target gcc", Some((2, 31)), vec!["cargo-zigbuild"]),
        ];
        for (what, glibc, expected) in cases {
            let found = choose(&installed(what), glibc).unwrap_err();
            assert_eq!(found.len(), expected.len(), "{what}: {found:?}");
            for (command, part) in found.iter().zip(expected) {
                assert!(command.contains(part), "{what}: {command}");
            }
        }
    }

    #[test]
    fn a_call_carries_cpu_linker_and_features() {
        let device = Device {
            target_cpu: Some("cortex-a76".into()),
            glibc: Some((2, 31)),
            features: vec!["one".into(), "two".into()],
            ..Device::default()
        };
        let triple = "aarch64-unknown-linux-gnu";
        let debian = call(&Tool::Debian { linker: "ld".into() }, &device, triple, Some(Path::new("nvcc")));
        let env = [("RUSTC", "/usr/bin/rustc"), ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "ld")];
        assert_eq!(debian.env, env.map(|(k, v)| (k.to_owned(), OsString::from(v))));
        let arguments = debian.arguments.join(" ");
        assert!(
            arguments.contains("--target aarch64-unknown-linux-gnu ") && arguments.contains("target-cpu=cortex-a76")
        );
        assert!(arguments.ends_with("--features one,two"), "{arguments}");
        let zig = call(&Tool::Zigbuild, &device, triple, None);
        assert_eq!((zig.subcommand, zig.arguments[1].as_str()), ("zigbuild", "aarch64-unknown-linux-gnu.2.31"));
        let device = Device { cuda: Some("sm_87".into()), ..Device::default() };
        let with = call(&Tool::Native, &device, triple, Some(Path::new("/opt/nvcc")));
        assert_eq!(with.arguments, ["--features", "cuda"]);
        let env = [("NVCC", "/opt/nvcc"), ("SECATEURS_CUDA_ARCH", "sm_87")];
        assert_eq!(with.env, env.map(|(k, v)| (k.to_owned(), OsString::from(v))));
        let without = call(&Tool::Native, &device, triple, None);
        assert_eq!((without.arguments.len(), without.env.len()), (0, 0));
    }
}
