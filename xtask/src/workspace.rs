//! Where things are, and how cargo builds them.

use crate::cross::Call;
use crate::process::Failure;
use cargo_metadata::{Message, MetadataCommand};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package with the worker and the inference binary.
const PACKAGE: &str = "secateurs";

/// The folders of the workspace.
pub struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder.
    pub target: PathBuf,
}

/// What to build.
pub struct Build<'a> {
    /// Name of the binary.
    pub binary: &'static str,
    /// How cargo is called.
    pub call: Call,
    /// The model to embed.
    pub model: Option<&'a Path>,
}

impl Workspace {
    /// Asks cargo.
    pub fn find() -> Result<Self, Failure> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec();
        let metadata = metadata.map_err(|e| Failure::Workspace(format!("cargo metadata: {e}")))?;
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into() })
    }

    /// Builds the worker, with the features of CUDA where asked for, and says where it is.
    pub fn build_worker(&self, cuda: bool) -> Result<PathBuf, Failure> {
        let arguments = if cuda { vec!["--features".into(), "cuda".into()] } else { vec![] };
        self.build(&Build { binary: "secateurs", call: Call { arguments, ..Call::default() }, model: None })
    }

    /// Builds a binary in release, with cargo's progress on our standard error, and says where it is.
    pub fn build(&self, build: &Build) -> Result<PathBuf, Failure> {
        let mut command = Command::new(&build.call.program);
        command
            .args([build.call.subcommand, "--release", "--package", PACKAGE, "--bin", build.binary])
            .args(["--message-format", "json-render-diagnostics", "--manifest-path"])
            .arg(self.root.join("Cargo.toml"))
            .args(&build.call.arguments)
            .envs(build.call.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
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
