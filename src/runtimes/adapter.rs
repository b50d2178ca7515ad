//! The programs that drive each runtime on a device, and their command lines.
//!
//! A fixed script for each runtime takes arguments and never builds a command out of text: what a profile or a model names
//! reaches it as an argument, and nothing else. All of them answer in the formats of `trtexec` (`answer`).

use super::network::Network;
use crate::device::Argument;
use crate::graph::Dtype;
use crate::profile::{Profile, RuntimeKind};
use std::path::{Path, PathBuf};

/// `trtexec` takes its warm-up in milliseconds, not in frames.
const WARM_UP_MS: usize = 200;

/// The scripts, by the names of their files.
const SCRIPTS: [(&str, &str); 4] = [
    ("trtexec.sh", include_str!("trtexec.sh")),
    ("launch.sh", include_str!("launch.sh")),
    ("run_onnxruntime.py", include_str!("run_onnxruntime.py")),
    ("run_ncnn.py", include_str!("run_ncnn.py")),
];

/// A program and its arguments.
pub(super) struct Line {
    pub program: PathBuf,
    pub arguments: Vec<Argument>,
}

/// How one runtime is driven.
pub(super) struct Adapter {
    pub kind: RuntimeKind,
    /// The program on the device as the profile names it; empty where it does not.
    program: String,
    /// The folder of engines on the device; empty for the user's cache.
    engines: String,
    threads: usize,
    /// Whether the device's GPU is to be used.
    gpu: bool,
    /// Where the scripts lie.
    folder: PathBuf,
}

impl Adapter {
    /// Of a profile, with threads that the device has CPUs for; writes the scripts into a folder.
    ///
    /// # Errors
    /// If one cannot be written.
    pub fn new(profile: &Profile, threads: usize, folder: &Path) -> std::io::Result<Self> {
        for (name, text) in SCRIPTS {
            let path = folder.join(name);
            std::fs::write(&path, text)?;
            executable(&path)?;
        }
        let bench = &profile.bench;
        Ok(Self {
            kind: bench.runtime,
            program: bench.program.clone().unwrap_or_default(),
            engines: bench.engines.clone().unwrap_or_default(),
            threads,
            gpu: profile.device.cuda.is_some(),
            folder: folder.into(),
        })
    }

    /// The scripts' text: they take part in what a measurement depends on.
    pub fn scripts() -> String {
        SCRIPTS.map(|(_, text)| text).concat()
    }

    /// Whether the frames of several networks run in turn; if not, network after network.
    pub fn interleaves(&self) -> bool {
        self.kind != RuntimeKind::TensorRt
    }

    /// Whether networks are built, and kept on the device.
    pub fn builds(&self) -> bool {
        self.kind != RuntimeKind::OnnxRuntime
    }

    /// The flags with which an engine of the network is built.
    pub fn flags(&self, network: &crate::graph::Graph) -> Vec<String> {
        match (self.kind, network.dtype) {
            (RuntimeKind::TensorRt, Dtype::F16) => vec!["--fp16".into()],
            (RuntimeKind::TensorRt, Dtype::Int8) => int8_flags(network),
            _ => Vec::new(),
        }
    }

    /// Asks for the version, and what it runs on: two lines.
    pub fn about(&self) -> Line {
        match self.kind {
            RuntimeKind::OnnxRuntime => self.line(&["about", self.provider()], vec![]),
            _ => self.line(&["about"], vec![]),
        }
    }

    /// Builds a network, unless that was done.
    pub fn build(&self, network: &Network) -> Line {
        let ([channels, height, width], key) = (network.shape, network.key.as_str());
        let [height, width, channels] = [height, width, channels].map(|side| side.to_string());
        let rest = match self.kind {
            RuntimeKind::Ncnn => [height, width, channels].map(Argument::Text).to_vec(),
            _ => network.flags.iter().cloned().map(Argument::Text).collect(),
        };
        let file = Argument::File(network.onnx.clone());
        self.line(&["build", key], [file].into_iter().chain(rest).collect())
    }

    /// Times frames of networks.
    pub fn time(&self, networks: &[&Network], frames: usize, warmup: usize) -> Line {
        let (frames, warmup) = (frames.to_string(), warmup.to_string());
        let mut all: Vec<Argument> = networks.iter().map(|network| self.named(network)).collect();
        match self.kind {
            RuntimeKind::Ncnn => all.extend(networks.first().map(|network| Argument::Text(shape(network.shape)))),
            RuntimeKind::TensorRt => return self.line(&["time", &frames, &WARM_UP_MS.to_string()], all),
            _ => {}
        }
        let how = self.how(networks.first().copied());
        self.line(&["time", &how, &self.threads.to_string(), &frames, &warmup], all)
    }

    /// Times the layers of a network; none where the runtime tells nothing of them.
    pub fn profile(&self, network: &Network, frames: usize, warmup: usize) -> Option<Line> {
        let (frames, threads) = (frames.to_string(), self.threads.to_string());
        Some(match self.kind {
            RuntimeKind::Ncnn => return None,
            RuntimeKind::TensorRt => {
                self.line(&["profile", &frames, &WARM_UP_MS.to_string()], vec![self.named(network)])
            }
            _ => {
                let task = ["profile", self.provider(), &threads, &frames, &warmup.to_string()];
                self.line(&task, vec![self.named(network)])
            }
        })
    }

    /// The outputs of a network for inputs.
    pub fn outputs(&self, network: &Network, inputs: &[PathBuf]) -> Line {
        let mut all = vec![self.named(network)];
        if self.kind == RuntimeKind::Ncnn {
            all.push(Argument::Text(shape(network.shape)));
        }
        all.extend(inputs.iter().cloned().map(Argument::File));
        match self.kind {
            RuntimeKind::TensorRt => self.line(&["outputs"], all),
            _ => self.line(&["outputs", &self.how(Some(network)), &self.threads.to_string()], all),
        }
    }

    /// Removes an engine from the device.
    pub fn forget(&self, network: &Network) -> Line {
        self.line(&["forget", &network.key], vec![])
    }

    /// How a network is named: its engine by the key, or its file.
    fn named(&self, network: &Network) -> Argument {
        if self.builds() { Argument::Text(network.key.clone()) } else { Argument::File(network.onnx.clone()) }
    }

    /// What ONNX Runtime or ncnn computes with.
    fn how(&self, network: Option<&Network>) -> String {
        match (self.kind, network.map(|network| network.dtype)) {
            (RuntimeKind::Ncnn, Some(Dtype::F16)) => "f16".into(),
            (RuntimeKind::Ncnn, _) => "f32".into(),
            _ => self.provider().into(),
        }
    }

    fn provider(&self) -> &'static str {
        if self.gpu { "cuda" } else { "cpu" }
    }

    fn line(&self, task: &[&str], rest: Vec<Argument>) -> Line {
        let text = |text: &str| Argument::Text(text.to_owned());
        let script = |name: &str| self.folder.join(name);
        let python = || text(if self.program.is_empty() { "python3" } else { &self.program });
        let (program, mut arguments) = match self.kind {
            RuntimeKind::OnnxRuntime => {
                (script("launch.sh"), vec![python(), Argument::File(script("run_onnxruntime.py"))])
            }
            RuntimeKind::Ncnn => {
                let script_file = Argument::File(script("run_ncnn.py"));
                (script("launch.sh"), vec![python(), script_file, text(&self.engines)])
            }
            _ => (script("trtexec.sh"), vec![text(&self.program), text(&self.engines)]),
        };
        arguments.extend(task.iter().map(|argument| text(argument)));
        arguments.extend(rest);
        Line { program, arguments }
    }
}

fn shape([channels, height, width]: [usize; 3]) -> String {
    format!("{channels}x{height}x{width}")
}

/// The network has int8 layers where pairs say so, and f16 around them; its f32 layers are held there by name. Where a name
/// could mean something to the parser of the flag, nothing becomes f16.
fn int8_flags(graph: &crate::graph::Graph) -> Vec<String> {
    let mut flags = vec!["--int8".to_owned()];
    let held: Vec<&String> =
        graph.exceptions.iter().filter(|(_, dtype)| dtype.is_f32()).map(|(name, _)| name).collect();
    let plain = |name: &&String| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    if !held.iter().all(plain) {
        return flags;
    }
    flags.push("--fp16".into());
    if !held.is_empty() {
        // The convolution of a layer with an activation has a tensor of its own.
        let of = |name: &&String| [format!("{name}:fp32"), format!("{name}/linear:fp32")];
        let all: Vec<String> = held.iter().flat_map(of).collect();
        flags.extend(["--precisionConstraints=obey".into(), format!("--layerPrecisions={}", all.join(","))]);
    }
    flags
}

#[cfg(unix)]
fn executable(path: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> std::io::Result<()> {
    Ok(())
}
