//! Dead nodes: what is removed from a network with whole groups.
//!
//! A tensor without channels is absent, and so is what is computed from absent tensors alone. A convolution that reads
//! nothing is absent too, although its own channels may live on elsewhere: the sum that it is added to loses this
//! operand. That is how a residual block is removed. A concatenation keeps the inputs that are left.

use super::AtomId;
use crate::graph::{Graph, NodeId, Op};

/// Which nodes are removed, and which of the others are still needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadNodes {
    /// By node: whether its tensor is removed.
    pub absent: Vec<bool>,
    /// By node: whether an output still depends on it. Absent nodes and sums with one operand left are not needed.
    pub needed: Vec<bool>,
}

impl DeadNodes {
    /// Follows the removed atoms through the graph; `channels` holds the atoms of every node.
    ///
    /// # Errors
    /// Names a node that would be left without a part that the network still counts on: a concatenation with an
    /// input that is removed although its channels are not, an attention without keys or without values, an output.
    pub fn of(graph: &Graph, channels: &[Vec<AtomId>], removed: &dyn Fn(AtomId) -> bool) -> Result<Self, NodeId> {
        let mut absent = vec![false; graph.nodes.len()];
        for id in graph.ids() {
            let node = graph.node(id);
            let mine = &channels[id.index()];
            let all_removed = mine.iter().all(|atom| removed(*atom));
            let missing = |input: &&NodeId| absent[input.index()];
            let inputs_removed = !node.inputs.is_empty() && node.inputs.iter().all(|input| missing(&input));
            absent[id.index()] = match &node.op {
                Op::Input { .. } => false,
                Op::Concat => {
                    let live = |input: &&NodeId| channels[input.index()].iter().any(|atom| !removed(*atom));
                    if !all_removed && node.inputs.iter().filter(missing).any(|input| live(&input)) {
                        return Err(id);
                    }
                    all_removed
                }
                Op::Attention(a) => {
                    // All heads keep as much as the first.
                    let packed = &channels[node.inputs[0].index()];
                    let parts = [&packed[..a.key_dim], &packed[2 * a.key_dim..a.packed()]];
                    let [keys, values] = parts.map(|part| part.iter().all(|atom| removed(*atom)));
                    if !inputs_removed && (keys || values) {
                        return Err(id);
                    }
                    inputs_removed
                }
                _ => all_removed || inputs_removed,
            };
        }
        if let Some(output) = graph.outputs.iter().find(|id| absent[id.index()]) {
            return Err(*output);
        }
        let mut all = Self { needed: vec![false; graph.nodes.len()], absent };
        for output in &graph.outputs {
            let output = all.stand_in(graph, *output);
            all.needed[output.index()] = true;
        }
        for id in graph.ids().rev().filter(|id| id.index() > 0) {
            if all.needed[id.index()] {
                for input in graph.node(id).inputs.iter().filter(|input| !all.absent[input.index()]) {
                    let input = all.stand_in(graph, *input);
                    all.needed[input.index()] = true;
                }
            }
        }
        all.needed[0] = true;
        Ok(all)
    }

    /// The node whose tensor stands for a present one: itself, or the operand that is left of a sum.
    pub fn stand_in(&self, graph: &Graph, id: NodeId) -> NodeId {
        let mut id = id;
        while let (Op::Add, [a, b]) = (&graph.node(id).op, &graph.node(id).inputs[..]) {
            id = match (self.absent[a.index()], self.absent[b.index()]) {
                (true, false) => *b,
                (false, true) => *a,
                _ => return id,
            };
        }
        id
    }

    /// Whether nothing is removed.
    pub fn is_empty(&self) -> bool {
        self.absent.iter().all(|absent| !absent)
    }
}
