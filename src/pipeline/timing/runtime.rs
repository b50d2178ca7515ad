//! Latencies of another runtime on a device: TensorRT, ONNX Runtime or ncnn.

use super::paired::PairedLatency;
use super::source::{LatencySource, PairSpec, TableRequest};
use crate::engine::Cpu;
use crate::latency::{self, LatencyTable, Networks, Sampling, Speed};
use crate::model::Model;
use crate::pipeline::error::{During, PipelineError, Task};
use crate::runtimes::Runtime;
use crate::size::ImageSize;

/// Networks that are built and timed for a latency table: each takes minutes on a small board.
const TABLE_NETWORKS: usize = 15;

/// Frames before the clock starts, of every window and network.
const WARM_UP: usize = 10;

/// A runtime on a device.
pub struct OtherRuntime<'a> {
    /// The runtime.
    pub runtime: &'a Runtime,
    /// How the layers share a frame where the runtime does not say.
    pub speed: &'a Speed,
}

impl LatencySource for OtherRuntime<'_> {
    fn machine(&self, _: &str) -> String {
        self.runtime.fingerprint()
    }

    fn conditions(&self) -> Vec<String> {
        let speed = [format!("{:?}", self.speed)];
        self.runtime.conditions().into_iter().chain(speed).collect()
    }

    fn cpu(&self) -> Cpu {
        let f16 = self.runtime.session().is_none_or(|session| session.board().computes_f16);
        Cpu { f16, ..Cpu::here() }
    }

    fn runtime(&self) -> Option<&Runtime> {
        Some(self.runtime)
    }

    fn pair(&self, baseline: &Model, other: &Model, spec: &PairSpec) -> Result<Option<PairedLatency>, PipelineError> {
        pair_by_runtime(self.runtime, [baseline, other], spec.imgsz, spec.runs, &mut |_, _| ()).map(Some)
    }

    fn table(
        &self,
        request: &TableRequest,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatencyTable, PipelineError> {
        let TableRequest { model, groups, levels, sampling, fingerprint, .. } = *request;
        let (height, width) = sampling.size;
        let few = Sampling { networks: TABLE_NETWORKS, ..sampling.clone() };
        let networks = Networks::new(model, groups, levels, &few);
        let mut runs = Vec::new();
        for network in networks.iter() {
            let network = self.runtime.network(&network?, ImageSize { height, width })?;
            runs.push(self.runtime.layers(&network, WARM_UP)?);
            progress(runs.len(), TABLE_NETWORKS);
        }
        if runs.iter().all(|run| run.frame > 0.0) {
            return Ok(networks.tabulate(&runs, fingerprint));
        }
        let frames: Vec<f64> = runs.iter().filter_map(|run| run.measured()).collect();
        let shape = latency::estimate(&model.graph, sampling.size, self.speed, fingerprint);
        Ok(networks.scale(shape.during(Task::LatencyTable)?, &frames))
    }
}

/// Measures two models for images of a size in a runtime, the baseline first.
///
/// # Errors
/// If the runtime refuses a model, or the device fails.
pub fn pair_by_runtime(
    runtime: &Runtime,
    [baseline, other]: [&Model; 2],
    size: ImageSize,
    runs: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PairedLatency, PipelineError> {
    let (one, two) = (runtime.network(baseline, size)?, runtime.network(other, size)?);
    let (pair, in_turn) = runtime.pair(&one, &two, runs, WARM_UP, progress)?;
    let ratio = pair.ratio;
    Ok(match in_turn {
        true => pair.into(),
        false => PairedLatency { ratio, ratio_bound: None, ..pair.into() },
    })
}
