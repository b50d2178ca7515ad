//! Building the inference binary of a device, on this machine or on the device.

use super::crates::{self, Crates};
use super::cross::{self, Tool};
use super::options::Place;
use super::process::Failure;
use super::target::Target;
use super::worker::Worker;
use super::workspace::{Build, Workspace};
use super::{cuda, glibc, on_device};
use std::fs;
use std::path::{Path, PathBuf};

/// The binary that ships.
pub const BINARY: &str = "secateurs-infer";

/// Who builds the inference binary.
pub enum Builder {
    /// This machine.
    Here(HostBuild),
    /// The device, which was found to be a real one.
    OnDevice,
}

impl Builder {
    /// Looks for a way to build for a target at a place.
    ///
    /// # Errors
    /// If there is none: with what would install one, or why the device cannot do it.
    pub fn find(place: Place, workspace: &Workspace, target: &Target) -> Result<Self, Failure> {
        match place {
            Place::Here => Ok(Self::Here(HostBuild::find(workspace, target)?)),
            Place::OnDevice => on_device::check(target).map(|()| Self::OnDevice),
        }
    }

    /// Why the binary will have no code for the GPU that the profile names, if that is known beforehand.
    pub fn without_gpu(&self, target: &Target) -> Option<String> {
        match self {
            Self::Here(host) => host.without_gpu(target),
            Self::OnDevice => None,
        }
    }

    /// What is built, and how.
    pub fn describe(&self, how: &str) -> String {
        match self {
            Self::Here(host) => host.describe(how),
            Self::OnDevice => format!("the inference binary ({BINARY}) on the device, {how}"),
        }
    }

    /// The crates that it is built of.
    ///
    /// # Errors
    /// If cargo cannot say.
    pub fn crates(&self, workspace: &Workspace, target: &Target) -> Result<Crates, Failure> {
        let mut features = vec!["runtime".to_owned()];
        features.extend(target.device.features.iter().cloned());
        let (triple, gpu) = match self {
            Self::Here(host) => (host.triple.clone(), host.gpu.is_some()),
            // Whether the device has nvcc it alone knows.
            Self::OnDevice => (cross::facts(&target.device)?.triple, false),
        };
        features.extend(gpu.then(|| "cuda".to_owned()));
        crates::list(&workspace.package().folder(&workspace.cache())?, &triple, features)
    }

    /// Builds it, with a model embedded if there is one, and says where it is.
    ///
    /// # Errors
    /// If the build fails.
    pub fn run(
        &self,
        workspace: &Workspace,
        worker: &Worker,
        target: &Target,
        model: Option<&Path>,
    ) -> Result<PathBuf, Failure> {
        match self {
            Self::Here(host) => host.run(workspace, target, model),
            Self::OnDevice => on_device::build(workspace, worker, target, BINARY, model),
        }
    }
}

/// How the inference binary of a device is built.
pub struct HostBuild {
    triple: String,
    tool: Tool,
    /// The architecture of the device's GPU and `nvcc`, where both are there.
    gpu: Option<(String, PathBuf)>,
}

impl HostBuild {
    /// Looks for a way to build for a target.
    ///
    /// # Errors
    /// If there is none: with what would install one.
    fn find(workspace: &Workspace, target: &Target) -> Result<Self, Failure> {
        let facts = cross::facts(&target.device)?;
        let tool = cross::choose(&facts, target.device.glibc).map_err(|commands| {
            let root = workspace.root.display();
            let commands: Vec<String> = commands.iter().map(|command| format!("\n    {command}")).collect();
            Failure::Toolchain(format!(
                "nothing here builds for {}; in {root}, one of these helps:{}\n  or all of it: {} doctor",
                facts.triple,
                commands.concat(),
                workspace.command()
            ))
        })?;
        // A container has no nvcc.
        let nvcc = cuda::nvcc().filter(|_| tool != Tool::Cross);
        let gpu = target.device.cuda.clone().zip(nvcc);
        Ok(Self { triple: facts.triple, tool, gpu })
    }

    /// Why the binary will have no code for the GPU that the profile names.
    fn without_gpu(&self, target: &Target) -> Option<String> {
        let arch = target.device.cuda.as_ref().filter(|_| self.gpu.is_none())?;
        Some(match self.tool {
            Tool::Cross => format!("no code for the GPU ({arch}): cross builds in a container, which has no nvcc"),
            _ => format!("no code for the GPU ({arch}): nvcc is missing; this brings it: {}", cuda::INSTALL),
        })
    }

    /// What is built, and how.
    fn describe(&self, how: &str) -> String {
        match &self.tool {
            Tool::Native => format!("the inference binary ({BINARY}), {how}"),
            tool => {
                let gpu =
                    self.gpu.as_ref().map_or(String::new(), |(arch, _)| format!(" and its GPU ({arch}) with nvcc"));
                format!("the inference binary ({BINARY}) for {} with {}{gpu}, {how}", self.triple, tool.name())
            }
        }
    }

    /// Builds the lean runtime in a target folder of its own: it has other features than the worker, and may have
    /// another compiler, and neither shall make the other compile again.
    fn run(&self, workspace: &Workspace, target: &Target, model: Option<&Path>) -> Result<PathBuf, Failure> {
        let full =
            |model: &Path| fs::canonicalize(model).map_err(|e| Failure::Workspace(format!("{}: {e}", model.display())));
        let model = model.map(full).transpose()?;
        let folder = workspace.target.join(self.tool.slug());
        let nvcc = self.gpu.as_ref().map(|(_, nvcc)| nvcc.as_path());
        let mut call = cross::call(&self.tool, &target.device, &self.triple, nvcc);
        call.arguments.extend(["--no-default-features".into(), "--features".into(), "runtime".into()]);
        call.arguments.push("--target-dir".into());
        call.arguments.push(folder.to_string_lossy().into_owned());
        call.arguments.extend(["--config".into(), "profile.release.strip=true".into()]);
        let program = workspace.build(&Build { binary: BINARY, call, model: model.as_deref() })?;
        glibc::check(&program, target.device.glibc)?;
        Ok(program)
    }
}
