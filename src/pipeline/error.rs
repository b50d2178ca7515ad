//! Why a job ends early. Every cause keeps its type, so that the binary finds out by matching who can do something about
//! it (the user, the device, the machine, the developers), and gives the exit code that says so.

use crate::bundle::{Difference, LockError};
use crate::data::DataError;
use crate::detector::SizeError;
use crate::emit::onnx::ExportError;
use crate::engine::{Device, EngineError};
use crate::eval::EvalError;
use crate::graph::GraphError;
use crate::import::ImportError;
use crate::importance::{ImportanceError, SensitivityError};
use crate::kernels::cuda::CudaError;
use crate::latency::LatencyError;
use crate::model::FileError;
use crate::ranks::RankError;
use crate::repair::RepairError;
use crate::runtimes::RuntimeError;
use crate::search::SearchError;
use crate::session::SessionError;
use crate::surgery::SurgeryError;
use crate::train::TrainError;
use crate::vision::{ImageError, PreprocessError};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What the job was doing when the engine, a graph or the tensor backend failed: these errors do not say it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Predicting the memory of a network.
    Memory,
    /// Recording the input ranges of the layers for int8.
    Ranges,
    /// Estimating the output sensitivity of the layers.
    Sensitivity,
    /// Collecting the statistics that rank channels.
    Importance,
    /// Building the latency table.
    LatencyTable,
    /// Setting up the search.
    Search,
    /// Timing networks.
    Measurement,
    /// Comparing repaired plans.
    Comparison,
    /// Evaluating a stage.
    Evaluation,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Ranges => "quantization ranges",
            Self::Sensitivity => "output sensitivity",
            Self::Importance => "importance",
            Self::LatencyTable => "latency table",
            Self::Search => "search",
            Self::Measurement => "measurement",
            Self::Comparison => "comparison of plans",
            Self::Evaluation => "evaluation",
        })
    }
}

/// A job that could not be finished.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// Something that the user gave cannot be used.
    #[error("{0}")]
    Input(String),
    /// A setting makes no sense with what it is for.
    #[error("{0}")]
    Setting(String),
    /// The device that shall compute cannot be used.
    #[error("--device {device}: {source}")]
    Device {
        /// The device.
        device: Device,
        /// Why.
        source: CudaError,
    },
    /// The image size does not suit the network.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The model's file cannot be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// No image fills the network's input.
    #[error("{model}: {source}")]
    Preprocess {
        /// The model, for people.
        model: String,
        /// The cause.
        source: PreprocessError,
    },
    /// The dataset cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A file of the user or of an earlier run cannot be read.
    #[error("{}: {source}", path.display())]
    Reading {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file or folder cannot be written: its name is wrong, or the machine failed.
    #[error("{}: {source}", path.display())]
    Writing {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The disk has too little room for the results.
    #[error("{}: {:.0} MiB are free, the results need {:.0} MiB", folder.display(), (free >> 20) as f64,
        needed.div_ceil(1 << 20) as f64)]
    Room {
        /// The folder of the results.
        folder: PathBuf,
        /// Free bytes.
        free: u64,
        /// Bytes that the results take.
        needed: u64,
    },
    /// The run differs from what is locked.
    #[error("{}: this run is not what is locked\n{}", path.display(), lines(differences))]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Everything in which they differ.
        differences: Vec<Difference>,
    },
    /// The lock cannot be read or written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No widths meet the budgets.
    #[error("{0}")]
    Infeasible(String),
    /// The device could not be measured.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Another runtime on the device failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The benchmark command of the user failed.
    #[error(transparent)]
    Command(SessionError),
    /// The model cannot be exported for the benchmark command of the user.
    #[error("benchmark command: {0}")]
    Export(#[from] ExportError),
    /// The network could not be pruned.
    #[error("surgery: {0}")]
    Surgery(#[from] SurgeryError),
    /// The pruned network could not be repaired.
    #[error(transparent)]
    Repair(#[from] RepairError),
    /// Channels could not be ranked, or the losses of their groups not be measured.
    #[error(transparent)]
    Importance(#[from] ImportanceError),
    /// The latency table could not be measured.
    #[error(transparent)]
    LatencyTable(#[from] LatencyError),
    /// The search refused the problem.
    #[error("search: {0}")]
    Search(#[from] SearchError),
    /// Fine-tuning failed.
    #[error("fine-tuning: {0}")]
    Training(#[from] TrainError),
    /// Images or annotations do not suit the evaluation.
    #[error(transparent)]
    Evaluation(EvalError),
    /// A network could not be run.
    #[error("{task}: {source}")]
    Engine {
        /// What it was run for.
        task: Task,
        /// The cause.
        source: EngineError,
    },
    /// A graph contradicts itself or the image size.
    #[error("{task}: {source}")]
    Graph {
        /// What it was looked at for.
        task: Task,
        /// The cause.
        source: GraphError,
    },
    /// The tensor backend failed.
    #[error("{task}: tensor backend: {source}")]
    Backend {
        /// What it computed.
        task: Task,
        /// The cause.
        source: candle_core::Error,
    },
    /// A model file of ours cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A model cannot be brought into the bytes of its file.
    #[error("model file: {0}")]
    Serialize(String),
    /// The report or the manifest cannot be brought into JSON.
    #[error("report: {0}")]
    Json(#[from] serde_json::Error),
    /// The plan cannot be brought into TOML.
    #[error("plan: {0}")]
    Toml(#[from] toml::ser::Error),
    /// A picture of the report cannot be encoded.
    #[error("pictures of the report: {0}")]
    Photo(ImageError),
    /// The device measured one network where two had to run interleaved.
    #[error("measurement: the device did not measure the baseline network")]
    OneNetwork,
    /// The ranks that share the work cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// Nothing times networks here, so that ways to prune cannot be compared.
    #[error("ways to prune can only be compared where networks can be timed")]
    Untimed,
}

/// One line for each difference.
fn lines(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("  {difference}")).collect::<Vec<_>>().join("\n")
}

impl PipelineError {
    /// Of a file or folder that could not be written.
    pub fn writing(path: &Path, source: io::Error) -> Self {
        Self::Writing { path: path.into(), source }
    }

    /// Of a file that could not be read.
    pub fn reading(path: &Path, source: io::Error) -> Self {
        Self::Reading { path: path.into(), source }
    }
}

impl From<EvalError> for PipelineError {
    /// A network that does not run says what it was run for; all else is about the images.
    fn from(error: EvalError) -> Self {
        match error {
            EvalError::Engine(source) => source.of(Task::Evaluation),
            other => Self::Evaluation(other),
        }
    }
}

/// An error that does not say what its part was used for.
pub(super) trait Cause {
    /// The error with what it was used for.
    fn of(self, task: Task) -> PipelineError;
}

impl Cause for EngineError {
    fn of(self, task: Task) -> PipelineError {
        PipelineError::Engine { task, source: self }
    }
}

impl Cause for GraphError {
    fn of(self, task: Task) -> PipelineError {
        PipelineError::Graph { task, source: self }
    }
}

impl Cause for candle_core::Error {
    fn of(self, task: Task) -> PipelineError {
        PipelineError::Backend { task, source: self }
    }
}

impl Cause for SensitivityError {
    fn of(self, task: Task) -> PipelineError {
        match self {
            Self::Backend(source) => source.of(task),
            Self::Engine(source) => source.of(task),
        }
    }
}

/// Adds to a result's error what was being done.
pub(super) trait During<T> {
    /// The value, or the error with its task.
    fn during(self, task: Task) -> Result<T, PipelineError>;
}

impl<T, E: Cause> During<T> for Result<T, E> {
    fn during(self, task: Task) -> Result<T, PipelineError> {
        self.map_err(|error| error.of(task))
    }
}
