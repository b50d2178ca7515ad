//! Times the steps of many differently cut networks, in turn.

use super::fit::Sample;
use super::{LatencyTable, LayerTime, compositions};
use crate::engine::{Engine, EngineError, Options};
use crate::group::Groups;
use crate::model::Model;
use crate::surgery::{Selection, SurgeryError, cut};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use thiserror::Error;

/// A measurement that failed.
#[derive(Debug, Error)]
pub enum LatencyError {
    /// A network could not be run.
    #[error("latency table: {0}")]
    Engine(#[from] EngineError),
    /// A network could not be cut.
    #[error("latency table: {0}")]
    Surgery(#[from] SurgeryError),
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Rows and columns of the image.
    pub size: (usize, usize),
    /// Threads of the runtime.
    pub threads: usize,
    /// Number of differently cut networks, the uncut one included.
    pub networks: usize,
    /// How often each network runs.
    pub rounds: usize,
    /// Seed of widths and order.
    pub seed: u64,
}

/// Measures the layers of a model on this machine. `levels` are the widths each group may have.
///
/// # Errors
/// If a network cannot be cut or run.
pub fn measure(
    model: &Model,
    groups: &Groups,
    levels: &[Vec<usize>],
    sampling: &Sampling,
    fingerprint: String,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<LatencyTable, LatencyError> {
    let mut rng = StdRng::seed_from_u64(sampling.seed);
    // 1. Networks of random widths; the first is uncut.
    let mut plans: Vec<Vec<usize>> = vec![groups.groups.iter().map(|g| g.width()).collect()];
    while plans.len() < sampling.networks.max(4) {
        plans.push(levels.iter().map(|l| l.choose(&mut rng).copied().unwrap_or(1)).collect());
    }
    let (height, width) = sampling.size;
    let options = Options { threads: sampling.threads, ..Options::default() };
    let mut runs = Vec::new();
    for plan in &plans {
        let engine = Engine::new(&cut(model, groups, &Selection::first(groups, plan))?, height, width, &options)?;
        runs.push(Run { engine, steps: vec![f64::INFINITY; model.graph.nodes.len()], frame: f64::INFINITY });
    }

    // 2. In every round each network runs once to warm its weights and once on the clock, in a new order.
    let input = vec![0.5; model.graph.input_channels() * height * width];
    let mut order: Vec<usize> = (0..runs.len()).collect();
    for round in 0..sampling.rounds.max(1) {
        order.shuffle(&mut rng);
        for (done, network) in order.iter().enumerate() {
            runs[*network].time(&input)?;
            progress(round * runs.len() + done + 1, sampling.rounds.max(1) * runs.len());
        }
    }

    // 3. Every fifth network is held out, the others are fitted; then all are fitted for the table itself.
    let held_out = |network: usize| network % 5 == 4;
    let fitted = fit(model, groups, &plans, &runs, &fingerprint, |n| !held_out(n));
    let mut errors: Vec<f64> = (0..runs.len())
        .filter(|n| held_out(*n))
        .map(|n| (fitted.predict(&model.graph, groups, &plans[n]) / runs[n].frame - 1.0).abs())
        .collect();
    errors.sort_by(f64::total_cmp);
    Ok(LatencyTable { held_out_errors: errors, ..fit(model, groups, &plans, &runs, &fingerprint, |_| true) })
}

/// A network and the least times seen.
struct Run {
    engine: Engine,
    steps: Vec<f64>,
    frame: f64,
}

impl Run {
    fn time(&mut self, input: &[f32]) -> Result<(), EngineError> {
        self.engine.run(input)?;
        let mut frame = 0.0;
        let mut steps = vec![0.0; self.steps.len()];
        for step in self.engine.profile(input)? {
            let millis = step.nanos as f64 / 1e6;
            steps[step.node.index()] += millis;
            frame += millis;
        }
        self.steps.iter_mut().zip(steps).for_each(|(least, now)| *least = least.min(now));
        self.frame = self.frame.min(frame);
        Ok(())
    }
}

fn fit(
    model: &Model,
    groups: &Groups,
    plans: &[Vec<usize>],
    runs: &[Run],
    fingerprint: &str,
    used: impl Fn(usize) -> bool,
) -> LatencyTable {
    let used: Vec<usize> = (0..runs.len()).filter(|n| used(*n)).collect();
    let layer = |id: crate::graph::NodeId| {
        let (input, output) = compositions(&model.graph, groups, id);
        let sample = |n: &usize| {
            let width = |g: crate::group::GroupId| plans[*n][g.index()];
            (input.width(width), output.width(width), runs[*n].steps[id.index()])
        };
        let samples: Vec<Sample> = used.iter().map(sample).filter(|(_, _, t)| *t > 0.0).collect();
        LayerTime::fit(&samples)
    };
    let layers: Vec<Option<LayerTime>> = model.graph.ids().map(layer).collect();
    let mut table =
        LatencyTable { fingerprint: fingerprint.into(), layers, frame_factor: 1.0, held_out_errors: Vec::new() };
    let mut factors: Vec<f64> =
        used.iter().map(|n| runs[*n].frame / table.predict(&model.graph, groups, &plans[*n]).max(1e-9)).collect();
    factors.sort_by(f64::total_cmp);
    table.frame_factor = factors.get(factors.len() / 2).copied().unwrap_or(1.0);
    table
}
