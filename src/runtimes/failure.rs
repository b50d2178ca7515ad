//! Why another runtime gave no result, from its exit code and the end of its log.
//!
//! Logs differ from version to version. What is looked for stands in those of TensorRT 8 to 10: lines of errors carry
//! `[E]`, the parser names the node that it does not take, the builder the one that it finds no kernel for.

use crate::device::DeviceError;
use crate::emit::onnx::ExportError;
use crate::profile::RuntimeKind;
use crate::session::{SessionError, Unsteady};
use std::path::PathBuf;
use thiserror::Error;

/// Exit codes of the programs that drive runtimes.
const MISSING: i32 = 60;
const NOT_BUILT: i32 = 61;
const NOT_RUN: i32 = 62;
const NOT_KEPT: i32 = 63;

/// The longest reason that is quoted, characters.
const LONGEST: usize = 400;

/// Words of logs that say that memory ran out.
const MEMORY: [&str; 7] = [
    "out of memory",
    "OutOfMemory",
    "cudaErrorMemoryAllocation",
    "std::bad_alloc",
    "Failed to allocate memory",
    "insufficient memory",
    // A process that the system killed: it does that where memory is short.
    "ended with code 137",
];

/// Lines of errors that only say that another one came before.
const EMPTY: [&str; 12] = [
    "Failed to parse onnx file",
    "Parsing model failed",
    "Engine set up failed",
    "Engine could not be created from network",
    "Building engine failed",
    "Failed to create engine from model",
    "Engine could not be created",
    "Inference set up failed",
    "Got invalid engine",
    "Engine deserialization failed",
    "--- Begin node ---",
    "--- End node ---",
];

/// A measurement in another runtime that came to no result.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The device failed, or is lost.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The inference binary, which tells what the device is, failed there.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The device was throttled or busy in every try.
    #[error(transparent)]
    Unsteady(#[from] Unsteady),
    /// The network cannot be exported.
    #[error("ONNX export for {runtime}: {source}")]
    Export {
        /// The runtime.
        runtime: &'static str,
        /// The cause.
        source: ExportError,
    },
    /// A file of this machine cannot be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The runtime is not on the device.
    #[error("{runtime} is not on the device: {help}{}", detail(said))]
    Missing {
        /// The runtime.
        runtime: &'static str,
        /// What to do.
        help: &'static str,
        /// What its program said.
        said: String,
    },
    /// A layer is one that the runtime does not take.
    #[error("{runtime} does not take the layer `{layer}`{}: {reason}", of_kind(operator))]
    Unsupported {
        /// The runtime.
        runtime: &'static str,
        /// The layer, or the tensor that it makes.
        layer: String,
        /// Its operator; empty where it is not said.
        operator: String,
        /// What the runtime said.
        reason: String,
    },
    /// The device has too little memory to build or run the network.
    #[error("{runtime} ran out of memory on the device: {reason}")]
    Memory {
        /// The runtime.
        runtime: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// The network cannot be built.
    #[error("{runtime} builds no engine of the network: {reason}")]
    Build {
        /// The runtime.
        runtime: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// The network does not run.
    #[error("{runtime} does not run the network: {reason}")]
    Run {
        /// The runtime.
        runtime: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// An engine that was built is not there any more, or is another version's.
    #[error("{runtime}: its engine is gone from the device again and again")]
    NotKept {
        /// The runtime.
        runtime: &'static str,
    },
    /// What its program printed is not what it should.
    #[error("{runtime}: its output cannot be read: {problem}")]
    Output {
        /// The runtime.
        runtime: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

fn detail(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" ({said})") }
}

fn of_kind(operator: &str) -> String {
    if operator.is_empty() { String::new() } else { format!(" ({operator})") }
}

/// The failure behind the exit code of a program that drives a runtime; the code's own where it is none of theirs.
pub(super) fn of(kind: RuntimeKind, error: DeviceError) -> RuntimeError {
    let DeviceError::Failed { code: Some(code), output, .. } = &error else { return error.into() };
    let (runtime, log) = (kind.name(), String::from_utf8_lossy(output).into_owned());
    match *code {
        MISSING => RuntimeError::Missing { runtime, help: help(kind), said: last_line(&log) },
        NOT_KEPT => RuntimeError::NotKept { runtime },
        NOT_RUN if is_stale(&log) => RuntimeError::NotKept { runtime },
        code @ (NOT_BUILT | NOT_RUN) => classify(runtime, &log, code == NOT_BUILT),
        _ => error.into(),
    }
}

/// How a runtime gets onto the device.
fn help(kind: RuntimeKind) -> &'static str {
    match kind {
        RuntimeKind::TensorRt => {
            "install JetPack's TensorRT (sudo apt-get install tensorrt), or name trtexec with [bench] program"
        }
        RuntimeKind::OnnxRuntime => "pip install onnxruntime, or name its Python with [bench] program",
        _ => "pip install ncnn pnnx, or name their Python with [bench] program",
    }
}

/// Whether an engine is of another version or GPU, or damaged.
fn is_stale(log: &str) -> bool {
    ["Engine deserialization failed", "deserializeCudaEngine", "Error Code 1: Serialization"]
        .iter()
        .any(|sign| log.contains(sign))
}

fn classify(runtime: &'static str, log: &str, building: bool) -> RuntimeError {
    // TensorRT warns of tactics that it skips for lack of memory: only errors count.
    let errors: Vec<&str> = match log.contains("[E]") {
        true => log.lines().filter(|line| line.contains("[E]") || line.starts_with("ended with code")).collect(),
        false => log.lines().collect(),
    };
    if let Some(line) = errors.iter().find(|line| MEMORY.iter().any(|sign| line.contains(sign))) {
        return RuntimeError::Memory { runtime, reason: told(line) };
    }
    let reason = reason(log, &errors);
    if let Some((layer, operator)) = refused(log) {
        return RuntimeError::Unsupported { runtime, layer: told(layer), operator: told(operator), reason };
    }
    match building {
        true => RuntimeError::Build { runtime, reason },
        false => RuntimeError::Run { runtime, reason },
    }
}

/// The layer that a log blames, and its operator where that is named.
fn refused(log: &str) -> Option<(&str, &str)> {
    // `While parsing node number 12 [NonZero -> "output"]:`
    let parsed = log.split_once("While parsing node number ").and_then(|(_, rest)| {
        let inside = rest.split_once('[')?.1.split_once(']')?.0;
        let (operator, tensor) = inside.split_once(" -> ").unwrap_or((inside, inside));
        Some((tensor.trim_matches('"'), operator.trim()))
    });
    // `In node 12 with name: output and operator: NonZero (checkFallbackPluginImporter): UNSUPPORTED_NODE: ...`
    let named = || {
        let (_, rest) = log.split_once("with name: ")?;
        let (name, rest) = rest.split_once(" and operator: ")?;
        Some((name, rest.split([' ', '(']).next()?))
    };
    // `Could not find any implementation for node {ForeignNode[a...b]}.`
    let built = || {
        let (_, rest) = log.split_once("Could not find any implementation for node ")?;
        Some((rest.lines().next()?.trim_end_matches(['.', ')']), ""))
    };
    parsed.or_else(named).or_else(built).filter(|(layer, _)| !layer.is_empty())
}

/// The first line of errors that says more than that there was one.
fn reason(log: &str, errors: &[&str]) -> String {
    let says = |line: &&&str| {
        let text = told(line);
        !text.is_empty() && !EMPTY.iter().any(|empty| text.contains(empty)) && !text.contains("While parsing node")
    };
    let found = errors.iter().find(says).map_or_else(|| last_line(log), |line| told(line));
    if found.is_empty() { "it gave no reason".into() } else { found }
}

fn last_line(log: &str) -> String {
    log.lines().rev().map(told).find(|line| !line.is_empty()).unwrap_or_default()
}

/// A line of a log for people: without its time and level, at most [`LONGEST`] characters, without control characters.
fn told(line: &str) -> String {
    let text = line.split_once("[E] ").map_or(line, |(_, rest)| rest);
    let text = text.strip_prefix("[TRT] ").unwrap_or(text).trim();
    let clean = text.chars().filter(|c| !c.is_control());
    let short: String = clean.clone().take(LONGEST).collect();
    if clean.count() > LONGEST { short + "..." } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(log: &str) -> String {
        classify("TensorRT", log, true).to_string()
    }

    /// Logs as versions 8.2 to 10.3 write them.
    #[test]
    fn logs_name_the_layer_the_memory_or_the_reason() {
        let parsed = "[09/02/2024-17:35:22] [E] [TRT] ModelImporter.cpp:949: While parsing node number 146 [Tile -> \
                      \"/Tile_output_0\"]:\n[09/02/2024-17:35:22] [E] [TRT] ModelImporter.cpp:954: ERROR: \
                      ModelImporter.cpp:195 In function parseNode:\n[6] Invalid Node - /Tile\n[09/02/2024-17:35:22] [E] \
                      Failed to parse onnx file\n&&&& FAILED TensorRT.trtexec [TensorRT v100300] # trtexec";
        let found = built(parsed);
        assert!(found.starts_with("TensorRT does not take the layer `/Tile_output_0` (Tile): "), "{found}");
        assert!(found.contains("In function parseNode"), "{found}");
        let kernel = "[I] Building\n[01/01/2025-00:00:00] [E] Error[10]: Could not find any implementation for node \
                      {ForeignNode[model.10.m.0.attn/packed...model.10.m.0.attn/mixed]}.\n[E] Engine could not be \
                      created from network\n";
        let found = built(kernel);
        assert!(found.contains("`{ForeignNode[model.10.m.0.attn/packed...model.10.m.0.attn/mixed]}`"), "{found}");
        let named = "[E] [TRT] In node 12 with name: output and operator: NonZero (checkFallbackPluginImporter): \
                     UNSUPPORTED_NODE: Assertion failed: creator\n";
        assert!(built(named).starts_with("TensorRT does not take the layer `output` (NonZero)"), "{}", built(named));
        let memory = "[W] [TRT] Skipping tactic 3 due to insufficient memory on requested size of 100 detected\n[E] \
                      Error[2]: [virtualMemoryBuffer.cpp::resizePhysical::127] Error Code 2: OutOfMemory (no further \
                      information)\n";
        assert!(built(memory).starts_with("TensorRT ran out of memory on the device: Error[2]"), "{}", built(memory));
        // Skipped tactics are warnings of builds that succeed.
        let other =
            memory.lines().next().unwrap().to_owned() + "\n[E] Error[4]: internal\n[E] Building engine failed\n";
        assert_eq!(built(&other), "TensorRT builds no engine of the network: Error[4]: internal");
        assert!(built("Killed\nended with code 137").starts_with("TensorRT ran out of memory"));
        assert_eq!(built(""), "TensorRT builds no engine of the network: it gave no reason");
        let hostile = format!("[E] \x1b]52;c;x\x07{}\n", "y".repeat(100_000));
        let found = built(&hostile);
        assert!(found.len() < 600 && !found.contains('\x1b'), "{} bytes", found.len());
    }

    #[test]
    fn codes_say_what_is_missing_and_what_is_stale() {
        let of = |code, output: &str| {
            let output = output.as_bytes().to_vec();
            super::of(RuntimeKind::TensorRt, DeviceError::Failed { program: "t".into(), code: Some(code), output })
        };
        assert!(matches!(of(60, ""), RuntimeError::Missing { .. }) && of(60, "").to_string().contains("JetPack"));
        let stale = "[E] Error[1]: [runtime.cpp::parsePlan::455] Error Code 1: Serialization (assertion failed)\n";
        assert!(matches!(of(62, stale), RuntimeError::NotKept { .. }));
        assert!(matches!(of(63, ""), RuntimeError::NotKept { .. }));
        assert!(matches!(of(62, "[E] Cuda failure: illegal address"), RuntimeError::Run { .. }));
        assert!(matches!(of(7, ""), RuntimeError::Device(_)));
    }
}
