//! Predicted latencies of a device that cannot be measured: two figures of its CPU stand in, or those of its GPU.

use super::paired::PairedLatency;
use super::source::{LatencySource, PairSpec, TableRequest};
use crate::engine;
use crate::graph::Dtype;
use crate::latency::{self, Gpu, LatencyTable, Speed};
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
        let TableRequest { model, sampling, fingerprint, batch, .. } = *request;
        let table = latency::estimate(&model.graph, sampling.size, self.speed, fingerprint);
        Ok(table.during(Task::LatencyTable)?.of_batch(batch))
    }
}

/// An estimate of a GPU that computes in a dtype.
pub struct EstimateGpu<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// Its arithmetic.
    pub dtype: Dtype,
}

impl LatencySource for EstimateGpu<'_> {
    fn machine(&self, target: &str) -> String {
        let Gpu { multiprocessors, clock_ghz, bandwidth, .. } = self.gpu;
        let dtype = self.dtype.name();
        format!("estimate for {target} (GPU: {multiprocessors} x {clock_ghz} GHz, {bandwidth} GB/s, {dtype})")
    }

    fn conditions(&self) -> Vec<String> {
        vec![format!("{:?} {}", self.gpu, self.dtype.name())]
    }

    fn device(&self) -> engine::Device {
        engine::Device::Cuda(0)
    }

    fn measures(&self) -> bool {
        false
    }

    fn pair(&self, _: &Model, _: &Model, _: &PairSpec) -> Result<Option<PairedLatency>, PipelineError> {
        Ok(None)
    }

    fn table(&self, request: &TableRequest, _: &mut dyn FnMut(usize, usize)) -> Result<LatencyTable, PipelineError> {
        let TableRequest { model, sampling, fingerprint, batch, .. } = *request;
        let table = latency::estimate_gpu(&model.graph, sampling.size, self.gpu, self.dtype, fingerprint);
        Ok(table.during(Task::LatencyTable)?.of_batch(batch))
    }
}
