//! Latencies of this machine, in this process.

use super::content::content;
use super::paired::PairedLatency;
use super::source::{LatencySource, PairSpec, TableRequest};
use crate::bench::{self, Energy, PairedEnergy};
use crate::board::{Board, Rails};
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
            let options = Options { threads: spec.threads, batch: spec.batch, ..Options::default() };
            Engine::new(model, spec.imgsz.height, spec.imgsz.width, &options).during(Task::Measurement)
        };
        let (mut a, mut b) = (engine(baseline)?, engine(other)?);
        let pair = bench::interleave(&mut a, &mut b, spec.input, spec.warmup, spec.runs).during(Task::Measurement)?;
        let rails = Rails::find(Path::new("/")).filter(|_| spec.energy);
        let energy = rails.map(|rails| paired_energy(&rails, &mut a, &mut b, spec.input)).transpose()?.flatten();
        Ok(Some(PairedLatency { energy, ..pair.into() }))
    }

    fn table(
        &self,
        request: &TableRequest,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<LatencyTable, PipelineError> {
        let TableRequest { model, groups, levels, sampling, fingerprint, batch, .. } = *request;
        Ok(latency::measure(model, groups, levels, sampling, fingerprint.into(), progress)?.of_batch(batch))
    }
}

/// Energy of two networks whose blocks run in turn; none where a rail could not be read.
fn paired_energy(
    rails: &Rails,
    baseline: &mut Engine,
    other: &mut Engine,
    input: &[f32],
) -> Result<Option<PairedEnergy>, PipelineError> {
    let (mut one, mut two) = (|| baseline.run(input), || other.run(input));
    let blocks = bench::energy(rails, &mut [&mut one, &mut two]).during(Task::Measurement)?.unwrap_or_default();
    let of = |at: usize| Energy::of(blocks.get(at)?);
    Ok(of(0).zip(of(1)).map(|(baseline, pruned)| PairedEnergy { rails: rails.names(), baseline, pruned }))
}
