//! Why a command ended early, and the exit code that says so: it follows from the types of the errors.

use crate::bench::BenchError;
use crate::bundle::LockError;
use crate::detector::DetectorError;
use crate::device::DeviceError;
use crate::engine::EngineError;
use crate::eval::EvalError;
use crate::graph::GraphError;
use crate::import::ImportError;
use crate::importance::ImportanceError;
use crate::latency::LatencyError;
use crate::model::FileError;
use crate::pipeline::PipelineError;
use crate::profile::ProfileError;
use crate::ranks::RankError;
use crate::repair::RepairError;
use crate::runtimes::RuntimeError;
use crate::search::SearchError;
use crate::session::SessionError;
use crate::train::TrainError;
use crate::training::TrainingError;
use crate::vision::ImageError;
use crate::{console, output};
use std::fmt::Display;
use std::io;
use std::path::Path;

/// What went wrong, by who can do something about it.
#[derive(Debug)]
pub enum Failure {
    /// The command line contradicts itself.
    Usage(String),
    /// The profile is wrong.
    Profile(ProfileError),
    /// The run differs from what is locked, or nothing is locked for it.
    Locked(String),
    /// No plan meets the budgets; the message says the least that can be reached.
    Infeasible(String),
    /// The pruned model was built, but measured slower or larger than asked for.
    Budget(String),
    /// The pruned model was built, but is less accurate than asked for.
    Accuracy(String),
    /// The device cannot be reached.
    Device(String),
    /// The device was never steady enough to measure.
    Unsteady(String),
    /// The training diverged again and again; the repaired model ships, where there is one.
    Diverged(String),
    /// A signal ended a training, whose state is kept.
    Interrupted(String, i32),
    /// A file cannot be used.
    Input(String),
    /// A file cannot be used, and what the user can do about it is known.
    Advised(String, &'static str),
    /// This machine failed: disk, permission, memory.
    Machine(String),
    /// Standard output takes nothing: its disk is full, say.
    Output(io::Error),
    /// A program of the user ended with a code of its own and has said why.
    Program(u8),
    /// An internal error.
    Internal(String),
}

impl Failure {
    /// Of something that the user gave.
    pub fn input(problem: impl Display) -> Self {
        Self::Input(problem.to_string())
    }

    /// Of something that should not have happened.
    pub fn internal(problem: impl Display) -> Self {
        Self::Internal(problem.to_string())
    }

    /// Of a file or folder that could not be written: its name is wrong, or this machine failed.
    pub fn writing(path: &Path, error: &io::Error) -> Self {
        Self::refused(error.kind(), format!("{}: {error}", path.display()))
    }

    /// Of a lock that cannot be read or written.
    pub fn lock(error: LockError) -> Self {
        let text = error.to_string();
        match error {
            LockError::Io { source, .. } => Self::refused(source.kind(), text),
            LockError::Format { .. } | LockError::Version { .. } => Self::Input(text),
        }
    }

    /// Of something that the operating system refused to write.
    fn refused(kind: io::ErrorKind, text: String) -> Self {
        use io::ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound};
        match kind {
            AlreadyExists | InvalidFilename | InvalidInput | IsADirectory | NotADirectory | NotFound => {
                Self::Input(text)
            }
            _ => Self::Machine(text),
        }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Profile(_) | Self::Locked(_) => 3,
            Self::Infeasible(_) => 4,
            Self::Budget(_) => 5,
            Self::Accuracy(_) => 6,
            Self::Device(_) => 7,
            Self::Unsteady(_) => 8,
            Self::Program(code) => *code,
            Self::Input(_) | Self::Advised(..) => 9,
            Self::Machine(_) | Self::Output(_) => 10,
            Self::Diverged(_) => 11,
            Self::Interrupted(_, signal) => u8::try_from(128 + signal).unwrap_or(130),
            Self::Internal(_) => 1,
        }
    }

    /// Whether all ranks of a job end with it, at the same step.
    pub fn is_of_all_ranks(&self) -> bool {
        matches!(self, Self::Diverged(_) | Self::Interrupted(..))
    }

    /// One message for each thing that is wrong.
    fn messages(&self) -> Vec<String> {
        match self {
            Self::Profile(error) if !error.problems().is_empty() => {
                error.problems().iter().map(ToString::to_string).collect()
            }
            Self::Profile(error) => vec![error.to_string()],
            Self::Output(error) => vec![error.to_string()],
            Self::Program(_) => vec![],
            Self::Usage(text)
            | Self::Locked(text)
            | Self::Infeasible(text)
            | Self::Budget(text)
            | Self::Accuracy(text)
            | Self::Device(text)
            | Self::Unsteady(text)
            | Self::Diverged(text)
            | Self::Interrupted(text, _)
            | Self::Input(text)
            | Self::Advised(text, _)
            | Self::Machine(text)
            | Self::Internal(text) => vec![text.clone()],
        }
    }

    /// What the user can do.
    fn help(&self) -> Option<&'static str> {
        match self {
            Self::Usage(_) => Some("`--help` lists the options"),
            Self::Profile(_) => Some("targets/host.toml explains every section and key"),
            Self::Locked(_) => Some("undo the change, or run prune without --locked and commit the new secateurs.lock"),
            Self::Infeasible(_) => Some("relax one budget as said above, or lower [search] min-keep"),
            Self::Budget(_) => Some("the files were written; run again, or ask for a little less than you need"),
            Self::Accuracy(_) => Some("the files were written; allow more latency or more [finetune] epochs"),
            Self::Device(_) => Some("`cargo xtask doctor --target NAME` says what reaching a device takes"),
            Self::Unsteady(_) => {
                Some("end other programs, cool the board, fix its clock and power mode; then run again")
            }
            Self::Machine(_) => Some("this machine could not do it: look at its disk space, permissions and memory"),
            Self::Internal(_) => {
                Some("this is an internal error of secateurs: please report it with the command you ran")
            }
            Self::Diverged(_) => Some("lower the learning rate (`lr`), or warm up longer (`warmup`)"),
            Self::Advised(_, help) => Some(help),
            Self::Input(_) | Self::Output(_) | Self::Program(_) | Self::Interrupted(..) => None,
        }
    }

    /// Writes it to standard error in cargo's style, or as a JSON line to standard output.
    pub fn show(&self, json: bool) {
        let (messages, help) = (self.messages(), self.help());
        if json {
            let value = serde_json::json!({
                "reason": "error", "code": self.code(), "messages": messages, "help": help,
            });
            // A value is JSON already: nothing can be wrong with it.
            let _ = output::print_json(&value);
            return;
        }
        let (red, cyan) = if console::has_colour() { ("\x1b[1;31m", "\x1b[1;36m") } else { ("", "") };
        for message in messages {
            output::message(red, "error", &format!(": {message}"));
        }
        if let Some(help) = help {
            output::message(cyan, "  help", &format!(": {help}"));
        }
    }
}

impl From<ProfileError> for Failure {
    fn from(error: ProfileError) -> Self {
        Self::Profile(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(error)
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        match error.help() {
            Some(help) => Self::Advised(error.to_string(), help),
            None => Self::input(error),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::File { .. } => Self::input(error),
            // The exit code of a panic.
            DeviceError::Failed { code: Some(101), .. } => Self::internal(error),
            DeviceError::Missing { .. }
            | DeviceError::Unreachable { .. }
            | DeviceError::Flood { .. }
            | DeviceError::Hangs { .. }
            | DeviceError::Start { .. }
            | DeviceError::Failed { .. } => Self::Device(error.to_string()),
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Device(error) => error.into(),
            SessionError::Unsteady(_) => Self::Unsteady(error.to_string()),
            SessionError::File { path, source } => Self::writing(&path, &source),
            // What runs there is our own program: another answer is another program's, or the line's.
            SessionError::Output { .. } => Self::Device(error.to_string()),
        }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Device(error) => error.into(),
            RuntimeError::Session(error) => error.into(),
            RuntimeError::Unsteady(_) => Self::Unsteady(error.to_string()),
            RuntimeError::File { path, source } => Self::writing(&path, &source),
            // The network is not for this runtime.
            RuntimeError::Unsupported { .. } | RuntimeError::Export { .. } => Self::Input(error.to_string()),
            RuntimeError::Missing { .. }
            | RuntimeError::Memory { .. }
            | RuntimeError::Build { .. }
            | RuntimeError::Run { .. }
            | RuntimeError::NotKept { .. }
            | RuntimeError::Output { .. } => Self::Device(error.to_string()),
        }
    }
}

macro_rules! bad_input {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::input(error)
            }
        })+
    };
}

bad_input!(BenchError, DetectorError, GraphError, ImageError);

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        use PipelineError as E;
        let text = error.to_string();
        match error {
            E::Setting(_) | E::Size(_) => Self::Usage(text),
            E::Infeasible(_) | E::Search(SearchError::Infeasible(_)) => Self::Infeasible(text),
            E::Import(error) => error.into(),
            E::Locked { .. } => Self::Locked(text),
            E::Lock(error) => Self::lock(error),
            E::Writing { source, .. } => Self::refused(source.kind(), text),
            E::Room { .. } => Self::Machine(text),
            E::Device { .. } => Self::Device(text),
            E::Session(error) => error.into(),
            E::Command(error) => by_command(error),
            E::Runtime(error) => error.into(),
            E::Training(error) => by_training(error, text),
            E::Ranks(error) | E::Repair(RepairError::Ranks(error)) | E::Importance(ImportanceError::Ranks(error)) => {
                error.into()
            }
            E::File(error) => by_file(error, text),
            E::Evaluation(error) => by_evaluation(error, text),
            E::Repair(RepairError::Engine(cause))
            | E::Importance(ImportanceError::Engine(cause))
            | E::LatencyTable(LatencyError::Engine(cause))
            | E::Engine { source: cause, .. } => by_engine(&cause, text),
            E::Input(_)
            | E::Preprocess { .. }
            | E::Data(_)
            | E::Image(_)
            | E::Importance(ImportanceError::Missing(_))
            | E::Reading { .. }
            | E::Export(_)
            | E::Repair(RepairError::NoImages | RepairError::Singular { .. })
            | E::Untimed => Self::Input(text),
            E::Surgery(_)
            | E::Importance(ImportanceError::Surgery(_))
            | E::LatencyTable(LatencyError::Surgery(_))
            | E::Search(SearchError::InvalidProblem { .. })
            | E::Graph { .. }
            | E::Backend { .. }
            | E::Serialize(_)
            | E::Json(_)
            | E::Toml(_)
            | E::Photo(_)
            | E::OneNetwork => Self::Internal(text),
        }
    }
}

impl From<RankError> for Failure {
    fn from(error: RankError) -> Self {
        let text = error.to_string();
        match error {
            RankError::NotBuilt { .. }
            | RankError::Apart { .. }
            | RankError::Environment { .. }
            | RankError::Untold { .. }
            | RankError::Nowhere { .. } => Self::Usage(text),
            RankError::Gpus(_) => Self::Device(text),
            RankError::Library(_) | RankError::Lost(_) => Self::Machine(text),
            RankError::Unsent(_) => Self::Internal(text),
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        let text = error.to_string();
        by_training(error, text)
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        let text = error.to_string();
        match by_evaluation(error, text) {
            // Here the network is the user's.
            Self::Internal(text) => Self::Input(text),
            failure => failure,
        }
    }
}

/// A benchmark command is the user's: whatever code it ends with, it is not ours that failed.
fn by_command(error: SessionError) -> Failure {
    match error {
        SessionError::Device(error @ DeviceError::Failed { .. }) => Failure::Device(error.to_string()),
        other => other.into(),
    }
}

/// Settings are the user's, and so are data and checkpoints.
fn by_training(error: TrainError, text: String) -> Failure {
    match error {
        TrainError::Setting { .. } => Failure::Usage(text),
        TrainError::Threads(_) => Failure::Machine(text),
        TrainError::Backend(_) => Failure::Internal(text),
        TrainError::Cuda(TrainingError::Cuda(_)) => Failure::Device(text),
        TrainError::Cuda(TrainingError::Memory { .. }) => Failure::Usage(text),
        TrainError::Cuda(TrainingError::Length { .. }) => Failure::Internal(text),
        TrainError::File(FileError::Io { source, .. }) => Failure::refused(source.kind(), text),
        TrainError::Diverged { .. } => Failure::Diverged(text),
        TrainError::Interrupted { signal, .. } => Failure::Interrupted(text, signal),
        TrainError::Evaluation(error) => by_evaluation(error, text),
        TrainError::Engine(cause) => by_engine(&cause, text),
        TrainError::Unfit(_)
        | TrainError::Cuda(TrainingError::Graph(_) | TrainingError::Unfit(_))
        | TrainError::Checkpoint { .. }
        | TrainError::OtherTraining { .. }
        | TrainError::Data(_)
        | TrainError::Image(_)
        | TrainError::Loss(_)
        | TrainError::Model(_)
        | TrainError::File(_) => Failure::Input(text),
        TrainError::Ranks(error) | TrainError::Cuda(TrainingError::Ranks(error)) => error.into(),
    }
}

/// Images and labels are the user's.
fn by_evaluation(error: EvalError, text: String) -> Failure {
    match error {
        EvalError::Ranks(error) => error.into(),
        EvalError::Engine(cause) | EvalError::Detector(DetectorError::Engine(cause)) => by_engine(&cause, text),
        _ => Failure::Input(text),
    }
}

/// Model files that a job writes are its own; only the disk may refuse them.
fn by_file(error: FileError, text: String) -> Failure {
    match error {
        FileError::Io { source, .. } => Failure::refused(source.kind(), text),
        FileError::Format { .. } | FileError::Model { .. } => Failure::Internal(text),
    }
}

/// The networks of a job were checked when they were read; what remains is the machine.
fn by_engine(error: &EngineError, text: String) -> Failure {
    match error {
        EngineError::OutOfMemory { .. } => Failure::Machine(text),
        EngineError::Cuda(_) => Failure::Device(text),
        EngineError::NoIsa(_) => Failure::Usage(text),
        EngineError::Graph(_) | EngineError::Input { .. } | EngineError::NoSuchNode { .. } => Failure::Internal(text),
    }
}

#[cfg(test)]
mod tests;
