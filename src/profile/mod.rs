//! The profile of a device and a job: `targets/<name>.toml`, parsed once into a [`Profile`] whose values are checked
//! and carry units.
//!
//! A profile is read against a schema (`schema.rs` lists it): unknown keys, wrong types and values out of range are all
//! reported at once, each with its place in the file. [`Overrides`] defines the flags of the command line that replace
//! values; [`Resolved`] is a profile with its flags applied and the source of every value, and writes itself as a
//! profile again. This module knows no model and no device: whether a budget can be met is for the pipeline to say.

mod criterion;
mod error;
mod overrides;
mod read;
mod resolved;
mod runtime;
mod schema;
mod section;
mod sources;
mod train;
mod units;
mod write;

pub use criterion::Criterion;
pub use error::{Problem, ProfileError};
pub use overrides::{ModelFlags, Overrides, RunFlags, TogetherFlags, heading};
pub use read::{parse, read};
pub use resolved::Resolved;
pub use runtime::RuntimeKind;
pub use section::nearest;
pub use sources::Sources;
pub use train::{HoldOut, Schedule, TrainRecipe};
pub use units::{Mib, Millijoules, Millis, Ratio, UnitError};
pub use write::{values, write};

use crate::files;
use crate::graph::{Branch, Dtype};
use crate::size::ImageSize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of the importance criteria that a profile or a flag may choose.
pub const IMPORTANCE: [&str; Criterion::NAMES.len()] = Criterion::NAMES;

/// Everything that a job needs besides weights and images.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Profile {
    /// The machine that the pruned network will run on.
    pub device: Device,
    /// How programs are run there.
    pub connect: Connect,
    /// What the pruned network must keep to.
    pub budget: Budget,
    /// The network to prune.
    pub model: ModelChoice,
    /// The dataset's YAML file; the embedded demo's drawn set without one.
    #[serde(serialize_with = "files::lossy_option")]
    pub data: Option<PathBuf>,
    /// How widths are chosen.
    pub search: Search,
    /// How the pruned network is trained further.
    pub finetune: Finetune,
    /// How latency is measured.
    pub bench: Bench,
}

/// The machine that the pruned network will run on.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Device {
    /// Its name; the file's name without one.
    pub name: String,
    /// Rust target triple to build for; the host's own without one.
    pub triple: Option<String>,
    /// Value of rustc's `-C target-cpu`; kernels choose by what they find at run time without one.
    pub target_cpu: Option<String>,
    /// Threads that the network may use.
    pub threads: usize,
    /// Whether measurements bind every thread to a CPU.
    pub pin: bool,
    /// Memory of the whole device; the memory budget must fit into it.
    pub memory: Option<Mib>,
    /// Part of the name that the board gives itself; on another board no latency is claimed.
    pub board: Option<String>,
    /// Version of its C library.
    pub glibc: Option<String>,
    /// Further features of the inference binary.
    pub features: Vec<String>,
    /// Architecture of the GPU that the inference binary carries code for, `sm_87`; none without one.
    pub cuda: Option<String>,
    /// Peak of one core: 10^9 floating-point operations (f32, a multiply-add is two) per second.
    pub core_gflops: Option<f64>,
    /// Peak memory bandwidth of all cores together, and of the GPU where the device has one: 10^9 bytes per second.
    pub bandwidth: Option<f64>,
    /// Figures of the GPU, for estimates; `latency::Gpu` knows those of the architectures.
    pub gpu: GpuFigures,
}

/// What a profile says of the device's GPU. All rates are peaks, without sparsity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GpuFigures {
    /// Multiprocessors.
    pub multiprocessors: Option<usize>,
    /// Clock under load, GHz.
    pub clock_ghz: Option<f64>,
    /// 10^12 floating-point operations of the f32 units per second.
    pub f32_tflops: Option<f64>,
    /// The same of the tensor cores on f16 values.
    pub f16_tflops: Option<f64>,
    /// 10^12 operations of the tensor cores on int8 values per second.
    pub int8_tops: Option<f64>,
    /// Size of the L2 cache.
    pub l2_mib: Option<Mib>,
    /// Microseconds of a node of a CUDA graph.
    pub node_us: Option<f64>,
}

/// How programs are run on the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Connect {
    /// The device is this machine.
    #[default]
    Local,
    /// Copied and run over SSH.
    Ssh {
        /// `user@host` or a name of the SSH configuration.
        host: String,
        /// Folder on the device.
        folder: String,
        /// Further arguments of `ssh`.
        options: Vec<String>,
        /// Whether copied files stay there, for the next time.
        keep: bool,
    },
    /// Run here under user-mode emulation: results are right, and no latency is claimed.
    Qemu,
    /// Run by a command line of the user, which gets the program and its arguments appended.
    Command {
        /// Program and first arguments.
        command: Vec<String>,
    },
}

/// What the pruned network must keep to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Budget {
    /// Time per frame.
    pub latency: Option<Millis>,
    /// Time per frame as a share of the baseline network's, measured interleaved with it.
    pub latency_ratio: Option<Ratio>,
    /// Percentile of the frame times that must keep to `latency`: 50, 95 or 99.
    pub percentile: u8,
    /// Energy per frame, where the device shows its power rails.
    pub energy: Option<Millijoules>,
    /// Weights, peak activations and workspace together.
    pub memory: Option<Mib>,
    /// Number of parameters.
    pub params: Option<usize>,
    /// The model's file.
    pub file: Option<Mib>,
    /// Minimum mAP50-95 on the validation images.
    pub min_map: Option<Ratio>,
    /// Maximum drop of mAP50-95 against the baseline network.
    pub max_map_drop: Option<Ratio>,
    /// Minimum recall of classes by name, as a share of the baseline network's.
    pub floors: BTreeMap<String, Ratio>,
}

/// The network to prune.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModelChoice {
    /// Its file; the embedded demo without one.
    #[serde(serialize_with = "files::lossy_option")]
    pub path: Option<PathBuf>,
    /// Size of the input image; the model's own without one.
    pub imgsz: Option<ImageSize>,
    /// Sizes to choose from, the one that budgets refer to first; where there is only one, nothing is to be chosen.
    pub sizes: Vec<ImageSize>,
    /// Images per run of the network on the device: those of several cameras. Latency is that of the whole batch.
    pub batch: usize,
    /// Arithmetic of the network on the device.
    pub dtype: Dtype,
    /// Branch of an end-to-end head that is deployed; the default one without one.
    pub head: Option<Branch>,
}

/// What is pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Whole channels: the network gets smaller and faster.
    #[default]
    Structured,
    /// Single weights: the file gets smaller.
    Unstructured,
    /// Two of every four weights: the file gets smaller, in a pattern that some accelerators know.
    #[serde(rename = "2:4")]
    TwoOfFour,
}

impl Strategy {
    /// Every strategy with the name users type.
    pub const ALL: [(&'static str, Self); 3] =
        [("structured", Self::Structured), ("unstructured", Self::Unstructured), ("2:4", Self::TwoOfFour)];

    /// The strategy of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, strategy)| *strategy)
    }
}

/// How widths are chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Search {
    /// What is pruned.
    pub strategy: Strategy,
    /// Share of the weights that become zero where `strategy` is unstructured.
    pub sparsity: Ratio,
    /// Widths are multiples of this.
    pub grid: usize,
    /// Minimum share of a group's channels that is kept.
    pub min_keep: Ratio,
    /// Importance criterion that ranks channels: one of [`IMPORTANCE`].
    pub importance: String,
    /// Training images for sensitivity, importance and repair.
    pub calibration_images: usize,
    /// Seed of every random choice.
    pub seed: u64,
}

/// How the pruned network is trained further.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finetune {
    /// Epochs; 0 skips fine-tuning.
    pub epochs: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Images per step.
    pub batch: usize,
    /// Optimizer.
    pub optimizer: Optimizer,
    /// Weight of the baseline network as a teacher; 0 turns it off.
    pub distill: f64,
    /// L1 penalty on the scales of the normalisations; 0 turns it off.
    pub sparsity: f64,
    /// Whether the baseline network gets the same epochs, to compare with.
    pub control: bool,
    /// The images that choose between the epochs.
    pub hold_out: HoldOut,
    /// Epochs without a better one after which training ends; 0 waits for all.
    pub patience: usize,
    /// How images are varied and learning rates run.
    pub recipe: TrainRecipe,
}

/// The optimizers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    #[default]
    Adamw,
    /// Stochastic gradient descent with Nesterov momentum.
    Sgd,
}

impl Optimizer {
    /// Every optimizer with the name users type.
    pub const ALL: [(&'static str, Self); 2] = [("adamw", Self::Adamw), ("sgd", Self::Sgd)];
}

/// How latency is measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bench {
    /// Warm-up frames, which are not timed.
    pub warmup: usize,
    /// Timed frames.
    pub runs: usize,
    /// Whether windows of frames count only while the machine is neither throttled nor busy: the key `quiet`.
    #[serde(rename = "quiet")]
    pub require_idle: bool,
    /// What runs networks on the device.
    pub runtime: RuntimeKind,
    /// A benchmark command of the user in place of our runtime: it prints the milliseconds of the ONNX file `{model}`.
    pub command: Option<Vec<String>>,
    /// The program of another runtime on the device: `trtexec`, or the Python that has the runtime's package.
    pub program: Option<String>,
    /// The folder on the device where another runtime's engines are kept; one in the user's cache without one.
    pub engines: Option<String>,
}

/// Whether the name of a model or a dataset stands for the embedded demo, or for pictures that are drawn on the spot, and
/// not for a file.
fn is_embedded(name: &str) -> bool {
    name == "demo" || ["demo:", "drawn:"].iter().any(|prefix| name.starts_with(prefix))
}

/// The task in the name of a model of the embedded demo, `demo` or `demo:TASK`, which has its own data; none where it names
/// a file.
pub fn demo_task(model: &Path) -> Option<&str> {
    let name = model.to_str()?;
    if name == "demo" { Some("detect") } else { name.strip_prefix("demo:") }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            device: Device {
                name: "host".into(),
                triple: None,
                target_cpu: None,
                threads: 1,
                pin: false,
                memory: None,
                board: None,
                glibc: None,
                features: Vec::new(),
                cuda: None,
                core_gflops: None,
                bandwidth: None,
                gpu: GpuFigures::default(),
            },
            connect: Connect::Local,
            budget: Budget {
                latency: None,
                latency_ratio: None,
                percentile: 95,
                energy: None,
                memory: None,
                params: None,
                file: None,
                min_map: None,
                max_map_drop: None,
                floors: BTreeMap::new(),
            },
            model: ModelChoice { path: None, imgsz: None, sizes: vec![], batch: 1, dtype: Dtype::F32, head: None },
            data: None,
            search: Search {
                strategy: Strategy::Structured,
                sparsity: Ratio::HALF,
                grid: 8,
                min_keep: Ratio::EIGHTH,
                importance: IMPORTANCE[0].into(),
                calibration_images: 384,
                seed: 0,
            },
            finetune: Finetune {
                hold_out: HoldOut::Share(Ratio::TENTH),
                patience: 0,
                recipe: TrainRecipe::default(),
                epochs: 10,
                lr: 1e-3,
                batch: 8,
                optimizer: Optimizer::Adamw,
                distill: 1.0,
                sparsity: 0.0,
                control: true,
            },
            bench: Bench {
                warmup: 20,
                runs: 300,
                require_idle: true,
                runtime: RuntimeKind::Engine,
                command: None,
                program: None,
                engines: None,
            },
        }
    }
}
