//! `prune`: worker, inference binary, measurement on the device.
//!
//! 1. Build the worker, which checks the arguments and the profile; find out how to build for the device.
//! 2. For a device that is not this machine build the inference binary without a model, which times networks there; let
//!    the worker prune: it leaves the model, the plan and the reports beside the results' folder.
//! 3. Build the inference binary for the device with that model embedded.
//! 4. Let the worker measure it on the device through the profile's connection, put it among the results, complete the
//!    reports, replace the folder of the results by the new one, enter it in `secateurs.lock` and judge.
//!
//! The folder of the results is locked all the while, the target folder while a binary is built there and copied.

use super::builder::{BINARY, Builder};
use super::caller::Driver;
use super::cross;
use super::locked::{self, Results};
use super::options::{self, Options, Place};
use super::process::{Failure, Progress, write_file};
use super::target::{self, Connection, Target};
use super::worker::{Worker, run_worker};
use super::workspace::Workspace;
use crate::output;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Shows the options of this driver and those of the worker.
///
/// # Errors
/// If the worker cannot be built.
pub fn help(driver: Driver) -> Result<(), Failure> {
    let worker = Workspace::find(driver)?.worker(false)?;
    let own = options::help(driver.name());
    output::print(&format!("{}\n\n{}\n", own.trim_end(), worker.options()?.trim_end()));
    Ok(())
}

/// The folder of a target's bundle.
pub fn folder(workspace: &Workspace, options: &Options, name: &str) -> PathBuf {
    match &options.out {
        Some(out) if options.targets.len() > 1 => out.join(name),
        Some(out) => out.clone(),
        None => workspace.dist().join(name),
    }
}

/// Prunes for one target.
///
/// # Errors
/// If an argument or the profile is wrong, a build fails, or the worker does not succeed.
pub fn one(workspace: &Workspace, worker: &Worker, options: &Options, name: &str) -> Result<(), Failure> {
    let progress = options.progress;
    let profile = target::find(&workspace.targets(), name)?;
    let out = folder(workspace, options, name);
    let mut prune = worker.command("prune");
    let mut arguments = vec!["--profile".into(), (&profile).into(), "--out".into(), (&out).into()];
    arguments.extend(["--cache".into(), workspace.cache().into()]);
    let lock = workspace.root.join(LOCK);
    arguments.extend(["--lock".into(), (&lock).into()]);
    // A device that builds has a compiler of its own.
    if let (Place::Here, Some(compiler)) = (options.build, cross::compiler()) {
        arguments.extend(["--compiler".into(), compiler.into()]);
    }
    arguments.extend_from_slice(&options.forwarded);
    let target = worker.check(&arguments, profile)?;
    prune.args(arguments);
    let build = Builder::find(options.build, workspace, &target)?;
    match build.without_gpu(&target) {
        Some(problem) if options.require_gpu => return Err(Failure::Toolchain(problem)),
        Some(problem) => progress.stage("Warning", &problem),
        None => {}
    }
    if options.dry_run {
        run_worker(prune.arg("--dry-run"))?;
        progress.stage("Would", &format!("build {}", build.describe("with the model embedded")));
        progress
            .stage("Would", "measure it on the device, interleaved with the baseline model, and complete the reports");
        return Ok(());
    }
    let held = Results::take(&out)?;
    let built = Built(held.built());
    // On a device that is reached and is not this machine, networks are timed while plans are made.
    if timed_on_device(&target, |name| std::env::var_os(name)) {
        progress.stage("Building", &build.describe("without a model, to time networks on the device"));
        let _target = locked::target_folder(&workspace.target)?;
        let program = build.run(workspace, worker, &target, None)?;
        prune.arg("--binary").arg(built.take(&program, "bare")?);
    }
    run_worker(prune.arg("--first-stage"))?;

    progress.stage("Building", &build.describe("with the model embedded"));
    let binary = {
        // Another run with another model builds in the same place.
        let _target = locked::target_folder(&workspace.target)?;
        let program = build.run(workspace, worker, &target, Some(&held.model()))?;
        built.take(&program, BINARY)?
    };
    let mut finish = worker.command("finish");
    finish.arg("--out").arg(&out).arg("--binary").arg(&binary).arg("--held").arg("--lock").arg(&lock);
    let list = built.0.join("crates.json");
    let crates =
        serde_json::to_vec(&build.crates(workspace, &target)?).map_err(|e| Failure::Workspace(e.to_string()))?;
    write_file(&list, &mut crates.as_slice(), false)?;
    finish.arg("--crates").arg(&list);
    for (option, path) in ["--sign", "--password-file"].iter().zip([&options.key.0, &options.key.1]) {
        finish.args(path.iter().flat_map(|path| [option.as_ref(), path.as_os_str()]));
    }
    finish.args(options.require_device.then_some("--require-device"));
    finish.args(["--message-format", if progress == Progress::Json { "json" } else { "human" }]);
    run_worker(&mut finish)
}

/// What was locked, at the root of the workspace.
const LOCK: &str = "secateurs.lock";

/// Programs of this run alone, in a folder that goes at its end.
struct Built(PathBuf);

impl Built {
    /// Copies a program from the target folder, which belongs to every run.
    fn take(&self, program: &Path, name: &str) -> Result<PathBuf, Failure> {
        let copy = self.0.join(name);
        fs::create_dir_all(&self.0).map_err(|e| Failure::writing(&self.0, &e))?;
        install(program, &copy)?;
        Ok(copy)
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies a program, so that nobody ever sees half of it.
fn install(from: &Path, to: &Path) -> Result<(), Failure> {
    let mut program = fs::File::open(from).map_err(|e| Failure::Workspace(format!("{}: {e}", from.display())))?;
    write_file(to, &mut program, true)
}

/// Whether the worker times networks on a device while it makes plans: one that is reached over a connection, or
/// through the runner that cargo is set to use (`CARGO_TARGET_<TRIPLE>_RUNNER`), which wins over the profile's
/// connection.
fn timed_on_device(target: &Target, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let triple = target.device.triple.as_deref();
    let runner = triple.and_then(|triple| variable(&cross::variable(triple, "RUNNER")));
    let by_cargo = runner.is_some_and(|text| !text.to_string_lossy().trim().is_empty());
    by_cargo || matches!(target.connect, Connection::Ssh | Connection::Command)
}

#[cfg(test)]
mod tests {
    use super::target::Device;
    use super::*;

    #[test]
    fn a_runner_of_cargo_is_a_device_whatever_the_profile_says() {
        let triple = "aarch64-unknown-linux-gnu";
        let device = || Device { triple: Some(triple.into()), ..Device::default() };
        let target = |connect| Target { device: device(), connect, ..Target::default() };
        let set = |name: &str| (name == "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").then(|| "board-run".into());
        for (connect, alone) in [
            (Connection::Qemu, false),
            (Connection::Local, false),
            (Connection::Ssh, true),
            (Connection::Command, true),
        ] {
            assert!(timed_on_device(&target(connect), set), "{connect:?}");
            assert_eq!(timed_on_device(&target(connect), |_| None), alone, "{connect:?}");
            assert_eq!(timed_on_device(&target(connect), |_| Some("  ".into())), alone, "{connect:?}");
        }
        assert!(!timed_on_device(&Target::default(), |_| Some("x".into())), "without a triple there is no variable");
    }

    #[cfg(unix)]
    #[test]
    fn a_program_is_installed_through_no_link_that_lies_there() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("victim"), "precious").unwrap();
        fs::write(path("built"), "program").unwrap();
        symlink("victim", path("infer.tmp")).unwrap();
        install(&path("built"), &path("infer")).unwrap();
        assert_eq!(fs::read_to_string(path("victim")).unwrap(), "precious");
        assert_eq!(fs::read_to_string(path("infer")).unwrap(), "program");
        assert_eq!(fs::metadata(path("infer")).unwrap().permissions().mode() & 0o777, 0o755);
        let error = install(&path("built"), &path("none/infer")).unwrap_err();
        assert_eq!(error.code(), 10, "{error}");
    }
}
