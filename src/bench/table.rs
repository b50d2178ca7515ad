//! Times the layers of many networks, interleaved, given their structure alone: values do not change how long they
//! take.

use super::BenchError;
use crate::board;
use crate::engine::{Device, Engine, EngineError, LeastTimes, Options, plan_memory, time_round};
use crate::graph::Graph;
use crate::model::{Info, Model, ModelError, Tensor, Weights};
use crate::size::MAX_SIDE;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The most of what one table may ask for; a job asks for 30 networks, and two rounds at a time.
const MAX_NETWORKS: usize = 1000;
const MAX_ROUNDS: usize = 1000;
const MAX_THREADS: usize = 1024;

/// Bytes that all networks may take together on a machine that does not say how much memory it has.
const UNKNOWN_MEMORY: f64 = (8u64 << 30) as f64;

/// What to time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableSpec {
    /// Rows and columns of the image.
    pub size: (usize, usize),
    /// Threads of the engine.
    pub threads: usize,
    /// The networks. All are held in memory at once.
    pub networks: Vec<Graph>,
    /// How often each runs on the clock.
    pub rounds: usize,
    /// Seed of the order, which is new in every round.
    pub seed: u64,
}

/// The least times of every network on a device, in their order.
///
/// # Errors
/// If a graph contradicts itself, the engine refuses one, or more is asked for than a table may be: before anything is
/// timed.
pub fn time_table(spec: &TableSpec, device: Device) -> Result<Vec<LeastTimes>, BenchError> {
    check(spec, device, board::total_memory(Path::new("/")).unwrap_or(UNKNOWN_MEMORY))?;
    let (height, width) = spec.size;
    let options = Options { threads: spec.threads, device, ..Options::default() };
    let mut engines = Vec::new();
    let mut channels = 0;
    for graph in &spec.networks {
        let model = filled(graph)?;
        channels = model.graph.input_channels();
        let mut engine = Engine::new(&model, height, width, &options)?;
        // A GPU copies as much of its outputs as for a detection; with values that mean nothing no cell is looked at.
        engine.select_cells(Some(f32::INFINITY))?;
        engines.push(engine);
    }
    let mut least: Vec<LeastTimes> = spec.networks.iter().map(|g| LeastTimes::unseen(g.nodes.len())).collect();
    let input = vec![0.5; channels * height * width];
    let mut order: Vec<usize> = (0..engines.len()).collect();
    let mut state = spec.seed | 1;
    for _ in 0..spec.rounds {
        shuffle(&mut order, &mut state);
        time_round(&mut engines, &order, &input, &mut least, &mut || ())?;
    }
    Ok(least)
}

/// Holds what is asked for against the bounds, and against the bytes of memory of the machine.
fn check(spec: &TableSpec, device: Device, memory: f64) -> Result<(), BenchError> {
    let whole = [
        ("the number of networks", spec.networks.len(), MAX_NETWORKS),
        ("the number of rounds", spec.rounds, MAX_ROUNDS),
        ("the number of threads", spec.threads, MAX_THREADS),
        ("the height of the image", spec.size.0, MAX_SIDE),
        ("the width of the image", spec.size.1, MAX_SIDE),
    ];
    for (what, found, most) in whole {
        if !(1..=most).contains(&found) {
            let expected = format!("a whole number from 1 to {most}");
            return Err(BenchError::Table { what, found: found.to_string(), expected });
        }
    }
    let options = Options { threads: spec.threads, device, ..Options::default() };
    let mut engines = 0.0;
    for graph in &spec.networks {
        graph.check().map_err(EngineError::from)?;
        // In floating point: shapes of an untrusted file may multiply beyond any integer.
        let product = |shape: &[usize]| shape.iter().map(|n| *n as f64).product::<f64>();
        let values = 4.0 * graph.params().iter().map(|param| product(&param.shape)).sum::<f64>();
        // The values, and packed kernels that take about as much: what cannot fit is not planned.
        let mut bytes = engines + 2.0 * values;
        if bytes <= memory {
            let planned = plan_memory(graph, spec.size.0, spec.size.1, &options)?.total() as f64;
            bytes = engines + values + planned;
            engines += planned;
        }
        if bytes > memory {
            let gib = |bytes: f64| format!("{:.1} GiB", bytes / f64::from(1 << 30));
            let (found, expected) = (gib(bytes), format!("at most the {} of this machine", gib(memory)));
            return Err(BenchError::Table { what: "the memory of all networks together", found, expected });
        }
    }
    Ok(())
}

/// A model with values that keep activations in the usual range, so that no denormal numbers slow it down.
fn filled(graph: &Graph) -> Result<Model, ModelError> {
    let mut weights = Weights::default();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    graph.check()?;
    for param in graph.params() {
        let fan_in = param.shape.iter().skip(1).product::<usize>().max(1);
        let bound = (3.0 / fan_in as f64).sqrt();
        let value = |_| {
            let share = (random(&mut state) >> 11) as f64 / (1u64 << 53) as f64;
            // Vectors are scales, shifts and statistics: small shifts, everything else near 1.
            if param.shape.len() > 1 { ((2.0 * share - 1.0) * bound) as f32 } else { (0.5 + share) as f32 }
        };
        let len = param.shape.iter().product();
        weights.insert(param.key.clone(), Tensor::new(param.shape.clone(), (0..len).map(value).collect()));
    }
    // The ranges of int8 layers do not change how long they take either.
    let ranges = graph.nodes.iter().map(|node| (node.name.clone(), [-1.0, 1.0])).collect();
    Model::new(graph.clone(), weights, Info { ranges, ..Info::default() })
}

/// A random number (xorshift64; Marsaglia, 2003).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn shuffle(order: &mut [usize], state: &mut u64) {
    for i in (1..order.len()).rev() {
        order.swap(i, (random(state) % (i as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_everything_and_changes_the_order() {
        let mut order: Vec<usize> = (0..30).collect();
        shuffle(&mut order, &mut 7);
        assert_ne!(order, (0..30).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..30).collect::<Vec<_>>());
    }
}
