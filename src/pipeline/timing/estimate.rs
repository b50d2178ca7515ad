//! Predicted latencies of a device that cannot be measured: two figures of its CPU stand in.

use super::paired::PairedLatency;
use super::source::{LatencySource, PairSpec, TableRequest};
use crate::latency::{self, LatencyTable, Speed};
use crate::model::Model;
use crate::pipeline::error::{During, PipelineError, Task};

/// An estimate from arithmetic and memory bandwidth.
pub struct Estimate<'a> {
    /// The CPU.
    pub speed: &'a Speed,
}

impl LatencySource for Estimate<'_> {
    fn machine(&self, target: &str) -> String {
        let Speed { gflops, bandwidth } = self.speed;
        format!("estimate for {target} ({gflops} GFLOP/s, {bandwidth} GB/s)")
    }

    fn conditions(&self) -> Vec<String> {
        vec![format!("{:?}", self.speed)]
    }

    fn measures(&self) -> bool {
        false
    }

    fn pair(&self, _: &Model, _: &Model, _: &PairSpec) -> Result<Option<PairedLatency>, PipelineError> {
        Ok(None)
    }

    fn table(&self, request: &TableRequest, _: &mut dyn FnMut(usize, usize)) -> Result<LatencyTable, PipelineError> {
        let TableRequest { model, sampling, fingerprint, .. } = request;
        latency::estimate(&model.graph, sampling.size, self.speed, fingerprint).during(Task::LatencyTable)
    }
}
