//! Times the steps of several networks, interleaved.

use super::{Engine, EngineError};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The least times measured of a network, milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeastTimes {
    /// By node of the graph; 0 where a node has no step of its own.
    pub nodes: Vec<f64>,
    /// Of all steps of a frame together.
    pub frame: f64,
    /// Whole frames as a user runs them, without a clock around every step, in the order they ran.
    #[serde(default)]
    pub frames: Vec<f64>,
}

impl LeastTimes {
    /// Before anything was measured of a network with so many nodes.
    pub fn unseen(nodes: usize) -> Self {
        Self { nodes: vec![f64::INFINITY; nodes], frame: f64::INFINITY, frames: Vec::new() }
    }

    /// The median of the whole frames; none without any.
    pub fn measured(&self) -> Option<f64> {
        let mut frames = self.frames.clone();
        frames.sort_by(f64::total_cmp);
        frames.get(frames.len().saturating_sub(1) / 2).copied()
    }

    /// The least of both, and the frames of both.
    pub fn merge(&mut self, other: &Self) {
        self.nodes.iter_mut().zip(&other.nodes).for_each(|(least, now)| *least = least.min(*now));
        self.frame = self.frame.min(other.frame);
        self.frames.extend(&other.frames);
    }
}

/// Runs every network once to warm its weights, once as a whole on the clock, and once with every step on the clock, in
/// the given order; keeps the least times of the steps, and all whole frames.
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
        let start = Instant::now();
        engine.run(input)?;
        let frames = vec![start.elapsed().as_secs_f64() * 1e3];
        let mut now = LeastTimes { nodes: vec![0.0; least.nodes.len()], frame: 0.0, frames };
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
