//! What a source of latencies must answer.

use super::paired::PairedLatency;
use crate::engine::{Cpu, Device};
use crate::group::Groups;
use crate::latency::{LatencyTable, Sampling};
use crate::model::Model;
use crate::pipeline::error::PipelineError;
use crate::runtimes::Runtime;
use crate::size::ImageSize;
use std::path::Path;

/// How two networks are measured interleaved.
#[derive(Clone, Copy)]
pub struct PairSpec<'a> {
    /// Size of the image.
    pub imgsz: ImageSize,
    /// Threads of the engine.
    pub threads: usize,
    /// Frames before the clock starts.
    pub warmup: usize,
    /// Frames of each network that are timed.
    pub runs: usize,
    /// The percentile that a budget in milliseconds is about; none without such a budget.
    pub percentile: Option<u8>,
    /// Whether there is a budget of energy.
    pub energy: bool,
    /// Images per run of the network.
    pub batch: usize,
    /// The images of a run, `[batch, C, height, width]`.
    pub input: &'a [f32],
    /// A folder for temporary files.
    pub folder: &'a Path,
}

/// What a latency table is about.
#[derive(Clone, Copy)]
pub struct TableRequest<'a> {
    /// The baseline model as the device runs it.
    pub model: &'a Model,
    /// Its groups.
    pub groups: &'a Groups,
    /// The widths of every group, all above zero.
    pub levels: &'a [Vec<usize>],
    /// How many networks are timed, and how.
    pub sampling: &'a Sampling,
    /// What the measurements depend on, for people.
    pub fingerprint: &'a str,
    /// Images per run of the network: the table is about the whole batch.
    pub batch: usize,
    /// A folder for temporary files.
    pub folder: &'a Path,
}

/// A source of latencies.
pub trait LatencySource {
    /// The machine in one line; `target` is the name of the profile.
    fn machine(&self, target: &str) -> String;

    /// What a latency table depends on beside the networks: the program that runs them and where it runs, by content.
    fn conditions(&self) -> Vec<String>;

    /// The CPU that memory is planned for. A board tells itself whether it computes in f16; without one, a profile that asks
    /// for f16 is taken at its word.
    fn cpu(&self) -> Cpu {
        Cpu { f16: true, ..Cpu::here() }
    }

    /// What networks run on, and memory is planned for.
    fn device(&self) -> Device {
        Device::Cpu
    }

    /// Whether networks are timed; if not, latencies are predictions.
    fn measures(&self) -> bool {
        true
    }

    /// The runtime in which networks run, where that is not ours.
    fn runtime(&self) -> Option<&Runtime> {
        None
    }

    /// Refuses what could not be timed later.
    ///
    /// # Errors
    /// Names what is missing.
    fn check(&self) -> Result<(), PipelineError> {
        Ok(())
    }

    /// Measures two networks interleaved; none where nothing is timed.
    ///
    /// # Errors
    /// If a network cannot be run, or the device fails.
    fn pair(&self, baseline: &Model, other: &Model, spec: &PairSpec) -> Result<Option<PairedLatency>, PipelineError>;

    /// Measures or estimates a latency table.
    ///
    /// # Errors
    /// As [`Self::pair`].
    fn table(
        &self,
        request: &TableRequest,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatencyTable, PipelineError>;
}
