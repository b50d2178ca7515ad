//! Latencies of this machine, in this process.

use super::content::content;
use super::paired::PairedLatency;
use super::source::{LatencySource, PairSpec, TableRequest};
use crate::bench;
use crate::board::Board;
use crate::engine::{Cpu, Engine, Options};
use crate::latency::{self, LatencyTable};
use crate::model::Model;
use crate::pipeline::error::{During, PipelineError, Task};
use std::env;
use std::path::Path;

/// This machine.
pub struct ThisMachine;

impl LatencySource for ThisMachine {
    fn machine(&self, _: &str) -> String {
        Board::read(Path::new("/")).model
    }

    fn conditions(&self) -> Vec<String> {
        let program = env::current_exe().ok().and_then(|path| content(&path));
        vec![format!("{:?}", Board::read(Path::new("/")).fingerprint()), format!("{program:?}")]
    }

    fn cpu(&self) -> Cpu {
        Cpu::here()
    }

    fn pair(&self, baseline: &Model, other: &Model, spec: &PairSpec) -> Result<Option<PairedLatency>, PipelineError> {
        let engine = |model: &Model| {
            let options = Options { threads: spec.threads, ..Options::default() };
            Engine::new(model, spec.imgsz, spec.imgsz, &options).during(Task::Measurement)
        };
        let (mut a, mut b) = (engine(baseline)?, engine(other)?);
        let pair = bench::interleave(&mut a, &mut b, spec.input, spec.warmup, spec.runs).during(Task::Measurement)?;
        Ok(Some(pair.into()))
    }

    fn table(
        &self,
        request: &TableRequest,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatencyTable, PipelineError> {
        let TableRequest { model, groups, levels, sampling, fingerprint, .. } = *request;
        Ok(latency::measure(model, groups, levels, sampling, fingerprint.into(), progress)?)
    }
}
