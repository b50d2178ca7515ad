//! Where the tensors of nodes lie: a run of channels of a root tensor. A slice lies within its input, and what is joined
//! by a concat lies within that from the start, wherever that is possible; then neither they nor their gradients are
//! ever copied.

use crate::graph::{Graph, NodeId, Op};

/// Where the tensor of a node lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    /// The node whose tensor is the whole.
    pub root: usize,
    /// First channel in it.
    pub start: usize,
}

/// The homes of all nodes. `apart` are nodes that pass no gradient to nodes that are not so marked: they share no memory
/// with those, since what shares memory shares gradients.
pub(super) fn homes(graph: &Graph, channels: &[usize], apart: &[bool]) -> Vec<Home> {
    // By node the tensor that it is part of, and the first channel there.
    let mut parents: Vec<Option<(usize, usize)>> = vec![None; graph.nodes.len()];
    for id in graph.ids() {
        let node = graph.node(id);
        match (&node.op, &node.inputs[..]) {
            (Op::Slice { start, .. }, [input]) if apart[id.index()] == apart[input.index()] => {
                parents[id.index()] = Some((input.index(), *start));
            }
            (Op::Concat, inputs) => {
                let mut position = 0;
                for input in inputs {
                    place(graph, &mut parents, (channels, apart), (id, *input, position));
                    position += channels[input.index()];
                }
            }
            _ => {}
        }
    }
    (0..graph.nodes.len()).map(|node| resolve(&parents, node)).collect()
}

fn resolve(parents: &[Option<(usize, usize)>], node: usize) -> Home {
    let mut home = Home { root: node, start: 0 };
    while let Some((parent, start)) = parents[home.root] {
        home = Home { root: parent, start: home.start + start };
    }
    home
}

/// Lays the root that an input of a concat is part of into the concat, if all of that root belongs there.
fn place(
    graph: &Graph,
    parents: &mut [Option<(usize, usize)>],
    (channels, apart): (&[usize], &[bool]),
    (concat, input, position): (NodeId, NodeId, usize),
) {
    let at = concat.index();
    let home = resolve(parents, input.index());
    let is_image = matches!(graph.nodes[home.root].op, Op::Input { .. });
    if home.root == at || is_image || apart[home.root] != apart[at] || home.start > position {
        return;
    }
    let first = position - home.start;
    // By channel of the root whether an input of the concat has it in its place.
    let mut covered = vec![false; channels[home.root]];
    let mut behind = 0;
    for other in &graph.node(concat).inputs {
        let part = resolve(parents, other.index());
        let len = channels[other.index()];
        if part.root == home.root && behind >= part.start && behind - part.start == first {
            covered[part.start..part.start + len].fill(true);
        }
        behind += len;
    }
    if covered.into_iter().all(|covered| covered) {
        parents[home.root] = Some((at, first));
    }
}
