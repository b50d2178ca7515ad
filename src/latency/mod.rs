//! Milliseconds per layer and width, measured in the runtime that will ship.
//!
//! Layers are timed where they will run: inside whole networks. Several networks, pruned to random widths, run
//! interleaved; every step of every network is timed; and for each layer a small model of its time over its input and
//! output width is fitted to what was seen ([`LayerTime`]). Timing inside whole networks keeps caches and memory
//! traffic as they will be, and networks that took no part in the fit show how far predictions can be trusted.

mod check;
mod estimate;
mod fit;
mod gpu;
mod measure;
mod work;

pub use estimate::{Speed, estimate};
pub use fit::LayerTime;
pub use gpu::{Gpu, estimate_gpu};
pub use measure::{LatencyError, Networks, Sampling, measure};

use crate::graph::{Graph, NodeId};
use crate::group::{Composition, GroupId, Groups};
use serde::{Deserialize, Serialize};

/// Fitted times of all layers on one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyTable {
    /// Where it was measured: CPU, threads, image size.
    pub fingerprint: String,
    /// One entry per node; none for nodes that take no time of their own.
    pub layers: Vec<Option<LayerTime>>,
    /// Factor from the sum of all layers to the time of a whole frame.
    pub frame_factor: f64,
    /// Relative errors of the prediction on networks that took no part in the fit, ascending.
    pub held_out_errors: Vec<f64>,
}

/// A layer's time as a function of the widths of a few groups.
#[derive(Clone, Debug)]
pub struct Term {
    /// The layer.
    pub node: NodeId,
    /// The groups its time depends on, ascending.
    pub scope: Vec<GroupId>,
    input: Composition,
    output: Composition,
    time: LayerTime,
    factor: f64,
}

impl Term {
    /// Milliseconds at the given width of every group.
    pub fn millis(&self, width: impl Fn(GroupId) -> usize) -> f64 {
        self.factor * self.time.millis(self.input.width(&width), self.output.width(&width))
    }
}

impl LatencyTable {
    /// The layers' times as functions of the groups' widths.
    pub fn terms(&self, graph: &Graph, groups: &Groups) -> Vec<Term> {
        let of = |(id, time): (NodeId, &Option<LayerTime>)| {
            let time = time.clone()?;
            let (input, output) = compositions(graph, groups, id);
            let mut scope: Vec<GroupId> = input.parts.iter().chain(&output.parts).map(|(group, _)| *group).collect();
            scope.sort_unstable();
            scope.dedup();
            Some(Term { node: id, scope, input, output, time, factor: self.frame_factor })
        };
        graph.ids().zip(&self.layers).filter_map(of).collect()
    }

    /// The table of a runtime that takes so many images at a time through the network, one after the other.
    pub fn of_batch(self, images: usize) -> Self {
        Self { frame_factor: images.max(1) as f64 * self.frame_factor, ..self }
    }

    /// Milliseconds of a whole frame at the given widths.
    pub fn predict(&self, graph: &Graph, groups: &Groups, widths: &[usize]) -> f64 {
        self.terms(graph, groups).iter().map(|term| term.millis(|g| widths[g.index()])).sum()
    }
}

/// Widths of a node's input and output as functions of the groups' widths.
fn compositions(graph: &Graph, groups: &Groups, id: NodeId) -> (Composition, Composition) {
    let input = graph.node(id).inputs.first().map(|i| groups.composition(*i)).unwrap_or_default();
    (input, groups.composition(id))
}
