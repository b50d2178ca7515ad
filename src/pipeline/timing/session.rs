//! Latencies of a device, through the program that measures there.

use super::content::content;
use super::paired::PairedLatency;
use super::source::{LatencySource, PairSpec, TableRequest};
use crate::bench::TableSpec;
use crate::engine::{Cpu, Device};
use crate::latency::{LatencyError, LatencyTable, Networks, Sampling};
use crate::model::{self, Model};
use crate::pipeline::error::PipelineError;
use crate::session::{Frames, Session};

impl LatencySource for &Session {
    fn machine(&self, _: &str) -> String {
        self.fingerprint()
    }

    fn conditions(&self) -> Vec<String> {
        // The device is in the fingerprint.
        vec![format!("{:?}", content(self.program())), format!("pins {}", self.pins())]
    }

    fn cpu(&self) -> Cpu {
        Cpu { f16: self.board().computes_f16, ..Cpu::here() }
    }

    fn device(&self) -> Device {
        if self.board().gpu.is_some() { Device::Cuda(0) } else { Device::Cpu }
    }

    fn pair(&self, baseline: &Model, other: &Model, spec: &PairSpec) -> Result<Option<PairedLatency>, PipelineError> {
        // The baseline model is always the same file, so that it is copied to the device once.
        let path = |name: &str| spec.folder.join(format!("{name}-{}.safetensors", std::process::id()));
        let (one, two) = (path("baseline"), path("pruned"));
        let saved =
            [(baseline, &one), (other, &two)].into_iter().try_for_each(|(model, path)| model::save(model, path));
        let PairSpec { imgsz, batch, warmup, runs, percentile, .. } = *spec;
        let frames = Frames { imgsz, batch, warmup, runs, phases: false, percentile };
        let record = saved
            .map_err(PipelineError::from)
            .and_then(|()| Ok(self.measure_paired(Some(&two), &one, &frames, &mut |_, _| ())?));
        for path in [&one, &two] {
            let _ = std::fs::remove_file(path);
        }
        PairedLatency::of_record(&record?).map(Some).ok_or(PipelineError::OneNetwork)
    }

    fn table(
        &self,
        request: &TableRequest,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatencyTable, PipelineError> {
        let networks = Networks::new(request.model, request.groups, request.levels, request.sampling);
        let graphs = networks.iter().map(|network| Ok(network?.graph)).collect::<Result<_, LatencyError>>()?;
        let Sampling { size, threads, rounds, seed, .. } = *request.sampling;
        let spec = TableSpec { size, threads, networks: graphs, rounds, seed };
        let times = Session::table(self, &spec, request.folder, progress)?;
        Ok(networks.tabulate(&times, request.fingerprint).of_batch(request.batch))
    }
}
