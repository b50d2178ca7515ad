//! Measures networks on a device in short windows; a window counts only if the machine was not throttled or busy
//! meanwhile.
//!
//! 1. Ask the device what it is. Under emulation, or on another machine than the profile's, results are labelled and
//!    no window is judged: there is nothing to claim.
//! 2. Take windows until there are enough frames. A window is one run of a program on the device; a connection that
//!    drops costs one window, not the session.
//! 3. Discard a window that [`board::judge`] finds throttled or busy, and take it again; after three tries the session
//!    ends without a result.

mod windows;

pub use windows::{Collected, TRIES, Unsteady, collect};

use crate::bench::{Distribution, Energy, Measured, PairedNetwork, PairedTimes, TableSpec, Window, upper_bound};
use crate::board::{self, Board, State};
use crate::device::{self, AnswerLimits, Argument, DeviceError, Runner};
use crate::engine::LeastTimes;
use crate::files;
use crate::profile::Profile;
use crate::size::ImageSize;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Frames of a window.
const WINDOW: usize = 100;

/// Rounds of a latency table per run of the program.
const TABLE_ROUNDS: usize = 2;

/// At most this many times the requested frames are taken, so that they give a bound.
const MOST_TIMES: usize = 3;

/// Frames that prove that a program runs, where no latency is claimed.
const PROOF: usize = 3;

/// A measurement that came to no result.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A program could not be run there.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device was throttled or busy in every try.
    #[error(transparent)]
    Unsteady(#[from] Unsteady),
    /// What a program printed is not what it should.
    #[error("{program}: its output cannot be read: {problem}")]
    Output {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of this machine cannot be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// An interleaved measurement of two networks, and how it was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The network, and the one whose frames were interleaved with its frames.
    #[serde(flatten)]
    pub measured: Measured,
    /// The machine in one line.
    pub device: String,
    /// Why no latency is claimed, where none is: the device is emulated, or another one than the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated: Option<String>,
    /// Windows that count.
    pub windows: usize,
    /// Why the others were discarded.
    pub discarded: Vec<String>,
    /// The network's frames of all windows, with those of discarded ones, where there are any: this shows how much they
    /// change the figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_windows: Option<Distribution>,
    /// The machine before the first window, after its warm-up.
    pub before: State,
    /// The machine after the last window.
    pub after: State,
}

/// How a comparison is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frames {
    /// Size of the image.
    pub imgsz: ImageSize,
    /// Images of a frame; all times are those of the whole batch.
    pub batch: usize,
    /// Warm-up frames of every window, which are not timed.
    pub warmup: usize,
    /// Timed frames of all windows together.
    pub runs: usize,
    /// Whether decoding, preparing and detecting in a photo are timed, too.
    pub phases: bool,
    /// A percentile that needs a bound: where frames depend on each other so much that there is none, up to
    /// [`MOST_TIMES`] as many frames are taken.
    pub percentile: Option<u8>,
}

/// A device with the program that measures there.
pub struct Session {
    runner: Box<dyn Runner>,
    binary: PathBuf,
    threads: usize,
    /// Whether each thread is bound to a CPU.
    pin: bool,
    /// Whether windows count only while the machine is neither throttled nor busy.
    require_idle: bool,
    board: Board,
    simulated: Option<String>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Session").field("board", &self.board).field("simulated", &self.simulated).finish()
    }
}

#[derive(Deserialize)]
struct About {
    board: Board,
}

impl Session {
    /// Asks the device of a profile what it is, through the inference binary built for it.
    ///
    /// # Errors
    /// If the program cannot be run there.
    pub fn open(profile: &Profile, binary: &Path) -> Result<Self, SessionError> {
        Self::with_runner(device::runner(profile)?, profile, binary)
    }

    /// As [`Session::open`], through a given runner.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn with_runner(runner: Box<dyn Runner>, profile: &Profile, binary: &Path) -> Result<Self, SessionError> {
        let output = runner.run_within(binary, &[text("device"), text("--json")], &AnswerLimits::SHORT)?;
        let About { board } = parse(binary, &output)?;
        let simulated = simulated(profile, &board, runner.emulates());
        let (pin, require_idle) = (profile.device.pin, profile.bench.require_idle);
        // The program there starts no more either; where it is only simulated, it proves that it runs, and no more.
        let most = board.available.filter(|n| *n > 0 && simulated.is_none()).unwrap_or(usize::MAX);
        let threads = profile.device.threads.min(most);
        Ok(Self { runner, binary: binary.into(), threads, pin, require_idle, board, simulated })
    }

    /// The session with `require_idle` in place of the profile's `[bench] quiet`.
    pub fn with_idle_check(self, require_idle: bool) -> Self {
        Self { require_idle, ..self }
    }

    /// The machine.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Threads of the network there: the profile's, at most one for each CPU.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The machine in one line, for caches and reports.
    pub fn fingerprint(&self) -> String {
        let note = self.simulated.as_ref().map(|why| format!(", simulated ({why})")).unwrap_or_default();
        self.board.fingerprint() + &note
    }

    /// The program that measures there.
    pub fn program(&self) -> &Path {
        &self.binary
    }

    /// Whether each of its threads is bound to a CPU.
    pub fn pins(&self) -> bool {
        self.pin
    }

    /// Why times from there mean nothing, where they do.
    pub fn simulated(&self) -> Option<&str> {
        self.simulated.as_deref()
    }

    /// Measures a model file (the embedded model without one), interleaved with another one.
    ///
    /// # Errors
    /// If the device is lost, or was throttled or busy in every try.
    pub fn measure_paired(
        &self,
        model: Option<&Path>,
        other: &Path,
        frames: &Frames,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Record, SessionError> {
        let proof = self.simulated.is_some();
        let (runs, warmup) = if proof { (PROOF, 0) } else { (frames.runs.max(1), frames.warmup) };
        let mut done = 0;
        let mut take = |runs_here: usize| -> Result<Window, SessionError> {
            let mut arguments = vec![text("window"), text("--runs"), text(&runs_here)];
            arguments.extend([text("--warmup"), text(&warmup), text("--threads"), text(&self.threads)]);
            arguments.extend([text("--imgsz"), text(&frames.imgsz)]);
            if frames.batch > 1 {
                arguments.extend([text("--batch"), text(&frames.batch)]);
            }
            arguments.extend(model.iter().flat_map(|model| [text("--model"), Argument::File(model.to_path_buf())]));
            arguments.extend([text("--against"), Argument::File(other.into())]);
            if self.pin {
                arguments.push(text("--pin"));
            }
            if frames.phases && !proof && done == 0 {
                arguments.push(text("--phases"));
            }
            let window: Window = parse(&self.binary, &self.runner.run(&self.binary, &arguments)?)?;
            done = (done + runs_here).min(runs);
            progress(done, runs);
            Ok(window)
        };
        let require_idle = (!proof).then_some(self.require_idle);
        let mut collected = collect(runs, WINDOW, require_idle, &mut take)?;
        for _ in 1..MOST_TIMES {
            let wall = &collected.network.samples.wall;
            let wanted = frames.percentile.filter(|_| !proof && runs >= WINDOW);
            if wanted.is_none_or(|percentile| upper_bound(wall, percentile.into()).is_some()) {
                break;
            }
            collected.add(collect(runs, WINDOW, require_idle, &mut take)?);
        }
        Ok(self.record(collected, frames))
    }

    fn record(&self, collected: Collected, frames: &Frames) -> Record {
        let Collected { windows, discarded, network, against, everything } = collected;
        let everything = Distribution::of(&everything.samples.wall, &everything.samples.cpu);
        let pair = PairedTimes::of(&against.samples, &network.samples);
        let rails = if self.simulated.is_some() { None } else { rails(&windows) };
        let paired = PairedNetwork {
            latency: pair.a,
            peak_memory_bytes: against.peak_memory_bytes,
            ratio: pair.ratio,
            pair_ratio: pair.pair_ratio,
            pair_ratio_bound: pair.pair_ratio_bound,
            cpu_ratio: pair.cpu_ratio,
            energy: rails.as_ref().and_then(|_| Energy::of(&against.energy_mj)),
        };
        let first = windows.first();
        let energy = rails.as_ref().and_then(|_| Energy::of(&network.energy_mj));
        let state = |state: Option<&State>| state.cloned().unwrap_or_default();
        Record {
            measured: Measured {
                latency: Distribution::of(&network.samples.wall, &network.samples.cpu),
                peak_memory_bytes: network.peak_memory_bytes,
                threads: self.threads,
                imgsz: frames.imgsz,
                batch: frames.batch.max(1),
                peak_resident_bytes: windows.iter().filter_map(|w| w.peak_resident_bytes).max(),
                phases: windows.iter().find_map(|w| w.phases),
                energy,
                rails,
                against: Some(paired),
            },
            device: self.board.fingerprint(),
            simulated: self.simulated.clone(),
            windows: windows.len(),
            all_windows: (!discarded.is_empty()).then_some(everything),
            discarded,
            before: state(first.and_then(|w| w.states.first())),
            after: state(windows.last().and_then(|w| w.states.last())),
        }
    }

    /// Times the layers of many networks, interleaved, a few rounds at a time. Other load only makes single rounds
    /// longer, and the least time counts; rounds in which the machine was throttled are taken again.
    ///
    /// # Errors
    /// If the device is lost, or was throttled in every try.
    pub fn table(
        &self,
        spec: &TableSpec,
        folder: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<LeastTimes>, SessionError> {
        let io = |source| SessionError::File { path: folder.into(), source };
        let own = files::temporary_folder(folder).map_err(io)?;
        let taken = self.table_in(spec, &own, progress);
        let _ = std::fs::remove_dir_all(&own);
        taken
    }

    fn table_in(
        &self,
        spec: &TableSpec,
        own: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<LeastTimes>, SessionError> {
        let mut least: Vec<LeastTimes> = spec.networks.iter().map(|g| LeastTimes::unseen(g.nodes.len())).collect();
        let mut done = 0;
        while done < spec.rounds.max(1) {
            let rounds = TABLE_ROUNDS.min(spec.rounds.max(1) - done);
            let part = TableSpec { rounds, seed: spec.seed.wrapping_add(done as u64), ..spec.clone() };
            let path = own.join("table.json");
            let io = |source| SessionError::File { path: path.clone(), source };
            files::write_atomic(&path, &serde_json::to_vec(&part).map_err(|e| io(e.into()))?).map_err(io)?;
            let taken = self.rounds(&path)?;
            if taken.len() != least.len() {
                let problem = format!("times of {} networks, expected {}", taken.len(), least.len());
                return Err(SessionError::Output { program: self.binary.clone(), problem });
            }
            least.iter_mut().zip(&taken).for_each(|(least, now)| least.merge(now));
            done += rounds;
            progress(done, spec.rounds.max(1));
        }
        Ok(least)
    }

    fn rounds(&self, path: &Path) -> Result<Vec<LeastTimes>, SessionError> {
        let mut reasons = Vec::new();
        for _ in 0..windows::TRIES {
            let before = self.state()?;
            let output = self.runner.run(&self.binary, &[text("table"), Argument::File(path.into())])?;
            let after = self.state()?;
            // The clock may rest between programs: what it says then is no frequency of the frames.
            let states = [before, after].map(|state| State { mhz: None, ..state });
            let against =
                if self.simulated.is_some() { vec![] } else { board::judge(&states, None, self.require_idle) };
            if against.is_empty() {
                return parse(&self.binary, &output);
            }
            reasons.extend(against);
        }
        Err(Unsteady { tries: windows::TRIES, reasons }.into())
    }

    /// What the machine is doing now.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn state(&self) -> Result<State, SessionError> {
        #[derive(Deserialize)]
        struct Now {
            state: State,
        }
        let output = self.runner.run_within(&self.binary, &[text("device"), text("--json")], &AnswerLimits::SHORT)?;
        Ok(parse::<Now>(&self.binary, &output)?.state)
    }
}

/// The rails that were read in every window; none where a window had others, or none.
fn rails(windows: &[Window]) -> Option<String> {
    let first = windows.first()?.rails.clone()?;
    windows.iter().all(|window| window.rails.as_ref() == Some(&first)).then_some(first)
}

/// Why times from a machine mean nothing for a profile, where they do.
pub fn simulated(profile: &Profile, board: &Board, emulates: bool) -> Option<String> {
    if emulates || board.emulated {
        return Some("emulated".into());
    }
    let arch = profile.device.triple.as_deref().and_then(|triple| triple.split('-').next());
    if let Some(arch) = arch.filter(|arch| *arch != board.arch) {
        return Some(format!("measured on {}, the profile is for {arch}", board.arch));
    }
    let expected = profile.device.board.as_deref()?;
    let same = board.model.to_lowercase().contains(&expected.to_lowercase());
    (!same).then(|| format!("measured on {}, the profile is for {expected}", board.model))
}

fn text(value: &(impl ToString + ?Sized)) -> Argument {
    Argument::Text(value.to_string())
}

fn parse<'a, T: Deserialize<'a>>(program: &Path, output: &'a [u8]) -> Result<T, SessionError> {
    serde_json::from_slice(output).map_err(|e| SessionError::Output { program: program.into(), problem: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_profiles_own_machine_gives_times() {
        let mut profile = Profile::default();
        let pi = Board { model: "Raspberry Pi 5 Model B Rev 1.0".into(), arch: "aarch64".into(), ..Board::default() };
        let cases = [
            (None, None, false, &pi, None),
            (Some("aarch64-unknown-linux-gnu"), Some("raspberry pi 5"), false, &pi, None),
            (Some("aarch64-unknown-linux-gnu"), Some("Raspberry Pi 5"), true, &pi, Some("emulated")),
            (Some("aarch64-unknown-linux-gnu"), Some("Orin"), false, &pi, Some("the profile is for Orin")),
            (Some("x86_64-unknown-linux-gnu"), None, false, &pi, Some("the profile is for x86_64")),
            (None, None, false, &Board { emulated: true, ..pi.clone() }, Some("emulated")),
        ];
        for (triple, board, emulates, found, expected) in cases {
            profile.device.triple = triple.map(str::to_owned);
            profile.device.board = board.map(str::to_owned);
            let why = simulated(&profile, found, emulates);
            match expected {
                None => assert_eq!(why, None),
                Some(part) => assert!(why.as_ref().is_some_and(|why| why.contains(part)), "{why:?}, expected {part}"),
            }
        }
    }
}
