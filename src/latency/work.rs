//! Which operators the engine computes in place: sums in the epilogue of a convolution, members of a concat that are
//! written where it wants them. Estimates count what is left.

use crate::graph::{Graph, NodeId, Op, Shape};

/// Whether a sum is computed by the convolution before it: one that nobody else reads and that runs after what makes
/// the other operand.
pub(super) fn is_fused_sum(graph: &Graph, readers: &[Vec<NodeId>], index: usize) -> bool {
    let inputs = &graph.nodes[index].inputs;
    let (Some(early), Some(late)) = (inputs.iter().min(), inputs.iter().max()) else { return false };
    let alone = early != late && readers[late.index()].len() == 1 && !graph.outputs.contains(late);
    alone && matches!(graph.node(*late).op, Op::Conv(_))
}

/// Channels of every concat that are copied into it: those of members that lie in the tensor of an earlier concat, or
/// are a part of a tensor whose rest goes elsewhere. 0 for all other operators.
pub(super) fn copied_channels(graph: &Graph, shapes: &[Shape]) -> Vec<usize> {
    let mut placed = vec![false; graph.nodes.len()];
    let mut copied = vec![0; graph.nodes.len()];
    for id in graph.ids().filter(|id| matches!(graph.node(*id).op, Op::Concat)) {
        let members = &graph.node(id).inputs;
        let source = |member: &NodeId| match graph.node(*member).op {
            Op::Slice { .. } => graph.node(*member).inputs.first().copied(),
            _ => None,
        };
        let mut here: Vec<NodeId> = Vec::new();
        for member in members {
            let tensor = source(member).unwrap_or(*member);
            let channels = shapes[member.index()].c;
            let of_tensor = members.iter().filter(|other| source(other) == Some(tensor));
            let together: usize = of_tensor.map(|other| shapes[other.index()].c).sum();
            let whole = source(member).is_none() || together == shapes[tensor.index()].c;
            let again = here.contains(&tensor) && source(member).is_none();
            if placed[tensor.index()] || !whole || again {
                copied[id.index()] += channels;
            } else {
                here.push(tensor);
            }
        }
        here.iter().for_each(|tensor| placed[tensor.index()] = true);
    }
    copied
}
