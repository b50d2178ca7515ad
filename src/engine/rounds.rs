//! Times the steps of several networks in turn.

use super::{Engine, EngineError};
use serde::{Deserialize, Serialize};

/// The least times that were seen of a network, milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeastTimes {
    /// By node of the graph; 0 where a node has no step of its own.
    pub nodes: Vec<f64>,
    /// Of a whole frame.
    pub frame: f64,
}

impl LeastTimes {
    /// Before anything was seen of a network with so many nodes.
    pub fn unseen(nodes: usize) -> Self {
        Self { nodes: vec![f64::INFINITY; nodes], frame: f64::INFINITY }
    }

    /// The least of both.
    pub fn merge(&mut self, other: &Self) {
        self.nodes.iter_mut().zip(&other.nodes).for_each(|(least, now)| *least = least.min(*now));
        self.frame = self.frame.min(other.frame);
    }
}

/// Runs every network once to warm its weights and once on the clock, in the given order, and keeps the least times.
///
/// # Errors
/// If the input does not fit a network.
pub fn time_round(
    engines: &mut [Engine],
    order: &[usize],
    input: &[f32],
    least: &mut [LeastTimes],
    progress: &mut dyn FnMut(),
) -> Result<(), EngineError> {
    for index in order {
        let (engine, least) = (&mut engines[*index], &mut least[*index]);
        engine.run(input)?;
        let mut now = LeastTimes { nodes: vec![0.0; least.nodes.len()], frame: 0.0 };
        for step in engine.profile(input)? {
            let millis = step.nanos as f64 / 1e6;
            now.nodes[step.node.index()] += millis;
            now.frame += millis;
        }
        least.merge(&now);
        progress();
    }
    Ok(())
}
