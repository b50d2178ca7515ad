//! Measures networks in other runtimes on the device of a profile: TensorRT through `trtexec`, ONNX Runtime and ncnn
//! through their Python packages.
//!
//! 1. A script of ours goes to the device through the profile's runner, and asks the runtime for its version, which
//!    becomes part of the machine's fingerprint.
//! 2. A network goes there as an ONNX file. An engine is built of it in the network's dtype, and kept on the device by the
//!    hash of file, flags, version and GPU.
//! 3. Frames are timed in windows, as the inference binary's are; layers are timed in a run of their own; outputs are
//!    taken on images, so that the accuracy is that of the same engine.
//!
//! What is there is untrusted: answers are bounded and parsed, and no text of a profile, a model or a device becomes part
//! of a command. It knows nothing about plans and budgets.

mod adapter;
mod answer;
mod attribute;
mod failure;
mod network;

pub use failure::RuntimeError;
pub use network::Network;

use crate::bench::{PairedTimes, Samples};
use crate::board::{Board, State, judge};
use crate::device::{self, AnswerLimits, Runner};
use crate::engine::LeastTimes;
use crate::graph::Dtype;
use crate::model::Model;
use crate::profile::{Connect, Profile, RuntimeKind};
use crate::session::{self, Session, TRIES, Unsteady};
use crate::size::ImageSize;
use adapter::{Adapter, Line};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Frames of a window, and of a run that times layers.
const WINDOW: usize = 100;

/// At most this many windows are taken of a pair, whatever was asked for.
const MAX_WINDOWS: usize = 1000;

/// Bytes that a value takes in an answer, and the most bytes of outputs in one.
const VALUE_BYTES: usize = 16;
const ANSWER_BYTES: usize = 32 << 20;

/// The most images that one program takes: their files lie on the device meanwhile.
const MOST_IMAGES: usize = 16;

/// An engine is tried that long: `trtexec` times every kernel for every layer, on small boards for many minutes.
const BUILD: AnswerLimits = AnswerLimits { bytes: 1 << 20, time: Some(Duration::from_secs(2 * 3600)) };

/// A runtime on a device.
pub struct Runtime {
    adapter: Adapter,
    runner: Arc<dyn Runner>,
    /// The inference binary on the device, where there is one: it tells what the machine is and does.
    session: Option<Session>,
    /// Whether windows count only while the machine is not throttled.
    require_idle: bool,
    simulated: Option<String>,
    version: String,
    /// What it runs on, as the runtime or the device names it.
    on: String,
    board: String,
    /// Scripts and exported networks.
    folder: tempfile::TempDir,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Runtime").field("name", &self.name()).field("simulated", &self.simulated).finish()
    }
}

impl Runtime {
    /// The runtime of a profile. `binary` is the inference binary built for the device; without it the machine is known
    /// only where it is this one.
    ///
    /// # Errors
    /// If the device cannot be reached, or the runtime is not there.
    pub fn open(profile: &Profile, binary: Option<&Path>) -> Result<Self, RuntimeError> {
        let runner: Arc<dyn Runner> = Arc::from(device::runner(profile)?);
        let session =
            binary.map(|binary| Session::with_runner(Box::new(runner.clone()), profile, binary)).transpose()?;
        let here = || {
            let board = Board::read(Path::new("/"));
            (session::simulated(profile, &board, false), board.fingerprint())
        };
        let (simulated, board) = match &session {
            _ if runner.emulates() => (Some("it is emulated".into()), String::new()),
            Some(session) => (session.simulated().map(str::to_owned), session.fingerprint()),
            None if profile.connect == Connect::Local => here(),
            None => (None, profile.device.name.clone()),
        };
        let threads = session.as_ref().map_or(profile.device.threads, Session::threads);
        let file = |path: &Path, source| RuntimeError::File { path: path.into(), source };
        let folder = tempfile::Builder::new().prefix("secateurs-").tempdir();
        let folder = folder.map_err(|e| file(&std::env::temp_dir(), e))?;
        let adapter = Adapter::new(profile, threads, folder.path()).map_err(|e| file(folder.path(), e))?;
        let require_idle = profile.bench.require_idle;
        let (version, on) = (String::new(), String::new());
        let mut found = Self { adapter, runner, session, require_idle, simulated, version, on, board, folder };
        if !found.runner.emulates() {
            let text = found.call(&found.adapter.about(), &AnswerLimits::SHORT)?;
            (found.version, found.on) = about(&String::from_utf8_lossy(&text));
            if found.version.is_empty() {
                return Err(found.odd("no version in what it says of itself".into()));
            }
        }
        Ok(found)
    }

    /// The runtime and its version.
    pub fn name(&self) -> String {
        format!("{} {}", self.adapter.kind.name(), self.version).trim_end().to_owned()
    }

    /// Machine and runtime in one line, for caches and reports.
    pub fn fingerprint(&self) -> String {
        let on = if self.on.is_empty() { String::new() } else { format!(" on {}", self.on) };
        let name = self.name();
        if self.board.is_empty() { format!("{name}{on}") } else { format!("{}, {name}{on}", self.board) }
    }

    /// What measurements depend on beside the machine: the scripts that drive the runtime.
    pub fn conditions(&self) -> Vec<String> {
        vec![self.fingerprint(), Adapter::scripts(), format!("{:?}", self.adapter.kind)]
    }

    /// Why times from there mean nothing, where they do.
    pub fn simulated(&self) -> Option<&str> {
        self.simulated.as_deref()
    }

    /// Whether int8 ranges must lie around zero.
    pub fn is_zero_centred(&self) -> bool {
        self.adapter.kind == RuntimeKind::TensorRt
    }

    /// The inference binary on the device, where there is one.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Exports a model, and builds its engine on the device unless one is kept there.
    ///
    /// # Errors
    /// If the runtime refuses the model, or the device fails.
    pub fn network(&self, model: &Model, size: ImageSize) -> Result<Network, RuntimeError> {
        let built_by = format!("{} {}", self.name(), self.on);
        let (runtime, flags) = (self.adapter.kind.name(), self.adapter.flags(&model.graph));
        let network = Network::new(model, size, runtime, flags, &built_by, self.folder.path())?;
        self.build(&network)?;
        Ok(network)
    }

    fn build(&self, network: &Network) -> Result<(), RuntimeError> {
        if self.adapter.builds() {
            self.call(&self.adapter.build(network), &BUILD)?;
        }
        Ok(())
    }

    /// Times two networks, window after window in changing order, until there are `runs` frames of each. The second value
    /// says whether their frames ran in turn: only then are they pairs of neighbours.
    ///
    /// # Errors
    /// If a network does not run, the device fails, or it was throttled in every try.
    pub fn pair(
        &self,
        one: &Network,
        other: &Network,
        runs: usize,
        warmup: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(PairedTimes, bool), RuntimeError> {
        let (mut a, mut b) = (Samples::default(), Samples::default());
        let runs = runs.clamp(1, MAX_WINDOWS * WINDOW);
        let mut turned = true;
        while a.wall.len() < runs {
            turned = !turned;
            let left = runs - a.wall.len();
            // Windows of the same length.
            let frames = left.div_ceil(left.div_ceil(WINDOW));
            let order = if turned { [other, one] } else { [one, other] };
            let [first, second] = self.window(order, frames, warmup)?;
            let (of_a, of_b) = if turned { (second, first) } else { (first, second) };
            a.wall.extend(of_a);
            b.wall.extend(of_b);
            progress(a.wall.len().min(runs), runs);
        }
        Ok((PairedTimes::of(&a, &b), self.adapter.interleaves()))
    }

    /// A window in which the machine was not throttled.
    fn window(&self, networks: [&Network; 2], frames: usize, warmup: usize) -> Result<[Vec<f64>; 2], RuntimeError> {
        let mut reasons = Vec::new();
        for _ in 0..TRIES {
            let before = self.state()?;
            let times = self.times(&networks, frames, warmup)?;
            // The clock may rest between programs: what it says then is no frequency of the frames.
            let states = [before, self.state()?].map(|state| State { mhz: None, ..state });
            let against = match self.simulated {
                Some(_) => Vec::new(),
                None => judge(&states, None, self.require_idle),
            };
            if against.is_empty() {
                return times.try_into().map_err(|_| self.odd("times of another number of networks".into()));
            }
            reasons.extend(against);
        }
        Err(Unsteady { tries: TRIES, reasons }.into())
    }

    fn state(&self) -> Result<State, RuntimeError> {
        Ok(match &self.session {
            Some(session) => session.state()?,
            None => State::read(Path::new("/")),
        })
    }

    fn times(&self, networks: &[&Network], frames: usize, warmup: usize) -> Result<Vec<Vec<f64>>, RuntimeError> {
        let answer = self.on_engines(networks, &self.adapter.time(networks, frames, warmup))?;
        answer::times(&answer, networks.len(), frames).map_err(|problem| self.odd(problem))
    }

    /// The times of a network's layers and frames; those of layers are 0 where the runtime tells nothing of them.
    ///
    /// # Errors
    /// As [`Runtime::pair`].
    pub fn layers(&self, network: &Network, warmup: usize) -> Result<LeastTimes, RuntimeError> {
        let frames = self.times(&[network], WINDOW, warmup)?.pop().unwrap_or_default();
        let [_, height, width] = network.shape;
        let none = || vec![0.0; network.graph.nodes.len()];
        let nodes = match self.adapter.profile(network, WINDOW, warmup) {
            None => none(),
            Some(line) => {
                let answer = self.on_engines(&[network], &line)?;
                let layers = answer::layers(&answer).map_err(|problem| self.odd(problem))?;
                let found = attribute::by_node(&network.graph, (height, width), &layers);
                found.map_err(|e| self.odd(e.to_string()))?
            }
        };
        Ok(LeastTimes { frame: nodes.iter().sum(), nodes, frames })
    }

    /// The outputs `output0` of a network for inputs `[C, height, width]`, as the exported file gives them.
    ///
    /// # Errors
    /// As [`Runtime::pair`].
    pub fn outputs(&self, network: &Network, inputs: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let [_, height, width] = network.shape;
        // Of a detector at most a value for every row of every cell of stride 8, and coarser ones; of a classifier less.
        let rows = 4 + network.graph.classes() + network.head().extra();
        let values = rows * (height.div_ceil(8) * width.div_ceil(8) * 2).max(1);
        let most = (ANSWER_BYTES / (values * VALUE_BYTES)).clamp(1, MOST_IMAGES);
        let mut all = Vec::with_capacity(inputs.len());
        for part in inputs.chunks(most) {
            let files = self.written(part)?;
            let answer = self.on_engines(&[network], &self.adapter.outputs(network, &files));
            files.iter().for_each(|file| drop(fs::remove_file(file)));
            all.extend(answer::outputs(&answer?, part.len()).map_err(|problem| self.odd(problem))?);
        }
        Ok(all)
    }

    /// Inputs as files of little-endian f32.
    fn written(&self, inputs: &[Vec<f32>]) -> Result<Vec<PathBuf>, RuntimeError> {
        let write = |(at, input): (usize, &Vec<f32>)| {
            let path = self.folder.path().join(format!("input-{at}.f32"));
            let bytes: Vec<u8> = input.iter().flat_map(|value| value.to_le_bytes()).collect();
            fs::write(&path, bytes).map_err(|source| RuntimeError::File { path: path.clone(), source })?;
            Ok(path)
        };
        inputs.iter().enumerate().map(write).collect()
    }

    /// Runs a program that needs engines of networks; one that is gone, or another version's, is built again once.
    fn on_engines(&self, networks: &[&Network], line: &Line) -> Result<Vec<u8>, RuntimeError> {
        match self.call(line, &AnswerLimits::LONG) {
            Err(RuntimeError::NotKept { .. }) => {
                let mut keys = BTreeSet::new();
                for network in networks.iter().filter(|network| keys.insert(&network.key)) {
                    self.call(&self.adapter.forget(network), &AnswerLimits::SHORT)?;
                    self.build(network)?;
                }
                self.call(line, &AnswerLimits::LONG)
            }
            done => done,
        }
    }

    fn call(&self, line: &Line, limits: &AnswerLimits) -> Result<Vec<u8>, RuntimeError> {
        let kind = self.adapter.kind;
        self.runner.run_within(&line.program, &line.arguments, limits).map_err(|error| failure::of(kind, error))
    }

    fn odd(&self, problem: String) -> RuntimeError {
        RuntimeError::Output { runtime: self.adapter.kind.name(), problem }
    }
}

/// Version and machine, from what a program says of itself: for TensorRT the first line of `trtexec` (`... [TensorRT
/// v8601] ...`, from version 10 on two digits for each part but the first), for others the version alone.
fn about(text: &str) -> (String, String) {
    let clean = |line: &str| -> String { line.chars().filter(|c| !c.is_control()).take(100).collect() };
    let mut lines = text.lines().map(clean).filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default();
    let on = lines.next().unwrap_or_default().trim().to_owned();
    let version = match first.split_once("[TensorRT v") {
        Some((_, rest)) => tensorrt_version(rest.split(']').next().unwrap_or_default()),
        None if first.starts_with(|c: char| c.is_ascii_digit()) => first.trim().to_owned(),
        None => String::new(),
    };
    (version, on)
}

/// `8601` is 8.6.1, `100300` is 10.3.0, and so is `8.6.1` itself.
fn tensorrt_version(digits: &str) -> String {
    let Ok(number) = digits.parse::<u32>() else {
        let plain = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
        return if plain { digits.to_owned() } else { String::new() };
    };
    let [major, minor, patch] = match number {
        0..10_000 => [number / 1000, number / 100 % 10, number % 100],
        _ => [number / 10_000, number / 100 % 100, number % 100],
    };
    format!("{major}.{minor}.{patch}")
}

/// Whether a runtime computes networks in a dtype, in words where it does not.
///
/// # Errors
/// Names what it computes in.
pub fn check_dtype(kind: RuntimeKind, dtype: Dtype) -> Result<(), String> {
    if kind.dtypes().contains(&dtype) {
        return Ok(());
    }
    let all: Vec<&str> = kind.dtypes().iter().map(|dtype| dtype.name()).collect();
    Err(format!(
        "{} computes exported networks in {}, and the dtype is {}",
        kind.name(),
        all.join(" or "),
        dtype.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        let cases = [
            ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --help\n\nOrin\n", "8.6.1", "Orin"),
            ("&&&& RUNNING TensorRT.trtexec [TensorRT v8503] # trtexec --help\n", "8.5.3", ""),
            (
                "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b26] # trtexec\nNVIDIA H200\n",
                "10.3.0",
                "NVIDIA H200",
            ),
            ("&&&& RUNNING TensorRT.trtexec [TensorRT v101601]\n", "10.16.1", ""),
            ("1.32.0\nCPUExecutionProvider\n", "1.32.0", "CPUExecutionProvider"),
            ("usage: something else\n", "", ""),
            ("&&&& RUNNING TensorRT.trtexec [TensorRT v\x1b[31m]\n", "", ""),
            ("", "", ""),
        ];
        for (text, version, on) in cases {
            assert_eq!(about(text), (version.to_owned(), on.to_owned()), "{text}");
        }
    }
}
