//! Times the steps of many networks of random widths, interleaved.

use super::fit::Sample;
use super::{LatencyTable, LayerTime, compositions};
use crate::engine::{Engine, EngineError, LeastTimes, Options, time_round};
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
    /// A network could not be pruned.
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
    /// Number of networks of random widths, the baseline included.
    pub networks: usize,
    /// How often each network runs.
    pub rounds: usize,
    /// Seed of widths and order.
    pub seed: u64,
}

/// Networks of random widths, each with the widths of its groups; made one after the other.
pub struct Networks<'a> {
    model: &'a Model,
    groups: &'a Groups,
    plans: Vec<Vec<usize>>,
}

impl<'a> Networks<'a> {
    /// Draws the widths; the first network is the baseline. `levels` are the widths each group may have.
    pub fn new(model: &'a Model, groups: &'a Groups, levels: &[Vec<usize>], sampling: &Sampling) -> Self {
        let mut rng = StdRng::seed_from_u64(sampling.seed);
        let mut plans: Vec<Vec<usize>> = vec![groups.groups.iter().map(|g| g.width()).collect()];
        while plans.len() < sampling.networks.max(4) {
            plans.push(levels.iter().map(|l| l.choose(&mut rng).copied().unwrap_or(1)).collect());
        }
        Self { model, groups, plans }
    }

    /// The networks in their order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Model, LatencyError>> + '_ {
        self.plans.iter().map(|plan| Ok(cut(self.model, self.groups, &Selection::first(self.groups, plan))?))
    }

    /// A table of the right proportions, scaled to the whole frames of all networks in their order.
    pub fn scale(&self, shape: LatencyTable, frames: &[f64]) -> LatencyTable {
        let predict = |n: usize| shape.predict(&self.model.graph, self.groups, &self.plans[n]).max(1e-9);
        let factor = |used: &dyn Fn(usize) -> bool| {
            let mut factors: Vec<f64> =
                (0..frames.len()).filter(|n| used(*n)).map(|n| frames[n] / predict(n)).collect();
            factors.sort_by(f64::total_cmp);
            factors.get(factors.len() / 2).copied().unwrap_or(1.0)
        };
        let held_out = |network: usize| network % 5 == 4;
        let fitted = factor(&|n| !held_out(n));
        let errors = (0..frames.len()).filter(|n| held_out(*n)).map(|n| (predict(n) * fitted / frames[n] - 1.0).abs());
        let mut errors: Vec<f64> = errors.collect();
        errors.sort_by(f64::total_cmp);
        let frame_factor = shape.frame_factor * factor(&|_| true);
        LatencyTable { frame_factor, held_out_errors: errors, ..shape }
    }

    /// Fits the table to the times of all networks, in their order. Every fifth network is held out first, to see how
    /// far predictions are from its whole frames as they were measured; then all are fitted for the table itself.
    pub fn tabulate(&self, runs: &[LeastTimes], fingerprint: &str) -> LatencyTable {
        let (model, groups, plans) = (self.model, self.groups, &self.plans);
        let held_out = |network: usize| network % 5 == 4;
        let fitted = fit(model, groups, plans, runs, fingerprint, |n| !held_out(n));
        let error = |n: usize| {
            let measured = runs[n].measured()?;
            Some((fitted.predict(&model.graph, groups, &plans[n]) / measured - 1.0).abs())
        };
        let mut errors: Vec<f64> = (0..runs.len()).filter(|n| held_out(*n)).filter_map(error).collect();
        errors.sort_by(f64::total_cmp);
        LatencyTable { held_out_errors: errors, ..fit(model, groups, plans, runs, fingerprint, |_| true) }
    }
}

/// Measures the layers of a model on this machine. `levels` are the widths each group may have.
///
/// # Errors
/// If a network cannot be pruned or run.
pub fn measure(
    model: &Model,
    groups: &Groups,
    levels: &[Vec<usize>],
    sampling: &Sampling,
    fingerprint: String,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<LatencyTable, LatencyError> {
    let networks = Networks::new(model, groups, levels, sampling);
    let (height, width) = sampling.size;
    let options = Options { threads: sampling.threads, ..Options::default() };
    let mut engines = Vec::new();
    for network in networks.iter() {
        engines.push(Engine::new(&network?, height, width, &options)?);
    }
    let mut runs = vec![LeastTimes::unseen(model.graph.nodes.len()); engines.len()];

    // In every round the networks run in a new order.
    let input = vec![0.5; model.graph.input_channels() * height * width];
    let mut rng = StdRng::seed_from_u64(sampling.seed);
    let mut order: Vec<usize> = (0..engines.len()).collect();
    let (mut done, all) = (0, sampling.rounds.max(1) * engines.len());
    for _ in 0..sampling.rounds.max(1) {
        order.shuffle(&mut rng);
        time_round(&mut engines, &order, &input, &mut runs, &mut || {
            done += 1;
            progress(done, all);
        })?;
    }
    Ok(networks.tabulate(&runs, &fingerprint))
}

/// Milliseconds of a network's frame: as measured as a whole, or else the least times of its layers together.
fn frame(run: &LeastTimes) -> f64 {
    let layers = || run.nodes.iter().filter(|millis| millis.is_finite()).sum();
    run.measured().unwrap_or_else(layers)
}

fn fit(
    model: &Model,
    groups: &Groups,
    plans: &[Vec<usize>],
    runs: &[LeastTimes],
    fingerprint: &str,
    used: impl Fn(usize) -> bool,
) -> LatencyTable {
    let used: Vec<usize> = (0..runs.len()).filter(|n| used(*n)).collect();
    let layer = |id: crate::graph::NodeId| {
        let (input, output) = compositions(&model.graph, groups, id);
        let sample = |n: &usize| {
            let width = |g: crate::group::GroupId| plans[*n][g.index()];
            (input.width(width), output.width(width), runs[*n].nodes[id.index()])
        };
        let samples: Vec<Sample> = used.iter().map(sample).filter(|(_, _, t)| *t > 0.0).collect();
        LayerTime::fit(&samples)
    };
    let layers: Vec<Option<LayerTime>> = model.graph.ids().map(layer).collect();
    let mut table =
        LatencyTable { fingerprint: fingerprint.into(), layers, frame_factor: 1.0, held_out_errors: Vec::new() };
    let mut factors: Vec<f64> =
        used.iter().map(|n| frame(&runs[*n]) / table.predict(&model.graph, groups, &plans[*n]).max(1e-9)).collect();
    factors.sort_by(f64::total_cmp);
    table.frame_factor = factors.get(factors.len() / 2).copied().unwrap_or(1.0);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::model::{Info, Tensor, Weights};
    use crate::zoo::yolo11::{Scale, detect};

    /// Frames take a fifth more than their layers alone, and one network, held out, twice that: the factor is that of
    /// the frames, and the error is that of the frame.
    #[test]
    fn predictions_are_held_against_frames_and_not_against_sums_of_layers() {
        let graph = detect(Scale { depth: 0.3, width: 0.05, max_channels: 256, c3k_everywhere: false }, 2).unwrap();
        let mut weights = Weights::new();
        for param in graph.params() {
            let len = param.shape.iter().product();
            weights.insert(param.key.clone(), Tensor::new(param.shape.clone(), vec![1.0; len]));
        }
        let model = Model::new(graph, weights, Info::default()).unwrap();
        let groups = groups(&model.graph);
        let levels: Vec<Vec<usize>> = groups.groups.iter().map(|g| (1..=g.width()).collect()).collect();
        let sampling = Sampling { size: (64, 64), threads: 1, networks: 20, rounds: 3, seed: 1 };
        let networks = Networks::new(&model, &groups, &levels, &sampling);
        // Layers that follow the model of a layer exactly.
        let truth = LayerTime { tile: 1, coefficients: [0.01, 0.001, 0.001, 0.0001] };
        let times = |n: usize| {
            let width = |g: crate::group::GroupId| networks.plans[n][g.index()];
            let layer = |id| {
                let (input, output) = compositions(&model.graph, &groups, id);
                truth.millis(input.width(width), output.width(width))
            };
            let nodes: Vec<f64> = model.graph.ids().map(layer).collect();
            let sum: f64 = nodes.iter().sum();
            let whole = sum * if n == 9 { 2.4 } else { 1.2 };
            LeastTimes { nodes, frame: sum, frames: vec![whole, 0.9 * whole, 7.0 * whole] }
        };
        let runs: Vec<LeastTimes> = (0..20).map(times).collect();
        let table = networks.tabulate(&runs, "test");
        assert!((table.frame_factor - 1.2).abs() < 1e-3, "{}", table.frame_factor);
        let errors = &table.held_out_errors;
        assert_eq!(errors.len(), 4);
        assert!(errors[..3].iter().all(|e| *e < 1e-3) && (errors[3] - 0.5).abs() < 1e-3, "{errors:?}");
        // Without whole frames nothing is said of them.
        let bare: Vec<LeastTimes> = runs.into_iter().map(|run| LeastTimes { frames: vec![], ..run }).collect();
        assert!(networks.tabulate(&bare, "test").held_out_errors.is_empty());
    }
}
