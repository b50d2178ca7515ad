//! Building on the device: it gets the package and gives back the program that its own compiler made of it.
//!
//! Everything goes through the worker's runner, so it works wherever programs run on a real device, and leaves nothing
//! there. The device needs cargo, a linker, and a way to the registry.

use super::cross::{self, Tool};
use super::process::{Failure, write_file};
use super::target::{Connection, Target};
use super::worker::Worker;
use super::workspace::Workspace;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What the device's shell does.
const SCRIPT: &str = include_str!("on_device.sh");

/// What programs of Linux begin with.
const ELF: &[u8] = b"\x7fELF";

/// Refuses targets where nothing can be built.
///
/// # Errors
/// If the device is only emulated.
pub fn check(target: &Target) -> Result<(), Failure> {
    match target.connect {
        Connection::Qemu => Err(Failure::Profile(format!(
            "{}: `--build on-device` needs the device, but connect.kind is \"qemu\"; a [connect] that reaches it may stand in {}",
            target.path.display(),
            target.path.with_extension("local.toml").display()
        ))),
        Connection::Local | Connection::Ssh | Connection::Command => Ok(()),
    }
}

/// Builds the inference binary on the device, with a model embedded if there is one, and says where it is here.
///
/// # Errors
/// If the package cannot be made, the device cannot be reached, or the build fails there.
pub fn build(
    workspace: &Workspace,
    worker: &Worker,
    target: &Target,
    binary: &'static str,
    model: Option<&Path>,
) -> Result<PathBuf, Failure> {
    let folder = workspace.target.join("on-device");
    fs::create_dir_all(&folder).map_err(|e| Failure::Workspace(format!("{}: {e}", folder.display())))?;
    let script = folder.join("build.sh");
    write(&script, SCRIPT.as_bytes())?;
    let package = folder.join("package.tar.gz");
    workspace.package().pack(&package)?;
    let call = cross::call(&Tool::Native, &target.device, target.device.triple.as_deref().unwrap_or_default(), None);
    let mut command = worker.command("runner");
    command.arg("--profile").arg(&target.path).arg(&script).arg(&package);
    match model {
        Some(model) => command.arg(model),
        None => command.arg("-"),
    };
    command.arg(target.device.cuda.as_deref().unwrap_or("-")).args(["--no-default-features", "--features", "runtime"]);
    command.args(call.arguments).args(["--config", "profile.release.strip=true"]);
    let fail = |problem: String| Failure::Program { program: "secateurs runner".into(), problem };
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|e| fail(e.to_string()))?;
    match output.status.code() {
        Some(0) if output.stdout.starts_with(ELF) => {}
        Some(0) => return Err(fail("what came back from the device is no program".into())),
        // The worker has said that the device cannot be reached.
        Some(7) => return Err(Failure::Worker(7)),
        _ => return Err(Failure::Build(binary)),
    }
    let built = folder.join(binary);
    write(&built, &output.stdout)?;
    Ok(built)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write_file(path, &mut { bytes }, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_real_devices_build() {
        let target = |connect| Target { path: "targets/board.toml".into(), connect, ..Target::default() };
        let refused = check(&target(Connection::Qemu)).unwrap_err();
        assert_eq!(refused.code(), 3);
        assert!(refused.to_string().contains("targets/board.local.toml"), "{refused}");
        assert!(check(&target(Connection::Ssh)).is_ok() && check(&target(Connection::Local)).is_ok());
    }

    /// The script with a compiler that only writes down how it was called.
    #[test]
    fn the_script_builds_what_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let home = path("home");
        fs::create_dir_all(home.join(".cargo/bin")).unwrap();
        fs::create_dir_all(path("secateurs-1.2.3")).unwrap();
        fs::write(path("secateurs-1.2.3/Cargo.toml"), "").unwrap();
        fs::write(path("model"), "").unwrap();
        let mut pack = Command::new("tar");
        pack.arg("-czf").arg(path("package")).arg("-C").arg(folder.path()).arg("secateurs-1.2.3");
        assert!(pack.status().unwrap().success());
        let cargo = "#!/bin/sh\necho cargo speaks\necho \"$(basename \"$PWD\") $SECATEURS_MODEL $*\" > called\n\
                     while [ \"$1\" != --target-dir ]; do shift; done\nmkdir -p \"$2/release\"\n\
                     mv called \"$2/release/secateurs-infer\"\n";
        write(&home.join(".cargo/bin/cargo"), cargo.as_bytes()).unwrap();
        write(&path("build.sh"), SCRIPT.as_bytes()).unwrap();
        let run = |arguments: &[&str]| {
            let mut command = Command::new("./build.sh");
            command
                .current_dir(folder.path())
                .env("HOME", &home)
                .env("CARGO_BUILD_TARGET", "elsewhere")
                .args(arguments);
            command.output().unwrap()
        };
        let output = run(&["./package", "./model", "-", "--config", "a=[\"b c\"]"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let model = fs::canonicalize(path("model")).unwrap();
        let expected = format!("secateurs-1.2.3 {} build --release --locked --bin secateurs-infer", model.display());
        assert!(output.status.success() && text.starts_with(&expected), "{text}");
        assert!(text.ends_with("--config a=[\"b c\"]\n"), "{text}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("cargo speaks"));
        // Without a model, and with a GPU whose compiler is not there or is.
        let output = run(&["./package", "-", "sm_87"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("secateurs-1.2.3  build"), "{text}");
        let has_nvcc =
            Command::new("sh").args(["-c", "PATH=$PATH:/usr/local/cuda/bin; command -v nvcc"]).output().unwrap();
        assert_eq!(text.contains("--features cuda"), has_nvcc.status.success());
        // A build that fails is no program.
        write(&home.join(".cargo/bin/cargo"), b"#!/bin/sh\nexit 101\n").unwrap();
        let output = run(&["./package", "-", "-"]);
        assert!(output.status.code() == Some(101) && output.stdout.is_empty());
    }
}
