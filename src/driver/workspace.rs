//! The caller's workspace: where things are, and how cargo builds from the source of `secateurs` that belongs to it.

use super::caller::Driver;
use super::cross::Call;
use super::package::Package;
use super::process::Failure;
use super::worker::Worker;
use cargo_metadata::{Message, MetadataCommand};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folders of the workspace.
pub struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
    driver: Driver,
    package: Package,
}

/// What to build.
pub(super) struct Build<'a> {
    /// Name of the binary.
    pub(super) binary: &'static str,
    /// How cargo is called.
    pub(super) call: Call,
    /// The model to embed.
    pub(super) model: Option<&'a Path>,
}

impl Workspace {
    /// Asks cargo about the workspace of the current folder.
    ///
    /// # Errors
    /// If there is none, or its dependencies cannot be resolved.
    pub(super) fn find(driver: Driver) -> Result<Self, Failure> {
        let metadata = MetadataCommand::new().exec();
        let metadata = metadata.map_err(|e| Failure::Workspace(format!("cargo metadata: {e}")))?;
        let package = Package::of(&metadata);
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into(), driver, package })
    }

    /// The folder of the device profiles.
    pub fn targets(&self) -> PathBuf {
        self.root.join("targets")
    }

    /// The folder of the bundles.
    pub(super) fn dist(&self) -> PathBuf {
        self.root.join("dist")
    }

    /// The folder in which measurements are kept for the next run.
    pub(super) fn cache(&self) -> PathBuf {
        self.target.join("secateurs-cache")
    }

    /// What the user types before a command.
    pub(super) fn command(&self) -> &'static str {
        self.driver.name()
    }

    /// The source of `secateurs`.
    pub(super) fn package(&self) -> &Package {
        &self.package
    }

    /// The worker: built, with the features of CUDA where asked for, unless the running program is the worker.
    ///
    /// # Errors
    /// If it cannot be built.
    pub(super) fn worker(&self, cuda: bool) -> Result<Worker, Failure> {
        if self.driver == Driver::Plugin {
            return Worker::itself();
        }
        let arguments = if cuda { vec!["--features".into(), "cuda".into()] } else { vec![] };
        let call = Call { arguments, ..Call::default() };
        self.build(&Build { binary: "secateurs", call, model: None }).map(Worker::program)
    }

    /// Builds a binary in release, with cargo's progress on our standard error, and says where it is.
    ///
    /// # Errors
    /// If the build fails.
    pub(super) fn build(&self, build: &Build) -> Result<PathBuf, Failure> {
        let folder = self.package.folder(&self.cache())?;
        let mut command = Command::new(&build.call.program);
        command
            .args([build.call.subcommand, "--release", "--package", "secateurs", "--bin", build.binary])
            .args(["--message-format", "json-render-diagnostics", "--manifest-path"])
            .arg(folder.join("Cargo.toml"))
            .args(&build.call.arguments)
            .envs(build.call.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if !build.call.arguments.iter().any(|argument| argument == "--target-dir") {
            command.arg("--target-dir").arg(&self.target);
        }
        match build.model {
            Some(model) => command.env("SECATEURS_MODEL", model),
            None => command.env_remove("SECATEURS_MODEL"),
        };
        let fail = |problem: String| Failure::Program { program: "cargo build".into(), problem };
        let mut child = command.spawn().map_err(|e| fail(format!("cannot be started: {e}")))?;
        let stdout = child.stdout.take().ok_or_else(|| fail("has no output".into()))?;
        let mut executable = None;
        for message in Message::parse_stream(BufReader::new(stdout)) {
            if let Message::CompilerArtifact(artifact) = message.map_err(|e| fail(e.to_string()))?
                && artifact.target.name == build.binary
            {
                executable = artifact.executable.or(executable);
            }
        }
        let status = child.wait().map_err(|e| fail(e.to_string()))?;
        match executable {
            Some(path) if status.success() => Ok(path.into()),
            _ => Err(Failure::Build(build.binary)),
        }
    }
}
