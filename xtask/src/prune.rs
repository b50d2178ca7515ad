//! `cargo xtask prune`: worker, inference binary, measurement on the device.
//!
//! 1. Find out how to build for the device, before anything is spent.
//! 2. Build the worker, and for a device that is not this machine the inference binary without a model, which times
//!    networks there; let the worker prune: it leaves the model, the plan and the reports in the results' folder.
//! 3. Build the inference binary for the device with that model embedded.
//! 4. Let the worker measure it on the device through the profile's connection, put it among the results, complete the
//!    reports and judge.
//!
//! The folder of the results is locked all the while, the target folder while a binary is built there and copied.

use crate::cross::{self, Facts, Tool};
use crate::cuda;
use crate::locked::Locked;
use crate::on_device;
use crate::process::{Failure, Tell, run_worker, write_program};
use crate::target::{self, Connection, Target};
use crate::workspace::{Build, Workspace, host_triple};
use clap::ValueEnum;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The binary that ships.
const BINARY: &str = "secateurs-infer";

/// A device, and what shall differ from its profile. Values are checked by the worker.
#[derive(clap::Args)]
pub struct Args {
    /// Device profile: NAME stands for targets/NAME.toml
    #[arg(long, value_name = "NAME")]
    target: String,
    /// Model file: an ultralytics .pt, safetensors, or a model file of ours [default: the profile's, else the demo]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The dataset's YAML file [default: the profile's, else the demo's drawn set]
    #[arg(long, value_name = "YAML")]
    data: Option<PathBuf>,
    /// Side of the square input image, pixels
    #[arg(long, value_name = "N")]
    imgsz: Option<String>,
    /// Numbers that the network computes with on the device: f32, or int8, which is fastest and a quarter of the size, or
    /// f16, half of it and as good as f32
    #[arg(long, value_name = "NAME")]
    dtype: Option<String>,
    /// Latency budget per frame, milliseconds
    #[arg(long, value_name = "X", conflicts_with = "latency_ratio")]
    latency_ms: Option<String>,
    /// Latency budget as a share of the baseline model's latency
    #[arg(long, value_name = "R")]
    latency_ratio: Option<String>,
    /// Memory budget: weights, peak activations and workspace, MiB
    #[arg(long, value_name = "X")]
    memory_mib: Option<String>,
    /// Budget of trained values
    #[arg(long, value_name = "N")]
    params: Option<String>,
    /// Budget of the model's file, MiB
    #[arg(long, value_name = "X")]
    file_mib: Option<String>,
    /// A class must still be found at this share of the baseline model's recall: `--floor person=0.95`; may be repeated
    #[arg(long, value_name = "CLASS=R")]
    floor: Vec<String>,
    /// What is taken away: structured, unstructured or 2:4
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Passes over the training images; 0 skips training
    #[arg(long, value_name = "N")]
    epochs: Option<String>,
    /// How channels are ranked: fisher, taylor, l1, l2, ...
    #[arg(long, value_name = "NAME")]
    importance: Option<String>,
    /// Training images that show what the layers do; fewer are faster, and prune worse
    #[arg(long, value_name = "N")]
    calibration_images: Option<String>,
    /// Threads of the network on the device
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Seed of everything random
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// Folder of the results [default: dist/NAME in the workspace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where the inference binary is built; the device needs cargo for it, and gets the package over its connection
    #[arg(long, value_name = "WHERE", default_value = "here")]
    build: Place,
    /// Leave out images that cannot be read, and say how many, instead of ending at the first
    #[arg(long)]
    skip_bad_images: bool,
    /// Train on a CUDA device
    #[arg(long)]
    cuda: bool,
    /// Fail (exit code 7) where latency cannot be measured on the device itself, instead of claiming nothing about it
    #[arg(long)]
    require_device: bool,
    /// Fail where nvcc is missing, instead of building for the device's processor only
    #[arg(long)]
    require_gpu: bool,
    /// Check everything and print what would be done
    #[arg(long)]
    dry_run: bool,
    /// How progress and results are told
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    message_format: Format,
}

/// Where to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Place {
    /// On this machine, for the device
    Here,
    /// On the device itself
    OnDevice,
}

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Stages in cargo's style and progress bars on standard error, results on standard output
    Human,
    /// One JSON object a line on standard output
    Json,
}

impl Args {
    /// How progress is told.
    pub fn tell(&self) -> Tell {
        match self.message_format {
            Format::Human => Tell::Human,
            Format::Json => Tell::Json,
        }
    }

    /// The words that the worker gets as they are.
    fn forwarded(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        let flags = [
            ("--model", path(&self.model)),
            ("--data", path(&self.data)),
            ("--imgsz", self.imgsz.clone()),
            ("--dtype", self.dtype.clone()),
            ("--latency-ms", self.latency_ms.clone()),
            ("--latency-ratio", self.latency_ratio.clone()),
            ("--memory-mib", self.memory_mib.clone()),
            ("--params", self.params.clone()),
            ("--file-mib", self.file_mib.clone()),
            ("--strategy", self.strategy.clone()),
            ("--epochs", self.epochs.clone()),
            ("--importance", self.importance.clone()),
            ("--threads", self.threads.clone()),
            ("--calibration-images", self.calibration_images.clone()),
            ("--seed", self.seed.clone()),
        ];
        let floors = self.floor.iter().map(|floor| ("--floor", Some(floor.clone())));
        let all = flags.into_iter().chain(floors);
        let all = all.filter_map(|(name, value)| value.map(|value| format!("{name}={value}")));
        all.chain(self.skip_bad_images.then(|| "--skip-bad-images".to_owned())).collect()
    }
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let tell = args.tell();
    let workspace = Workspace::find()?;
    let target = target::find(&workspace.root.join("targets"), &args.target)?;
    let out = args.out.clone().unwrap_or_else(|| workspace.root.join("dist").join(&args.target));
    let format = if tell == Tell::Json { "json" } else { "human" };

    let build = match args.build {
        Place::Here => Builder::Here(Bench::find(&workspace, &target)?),
        Place::OnDevice => {
            on_device::check(&target)?;
            Builder::OnDevice
        }
    };
    match build.without_gpu(&target) {
        Some(problem) if args.require_gpu => return Err(Failure::Toolchain(problem)),
        Some(problem) => tell.stage("Warning", &problem),
        None => {}
    }
    tell.stage("Building", "the worker (secateurs)");
    let worker = workspace.build_worker(args.cuda)?;
    let mut prune = Command::new(&worker);
    prune.arg("prune").arg("--profile").arg(&target.path).arg("--out").arg(&out);
    prune.arg("--cache").arg(workspace.target.join("secateurs-cache"));
    prune.args(args.forwarded()).args(args.cuda.then_some("--cuda")).args(["--message-format", format]);
    prune.args(args.require_device.then_some("--require-device"));
    if args.dry_run {
        run_worker(prune.arg("--dry-run"))?;
        tell.stage("Would", &format!("build {}", build.describe("with the model embedded")));
        tell.stage("Would", "measure it on the device in turn with the baseline model, and complete the reports");
        return Ok(());
    }
    let _held = Locked::results(&out)?;
    let built = Built(out.join(BUILT));
    // Where a device is reached that is not this machine, networks are timed there while plans are made.
    if timed_on_device(&target, |name| std::env::var_os(name)) {
        tell.stage("Building", &build.describe("without a model, to time networks on the device"));
        let _target = Locked::wait_for(&workspace.target)?;
        let program = build.run(&workspace, &worker, &target, None)?;
        prune.arg("--binary").arg(built.take(&program, "bare")?);
    }
    run_worker(prune.arg("--first-stage"))?;

    tell.stage("Building", &build.describe("with the model embedded"));
    let binary = {
        // Another run with another model builds in the same place.
        let _target = Locked::wait_for(&workspace.target)?;
        let program = build.run(&workspace, &worker, &target, Some(&out.join("model.safetensors")))?;
        built.take(&program, BINARY)?
    };
    let mut finish = Command::new(&worker);
    finish.arg("finish").arg("--out").arg(&out).arg("--binary").arg(&binary).arg("--held");
    finish.args(args.require_device.then_some("--require-device"));
    run_worker(finish.args(["--message-format", format]))
}

/// Where programs lie in the folder of the results until the worker has measured them.
const BUILT: &str = ".built";

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

/// Who builds the inference binary.
enum Builder {
    /// This machine.
    Here(Bench),
    /// The device, which was found to be a real one.
    OnDevice,
}

impl Builder {
    /// Why the binary will have no code for the GPU that the profile names, if that is known beforehand.
    fn without_gpu(&self, target: &Target) -> Option<String> {
        match self {
            Self::Here(bench) => bench.without_gpu(target),
            Self::OnDevice => None,
        }
    }

    /// What is built, and how.
    fn describe(&self, how: &str) -> String {
        match self {
            Self::Here(bench) => bench.describe(how),
            Self::OnDevice => format!("the inference binary ({BINARY}) on the device, {how}"),
        }
    }

    fn run(
        &self,
        workspace: &Workspace,
        worker: &Path,
        target: &Target,
        model: Option<&Path>,
    ) -> Result<PathBuf, Failure> {
        match self {
            Self::Here(bench) => bench.run(workspace, target, model),
            Self::OnDevice => on_device::build(workspace, worker, target, BINARY, model),
        }
    }
}

/// How the inference binary of a device is built.
pub struct Bench {
    triple: String,
    tool: Tool,
    /// The architecture of the device's GPU and `nvcc`, where both are there.
    gpu: Option<(String, PathBuf)>,
}

impl Bench {
    /// Looks for a way to build for a target.
    ///
    /// # Errors
    /// If there is none: with what would install one.
    pub fn find(workspace: &Workspace, target: &Target) -> Result<Self, Failure> {
        let facts = Self::facts(target)?;
        let tool = cross::choose(&facts, target.glibc).map_err(|commands| {
            let root = workspace.root.display();
            let commands: Vec<String> = commands.iter().map(|command| format!("\n    {command}")).collect();
            Failure::Toolchain(format!(
                "nothing here builds for {}; in {root}, one of these helps:{}\n  or all of it: cargo xtask doctor",
                facts.triple,
                commands.concat()
            ))
        })?;
        // A container has no nvcc.
        let nvcc = cuda::nvcc().filter(|_| tool != Tool::Cross);
        let gpu = target.cuda.clone().zip(nvcc);
        Ok(Self { triple: facts.triple, tool, gpu })
    }

    /// Why the binary will have no code for the GPU that the profile names.
    fn without_gpu(&self, target: &Target) -> Option<String> {
        let arch = target.cuda.as_ref().filter(|_| self.gpu.is_none())?;
        Some(match self.tool {
            Tool::Cross => format!("no code for the GPU ({arch}): cross builds in a container, which has no nvcc"),
            _ => format!("no code for the GPU ({arch}): nvcc is missing; this brings it: {}", cuda::INSTALL),
        })
    }

    /// What is installed here for a target.
    ///
    /// # Errors
    /// If the compiler does not say what it builds for.
    pub fn facts(target: &Target) -> Result<Facts, Failure> {
        let host = host_triple()?;
        Ok(cross::look(target.triple.as_deref().unwrap_or(&host), &host))
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
        let mut call = cross::call(&self.tool, target, &self.triple, nvcc);
        call.words.extend(["--no-default-features".into(), "--target-dir".into()]);
        call.words.push(folder.to_string_lossy().into_owned());
        call.words.extend(["--config".into(), "profile.release.strip=true".into()]);
        let program = workspace.build(&Build { binary: BINARY, call, model: model.as_deref() })?;
        cross::check_glibc(&program, target)?;
        Ok(program)
    }
}

/// Copies a program, so that nobody ever sees half of it.
fn install(from: &Path, to: &Path) -> Result<(), Failure> {
    let mut program = fs::File::open(from).map_err(|e| Failure::Workspace(format!("{}: {e}", from.display())))?;
    write_program(to, &mut program)
}

/// Whether the worker times networks on a device while it makes plans: one that is reached over a connection, or through
/// the runner that cargo is told to use (`CARGO_TARGET_<TRIPLE>_RUNNER`), which wins over the profile's connection.
fn timed_on_device(target: &Target, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let runner = target.triple.as_deref().and_then(|triple| variable(&cross::variable(triple, "RUNNER")));
    let by_cargo = runner.is_some_and(|words| !words.to_string_lossy().trim().is_empty());
    by_cargo || matches!(target.connect, Connection::Ssh | Connection::Command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches};

    /// What is typed for every flag that the worker shall get.
    const TYPED: [(&str, &str); 16] = [
        ("model", "a.pt"),
        ("data", "a.yaml"),
        ("imgsz", "96"),
        ("dtype", "int8"),
        ("latency-ms", "3"),
        ("latency-ratio", "0.5"),
        ("memory-mib", "7"),
        ("params", "1000"),
        ("file-mib", "2"),
        ("floor", "person=0.9"),
        ("strategy", "2:4"),
        ("epochs", "0"),
        ("importance", "l1"),
        ("calibration-images", "16"),
        ("threads", "3"),
        ("seed", "9"),
    ];

    /// Those that are about this driver, or get their own words.
    const OTHERS: [&str; 9] = [
        "target",
        "out",
        "build",
        "cuda",
        "skip-bad-images",
        "require-device",
        "require-gpu",
        "dry-run",
        "message-format",
    ];

    #[test]
    fn every_flag_reaches_the_worker() {
        let command = Args::augment_args(clap::Command::new("prune"));
        let all: Vec<String> = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
        let known = |name: &String| OTHERS.contains(&name.as_str()) || TYPED.iter().any(|(flag, _)| flag == name);
        let unknown: Vec<&String> = all.iter().filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "neither forwarded nor known as the driver's: {unknown:?}");
        for (flag, value) in TYPED {
            let typed = format!("--{flag}={value}");
            let matches = command.clone().try_get_matches_from(["prune", "--target", "host", typed.as_str()]).unwrap();
            assert_eq!(Args::from_arg_matches(&matches).unwrap().forwarded(), [typed]);
        }
    }

    #[test]
    fn a_runner_of_cargo_is_a_device_whatever_the_profile_says() {
        let triple = "aarch64-unknown-linux-gnu";
        let target = |connect| Target { triple: Some(triple.into()), connect, ..Target::default() };
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
