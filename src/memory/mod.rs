//! Memory of a plan as a function of the groups' widths, for the search.
//!
//! What the engine really allocates is known exactly before it runs ([`crate::engine::plan_memory`]), but only for a
//! finished graph. Here the same quantity is written as terms that the search can bound: at every step the bytes of
//! all live tensors, linear in the widths, and the bytes of all kernels, as they are packed. Splits are views,
//! concatenations are written in place and sums into the tensor of their second operand, as in the engine; for the rest
//! (fragmentation, and the channels that fill up parts of tensors) plans are checked against the exact figure.

mod packed;

use crate::engine::Device;
use crate::graph::{Dtype, Graph, GraphError, NodeId, Op};
use crate::group::{Composition, GroupId, Groups};
use packed::{Packing, packing};
use std::collections::BTreeMap;

const F32: f64 = 4.0;

/// A graph at an image size, on the device that runs it.
#[derive(Clone, Copy, Debug)]
pub struct Deployed<'a> {
    /// The graph, in the dtype that it runs in.
    pub graph: &'a Graph,
    /// Height and width of the image.
    pub size: (usize, usize),
    /// What runs it.
    pub device: Device,
}

impl Deployed<'_> {
    /// Bytes of a value of a tensor between the layers: only a GPU holds tensors in f16.
    fn value(&self) -> f64 {
        if self.device.is_cuda() && self.graph.dtype == Dtype::F16 { 2.0 } else { F32 }
    }
}

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
    input: Composition,
    output: Composition,
    packing: Packing,
}

impl KernelBytes {
    /// Bytes at the given width of every group.
    pub fn bytes(&self, width: impl Fn(GroupId) -> usize) -> f64 {
        self.packing.bytes(self.input.width(&width), self.output.width(&width))
    }
}

/// The live sets of all layers.
///
/// # Errors
/// As [`Graph::shapes`].
pub fn live_sets(deployed: &Deployed, groups: &Groups) -> Result<Vec<LiveSet>, GraphError> {
    let Deployed { graph, size: (height, width), device } = *deployed;
    let shapes = graph.shapes(height, width)?;
    let (homes, dtypes) = (homes(graph), graph.layer_dtypes());
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
        let mut add = |of: NodeId, value: f64| {
            let (bytes, width) = (value * shapes[of.index()].area() as f64, groups.composition(of));
            live.constant += bytes * width.fixed as f64;
            let parts = width.parts.iter();
            parts.for_each(|(group, times)| *per_channel.entry(*group).or_default() += bytes * *times as f64);
        };
        for home in life.iter().filter(|(_, (from, to))| (*from..=*to).contains(&node)).map(|(home, _)| *home) {
            add(home, deployed.value());
        }
        // A GPU quantizes the whole input of a layer in int8 first.
        if device.is_cuda() && dtypes[node.index()] == Dtype::Int8 {
            add(graph.node(node).inputs[0], 1.0);
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

/// The kernels' sizes as the engine packs them.
///
/// # Errors
/// As [`Graph::shapes`].
pub fn kernels(deployed: &Deployed, groups: &Groups) -> Result<Vec<KernelBytes>, GraphError> {
    let Deployed { graph, size: (height, width), .. } = *deployed;
    let shapes = graph.shapes(height, width)?;
    let dtypes = graph.layer_dtypes();
    let of = |node: NodeId| {
        let packing = packing(deployed, node, shapes[node.index()], dtypes[node.index()])?;
        let (input, output) = (groups.composition(graph.node(node).inputs[0]), groups.composition(node));
        let mut scope: Vec<GroupId> = input.parts.iter().chain(&output.parts).map(|(group, _)| *group).collect();
        scope.sort_unstable();
        scope.dedup();
        Some(KernelBytes { node, scope, input, output, packing })
    };
    Ok(graph.ids().filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Options, plan_memory};
    use crate::zoo::yolo11::{Scale, detect};

    /// Bytes of the kernels, and of the largest live set, with every group at full width or some share of it.
    fn bytes(deployed: &Deployed) -> (f64, f64) {
        let groups = crate::group::groups(deployed.graph);
        let full = |group: GroupId| groups.group(group).width();
        let kernels = kernels(deployed, &groups).unwrap().iter().map(|kernel| kernel.bytes(full)).sum();
        let live = live_sets(deployed, &groups).unwrap();
        (kernels, live.iter().map(|set| set.bytes(full)).fold(0.0, f64::max))
    }

    #[test]
    fn kernel_bytes_are_four_per_value() {
        let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
        // At 32 px no image is large enough for a fast algorithm, whose kernels are larger.
        let (total, _) = bytes(&Deployed { graph: &graph, size: (32, 32), device: Device::Cpu });
        // Kernels and one bias per channel: the parameters less one of the two batch-norm vectors.
        let norms: usize = graph.convs().filter(|(_, c)| c.norm.is_some()).map(|(_, c)| c.c_out).sum();
        assert_eq!(total as usize, 4 * (graph.cost(64, 64).unwrap().params - norms));
    }

    #[test]
    fn the_peak_of_yolo11n_is_in_its_first_layers() {
        let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
        let groups = crate::group::groups(&graph);
        let full = |group: GroupId| groups.group(group).width();
        let sets = live_sets(&Deployed { graph: &graph, size: (320, 320), device: Device::Cpu }, &groups).unwrap();
        let peak = sets.iter().max_by(|a, b| a.bytes(full).total_cmp(&b.bytes(full))).unwrap();
        assert!(peak.node.index() < 12, "{}", graph.node(peak.node).name);
        // At least the output of the first layer and of the second.
        assert!(peak.bytes(full) >= 4.0 * (16.0 * 160.0 * 160.0 + 32.0 * 80.0 * 80.0));
    }

    /// What the search counts is what the engine holds on a GPU, in every dtype.
    #[test]
    fn memory_of_a_gpu_is_planned_as_it_computes() {
        let f32 = detect(Scale::of('n').unwrap(), 80).unwrap();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Int8] {
            let graph = Graph { dtype, ..f32.clone() };
            for side in [320, 640] {
                let (kernels, live) = bytes(&Deployed { graph: &graph, size: (side, side), device: Device::Cuda(0) });
                let options = Options { device: Device::Cuda(0), ..Options::default() };
                let exact = plan_memory(&graph, side, side, &options).unwrap();
                let share = |found: f64, exact: usize| found / exact as f64;
                let text = format!("{dtype:?} at {side}: kernels {kernels}, live {live}, {exact:?}");
                // Fragmentation of the arena is not counted, on no device.
                let (kernels, live) = (share(kernels, exact.weights), share(live, exact.arena));
                assert!((kernels - 1.0).abs() < 0.02 && (0.6..1.02).contains(&live), "{text}");
            }
        }
    }
}
