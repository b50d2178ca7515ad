//! Memory of a plan as a function of the groups' widths, for the search.
//!
//! What the engine really allocates is known exactly before it runs ([`crate::engine::plan_memory`]), but only for a
//! finished graph. Here the same quantity is written as terms that the search can bound: at every step the bytes of
//! all live tensors, linear in the widths, and the bytes of all kernels, bilinear in them. Splits are views,
//! concatenations are written in place and sums into the tensor of their second operand, as in the engine; for the rest
//! (packing and fragmentation) plans are checked against the exact figure.

use crate::graph::{Dtype, Graph, GraphError, NodeId, Op};
use crate::group::{GroupId, Groups};
use crate::kernels::Algorithm;
use std::collections::BTreeMap;

const F32: f64 = 4.0;

/// Bytes of the tensors that are live while one layer runs: `constant + sum(bytes * width)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveSet {
    /// The layer that runs.
    pub node: NodeId,
    /// Bytes of channels that no plan changes.
    pub constant: f64,
    /// Bytes per channel of every group.
    pub per_channel: Vec<(GroupId, f64)>,
}

impl LiveSet {
    /// Bytes at the given width of every group.
    pub fn bytes(&self, width: impl Fn(GroupId) -> usize) -> f64 {
        self.constant + self.per_channel.iter().map(|(group, bytes)| bytes * width(*group) as f64).sum::<f64>()
    }
}

/// Bytes of one convolution's kernel and biases.
#[derive(Clone, Debug)]
pub struct KernelBytes {
    /// The convolution.
    pub node: NodeId,
    /// The groups its size depends on, ascending.
    pub scope: Vec<GroupId>,
    input: crate::group::Composition,
    output: crate::group::Composition,
    taps: usize,
    depthwise: bool,
    /// Bytes of a weight.
    weight: f64,
}

impl KernelBytes {
    /// Bytes at the given width of every group.
    pub fn bytes(&self, width: impl Fn(GroupId) -> usize) -> f64 {
        let (c_in, c_out) = (self.input.width(&width), self.output.width(&width));
        self.weight * (if self.depthwise { 1 } else { c_in } * c_out * self.taps) as f64 + F32 * c_out as f64
    }
}

/// The live sets of all layers at an image size.
///
/// # Errors
/// As [`Graph::shapes`].
pub fn live_sets(graph: &Graph, groups: &Groups, height: usize, width: usize) -> Result<Vec<LiveSet>, GraphError> {
    let shapes = graph.shapes(height, width)?;
    let homes = homes(graph);
    // A home lives from its first write to the last read of any of its guests.
    let mut life: BTreeMap<NodeId, (NodeId, NodeId)> = BTreeMap::new();
    let mut extend = |home: NodeId, at: NodeId| {
        let span = life.entry(home).or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    };
    let last = NodeId(graph.nodes.len() as u32 - 1);
    for id in graph.ids() {
        extend(homes[id.index()], id);
        graph.node(id).inputs.iter().for_each(|input| extend(homes[input.index()], id));
    }
    graph.outputs.iter().for_each(|id| extend(homes[id.index()], last));
    let of = |node: NodeId| {
        let mut live = LiveSet { node, constant: 0.0, per_channel: Vec::new() };
        let mut per_channel: BTreeMap<GroupId, f64> = BTreeMap::new();
        for home in life.iter().filter(|(_, (from, to))| (*from..=*to).contains(&node)).map(|(home, _)| *home) {
            let bytes = F32 * shapes[home.index()].area() as f64;
            let width = groups.composition(home);
            live.constant += bytes * width.fixed as f64;
            width
                .parts
                .iter()
                .for_each(|(group, times)| *per_channel.entry(*group).or_default() += bytes * *times as f64);
        }
        live.per_channel = per_channel.into_iter().collect();
        live
    };
    Ok(graph.ids().map(of).collect())
}

/// For every node the node whose buffer its tensor lies in.
fn homes(graph: &Graph) -> Vec<NodeId> {
    let mut homes: Vec<NodeId> = graph.ids().collect();
    let consumers = graph.consumers();
    for id in graph.ids() {
        let node = graph.node(id);
        match &node.op {
            Op::Slice { .. } => homes[id.index()] = homes[node.inputs[0].index()],
            Op::Add => {
                let second = node.inputs[1];
                if consumers[second.index()].len() == 1 && homes[second.index()] == second {
                    homes[second.index()] = id;
                }
            }
            Op::Concat => {
                for input in &node.inputs {
                    let mine = homes.iter().enumerate().filter(|(_, home)| **home == *input).map(|(i, _)| i);
                    let guests: Vec<usize> = mine.collect();
                    guests.into_iter().for_each(|guest| homes[guest] = id);
                }
            }
            _ => {}
        }
    }
    homes
}

/// The kernels' sizes as the engine packs them for an image size.
///
/// # Errors
/// As [`Graph::shapes`].
pub fn kernels(graph: &Graph, groups: &Groups, height: usize, width: usize) -> Result<Vec<KernelBytes>, GraphError> {
    let shapes = graph.shapes(height, width)?;
    let dtypes = graph.layer_dtypes();
    let of = |node: NodeId| {
        let out = shapes[node.index()];
        let weight = match dtypes[node.index()] {
            Dtype::F32 => F32,
            Dtype::F16 => 2.0,
            Dtype::Int8 => 1.0,
        };
        let (taps, depthwise) = match &graph.node(node).op {
            Op::Conv(conv) if conv.is_depthwise() => (conv.kernel * conv.kernel, true),
            Op::Conv(conv) if !dtypes[node.index()].is_f32() => (conv.kernel * conv.kernel, false),
            Op::Conv(conv) => (Algorithm::choose(conv.kernel, conv.stride, out.h, out.w).taps(conv.kernel), false),
            Op::ConvTranspose(conv) => (conv.factor * conv.factor, false),
            _ => return None,
        };
        let (input, output) = (groups.composition(graph.node(node).inputs[0]), groups.composition(node));
        let mut scope: Vec<GroupId> = input.parts.iter().chain(&output.parts).map(|(group, _)| *group).collect();
        scope.sort_unstable();
        scope.dedup();
        Some(KernelBytes { node, scope, input, output, taps, depthwise, weight })
    };
    Ok(graph.ids().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::yolo11::{Scale, detect};

    #[test]
    fn kernel_bytes_are_four_per_value() {
        let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
        let groups = crate::group::groups(&graph);
        // At 32 px no image is large enough for a fast algorithm, whose kernels are larger.
        let kernels = kernels(&graph, &groups, 32, 32).unwrap();
        let total: f64 = kernels.iter().map(|k| k.bytes(|g| groups.group(g).width())).sum();
        // Kernels and one bias per channel: the parameters less one of the two batch-norm vectors.
        let norms: usize = graph.convs().filter(|(_, c)| c.norm.is_some()).map(|(_, c)| c.c_out).sum();
        assert_eq!(total as usize, 4 * (graph.cost(64, 64).unwrap().params - norms));
    }

    #[test]
    fn the_peak_of_yolo11n_is_in_its_first_layers() {
        let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
        let groups = crate::group::groups(&graph);
        let bytes = |l: &LiveSet| {
            l.constant + l.per_channel.iter().map(|(g, b)| b * groups.group(*g).width() as f64).sum::<f64>()
        };
        let sets = live_sets(&graph, &groups, 320, 320).unwrap();
        let peak = sets.iter().max_by(|a, b| bytes(a).total_cmp(&bytes(b))).unwrap();
        assert!(peak.node.index() < 12, "{}", graph.node(peak.node).name);
        // At least the output of the first layer and of the second.
        assert!(bytes(peak) >= 4.0 * (16.0 * 160.0 * 160.0 + 32.0 * 80.0 * 80.0));
    }
}
