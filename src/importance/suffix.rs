//! The part of a network that changes with the width of one group: what lies before it is computed once for all widths,
//! and what lies beside it is not computed again.

use crate::graph::{Graph, NodeId};
use crate::group::{GroupId, Groups};

/// The nodes that one group changes, and what they start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suffix {
    /// Nodes that the group does not change and that some node which it changes reads, ascending.
    pub given: Vec<NodeId>,
    /// Positions among the graph's outputs of those that change.
    pub outputs: Vec<usize>,
}

impl Suffix {
    /// The suffix of a group: the tensors with its channels, and all that is computed of them.
    pub fn of(graph: &Graph, groups: &Groups, group: usize) -> Self {
        let mine = Some(GroupId(group as u32));
        let mut changed = vec![false; graph.nodes.len()];
        for id in graph.ids() {
            let channels = &groups.channels[id.index()];
            changed[id.index()] = channels.iter().any(|atom| groups.group_of[atom.index()] == mine)
                || graph.node(id).inputs.iter().any(|input| changed[input.index()]);
        }
        let read = |id: NodeId| graph.node(id).inputs.iter().copied();
        let mut given: Vec<NodeId> = graph.ids().filter(|id| changed[id.index()]).flat_map(read).collect();
        given.retain(|id| !changed[id.index()]);
        given.sort_unstable();
        given.dedup();
        let outputs = graph.outputs.iter().enumerate();
        let outputs = outputs.filter(|(_, id)| changed[id.index()]).map(|(at, _)| at).collect();
        Self { given, outputs }
    }

    /// The node after whose step all that is given is there.
    pub fn ready(&self) -> NodeId {
        self.given.last().copied().unwrap_or(NodeId(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::group::groups;
    use crate::zoo::yolo11::{Scale, detect};

    #[test]
    fn a_group_of_a_head_changes_one_output_and_starts_at_its_neighbour() {
        let graph = detect(Scale::of('n').unwrap(), 80).unwrap();
        let groups = groups(&graph);
        let mut shorter = 0;
        for (number, group) in groups.groups.iter().enumerate() {
            let suffix = Suffix::of(&graph, &groups, number);
            assert!(!suffix.outputs.is_empty() && !suffix.given.is_empty(), "{}", group.name);
            // Whatever makes the channels reads something that is given, or something with these channels.
            for producer in &group.producers {
                let input = graph.node(*producer).inputs[0];
                let same = groups.channels[input.index()].iter().any(|atom| group.atoms.contains(atom));
                assert!(same || suffix.given.contains(&input) || input > suffix.given[0], "{}", group.name);
            }
            shorter += usize::from(suffix.outputs.len() == 1);
            if suffix.given == [NodeId(0)] {
                assert!(matches!(graph.node(NodeId(0)).op, Op::Input { .. }));
                assert_eq!(suffix.outputs.len(), graph.outputs.len());
            }
        }
        // Of each of six branches at least one group changes nothing else.
        assert!(shorter >= 6, "{shorter}");
    }
}
