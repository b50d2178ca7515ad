//! Every cause of an early end has the exit code of `docs/commands.md`.

use super::*;
use crate::data::DataError;
use crate::detector::SizeError;
use crate::emit::onnx::ExportError;
use crate::importance::{Criterion, Missing};
use crate::model::ModelError;
use crate::pipeline::Task;
use crate::surgery::SurgeryError;
use crate::train::At;
use crate::vision::PreprocessError;
use PipelineError as E;
use io::ErrorKind::{NotFound, PermissionDenied, StorageFull};
use std::path::PathBuf;

fn io(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

fn path() -> PathBuf {
    "some/file".into()
}

fn image() -> ImageError {
    ImageError::Format { path: path(), problem: "no PNG".into() }
}

fn failed(code: i32) -> SessionError {
    DeviceError::Failed { program: path(), code: Some(code), output: Vec::new() }.into()
}

fn graph() -> GraphError {
    GraphError { node: "conv".into(), problem: "has no input".into() }
}

fn out_of_memory() -> EngineError {
    EngineError::OutOfMemory { bytes: 1 << 40 }
}

const AT: At = At { epoch: 0, step: 0, steps: 1, epochs: 1 };

fn diverged() -> TrainError {
    TrainError::Diverged { at: AT, what: "loss", value: f64::NAN, lr: 1.0 }
}

/// What the user caused is never an internal error.
fn of_the_user() -> Vec<(E, u8)> {
    let data = || DataError::Yaml { path: path(), problem: "has no names".into() };
    vec![
        (E::Setting("data: drawn:0".into()), 2),
        (SizeError::Stride { size: 100.into(), stride: 32 }.into(), 2),
        (TrainError::Setting { setting: "lr", problem: "is 0".into() }.into(), 2),
        (E::Infeasible("no widths".into()), 4),
        (E::Input("a model without data".into()), 9),
        (E::Reading { path: path(), source: io(NotFound) }, 9),
        (E::Writing { path: path(), source: io(NotFound) }, 9),
        (E::Preprocess { model: "a.pt".into(), source: PreprocessError::Channels(2) }, 9),
        (data().into(), 9),
        (image().into(), 9),
        (ImportanceError::from(Missing { criterion: Criterion::BnScale, what: "a batch normalisation" }).into(), 9),
        (ExportError::TooLarge(1 << 40).into(), 9),
        (EvalError::Image(image()).into(), 9),
        (EvalError::Annotations { path: path(), problem: "has no images".into() }.into(), 9),
        (EvalError::Unfit("other classes".into()).into(), 9),
        (RepairError::NoImages.into(), 9),
        (RepairError::Singular { layer: "conv".into() }.into(), 9),
        (diverged().into(), 11),
        (TrainError::Interrupted { signal: 15, at: AT, saved: true }.into(), 143),
        (TrainError::Evaluation(EvalError::Unfit("other classes".into())).into(), 9),
        (TrainError::Unfit("no head".into()).into(), 9),
        (TrainError::Image(image()).into(), 9),
        (TrainError::Data(data()).into(), 9),
        (TrainError::Checkpoint { path: path(), problem: "is damaged".into() }.into(), 9),
        (TrainError::Model(ModelError::Missing { key: "w".into(), expected: vec![1] }).into(), 9),
        (E::Untimed, 9),
        // A benchmark command of the user, whatever it ends with.
        (E::Command(failed(1)), 7),
        (E::Command(failed(101)), 7),
        (E::Command(SessionError::Output { program: path(), problem: "printed no milliseconds".into() }), 7),
        (E::Command(DeviceError::Hangs { program: path(), seconds: 9 }.into()), 7),
    ]
}

/// What the device or this machine caused.
fn of_machines() -> Vec<(E, u8)> {
    let full = || FileError::Io { path: path(), source: io(StorageFull) };
    vec![
        (E::Session(DeviceError::Unreachable { host: "pi".into(), problem: "timed out".into() }.into()), 7),
        (failed(1).into(), 7),
        (E::Engine { task: Task::Measurement, source: EngineError::Cuda("no device".into()) }, 7),
        (E::Room { folder: path(), free: 1, needed: 2 }, 10),
        (E::Writing { path: path(), source: io(StorageFull) }, 10),
        (E::Writing { path: path(), source: io(PermissionDenied) }, 10),
        (E::File(full()), 10),
        (TrainError::File(full()).into(), 10),
        (TrainError::Evaluation(EvalError::Engine(out_of_memory())).into(), 10),
        (SessionError::File { path: path(), source: io(StorageFull) }.into(), 10),
        (E::Command(SessionError::File { path: path(), source: io(StorageFull) }), 10),
        (E::Engine { task: Task::Ranges, source: out_of_memory() }, 10),
        (EvalError::Engine(out_of_memory()).into(), 10),
        (RepairError::Engine(out_of_memory()).into(), 10),
        (ImportanceError::Engine(out_of_memory()).into(), 10),
        (LatencyError::Engine(out_of_memory()).into(), 10),
    ]
}

/// What neither the user nor a machine can do anything about.
fn of_the_program() -> Vec<(E, u8)> {
    let surgery = || SurgeryError::GroupCount { found: 1, expected: 2 };
    vec![
        (surgery().into(), 1),
        (ImportanceError::Surgery(surgery()).into(), 1),
        (LatencyError::Surgery(surgery()).into(), 1),
        (SearchError::InvalidProblem { place: "plan".into(), problem: "is empty".into() }.into(), 1),
        (E::Graph { task: Task::Memory, source: graph() }, 1),
        (E::Engine { task: Task::Ranges, source: EngineError::Graph(graph()) }, 1),
        (E::File(FileError::Format { path: path(), problem: "no header".into() }), 1),
        (E::Serialize("no header".into()), 1),
        (E::Photo(image()), 1),
        (E::OneNetwork, 1),
        // Our own program on the device, with the exit code of a panic.
        (failed(101).into(), 1),
    ]
}

#[test]
fn every_cause_has_its_exit_code_and_keeps_its_message() {
    for (error, code) in [of_the_user(), of_machines(), of_the_program()].into_iter().flatten() {
        let text = error.to_string();
        let failure = Failure::from(error);
        assert_eq!(failure.code(), code, "{text}");
        assert_eq!(failure.messages(), [text]);
    }
}

#[test]
fn errors_say_what_was_being_done() {
    let of = |error: E| error.to_string();
    for (error, words) in [
        (of(E::Engine { task: Task::Ranges, source: out_of_memory() }), "quantization ranges: "),
        (of(E::Graph { task: Task::LatencyTable, source: graph() }), "latency table: "),
        (of(diverged().into()), "fine-tuning: training diverged at step 1 of epoch 1"),
        (of(EvalError::Engine(out_of_memory()).into()), "evaluation: "),
    ] {
        assert!(error.starts_with(words), "{error}");
    }
}
