//! Which tensors of a graph the caller gives, and which nodes must be computed of them.

use crate::graph::{Graph, GraphError, NodeId};

/// What a run starts from.
#[derive(Debug)]
pub(super) struct Given {
    nodes: Vec<NodeId>,
    /// By node: whether its tensor must be there.
    needed: Vec<bool>,
}

impl Given {
    /// The tensors of `nodes`, and what is needed to compute the nodes in `wanted`; where `nodes` is empty the image,
    /// and every node.
    ///
    /// # Errors
    /// Names the first layer that would have to read the image, which is not given.
    pub fn new(graph: &Graph, nodes: &[NodeId], wanted: impl IntoIterator<Item = NodeId>) -> Result<Self, GraphError> {
        if nodes.is_empty() {
            return Ok(Self { nodes: vec![NodeId(0)], needed: vec![true; graph.nodes.len()] });
        }
        let mut given = Self { nodes: nodes.to_vec(), needed: vec![false; graph.nodes.len()] };
        let mut open: Vec<NodeId> = wanted.into_iter().collect();
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut given.needed[id.index()], true) || given.gives(id) {
                continue;
            }
            let node = graph.node(id);
            if node.inputs.is_empty() {
                let problem = "is needed, and not among the tensors that are given".into();
                return Err(GraphError { node: node.name.clone(), problem });
            }
            open.extend(&node.inputs);
        }
        Ok(given)
    }

    /// In the order in which the caller gives them.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Whether the caller gives a node's tensor.
    pub fn gives(&self, id: NodeId) -> bool {
        self.nodes.contains(&id)
    }

    /// Whether anything that is wanted needs a node's tensor.
    pub fn needs(&self, id: NodeId) -> bool {
        self.needed[id.index()]
    }

    /// Whether the image is all that is given.
    pub fn is_image(&self) -> bool {
        self.nodes == [NodeId(0)]
    }
}
