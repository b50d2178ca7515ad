//! The network as data: nodes in execution order, without weights and without files.
//!
//! A [`Graph`] is a list of [`Node`]s; every node reads only earlier ones, so the list order is an
//! execution order. An operator ([`Op`]) is a closed enum: what the engine, the candle backend,
//! the grouping and the exporters must handle is what the compiler makes them handle.
//!
//! This module knows no tensor values and no file format. Tensors it needs are named by keys.

mod branch;
mod cost;
mod dtype;
mod head;
mod op;
mod shape;

pub use branch::Branch;
pub use cost::{Cost, conv_macs};
pub use dtype::{Dtype, MAX_INT8_DEPTH};
pub use head::{Boxes, Head};
pub use op::{Activation, Attention, Conv, ConvTranspose, Norm, Op};
pub use shape::{MAX_ELEMENTS, Shape};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// Position of a node in its graph. A type of its own so that it is never mixed up with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The position as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operator, its name and the nodes it reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Unique name, for example `model.4.m.0.cv1`.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The nodes it reads, all earlier in the list.
    pub inputs: Vec<NodeId>,
}

/// A network: nodes in execution order. What is read from a file has passed [`Graph::check`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Graph {
    /// The nodes; each reads only earlier ones. The first is the only [`Op::Input`].
    pub nodes: Vec<Node>,
    /// The nodes whose tensors the caller gets, in the order that [`Head`] describes.
    pub outputs: Vec<NodeId>,
    /// The meaning of the outputs.
    pub head: Head,
    /// What its convolutions compute in.
    #[serde(default, skip_serializing_if = "Dtype::is_f32")]
    pub dtype: Dtype,
    /// By name of a convolution the dtype that it computes in, where that is not [`Graph::dtype`]: layers of an int8
    /// network whose quantization would cost too much accuracy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exceptions: BTreeMap<String, Dtype>,
}

/// A graph as a file has it.
#[derive(Deserialize)]
#[serde(rename = "Graph")]
struct Unchecked {
    nodes: Vec<Node>,
    outputs: Vec<NodeId>,
    head: Head,
    #[serde(default)]
    dtype: Dtype,
    #[serde(default)]
    exceptions: BTreeMap<String, Dtype>,
}

impl TryFrom<Unchecked> for Graph {
    type Error = GraphError;

    fn try_from(Unchecked { nodes, outputs, head, dtype, exceptions }: Unchecked) -> Result<Self, GraphError> {
        let graph = Self { nodes, outputs, head, dtype, exceptions };
        graph.check().map(|()| graph)
    }
}

/// A graph that contradicts itself.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("layer `{node}`: {problem}")]
pub struct GraphError {
    /// Name of the node (or its number where it has none).
    pub node: String,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// A tensor that a graph needs: its key, its shape, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Key in the weights, for example `model.0.conv.weight`.
    pub key: String,
    /// Shape in the order of PyTorch: `[c_out, c_in / groups, k, k]` or `[c_out]`.
    pub shape: Vec<usize>,
    /// Whether an optimizer may change it (running statistics are not trained).
    pub trainable: bool,
}

/// The most nodes a graph may have (YOLO11x has fewer than 400).
pub const MAX_NODES: usize = 20_000;

impl Graph {
    /// The node behind an id.
    ///
    /// # Panics
    /// If the id is of another graph; [`Graph::check`] refuses such graphs.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// All ids in execution order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// All convolutions in execution order.
    pub fn convs(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Conv)> {
        self.nodes.iter().enumerate().filter_map(|(i, node)| match &node.op {
            Op::Conv(conv) => Some((NodeId(i as u32), conv)),
            _ => None,
        })
    }

    /// The node of a name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().position(|n| n.name == name).map(|i| NodeId(i as u32))
    }

    /// Channels of the input image.
    pub fn input_channels(&self) -> usize {
        match self.nodes.first().map(|n| &n.op) {
            Some(Op::Input { channels }) => *channels,
            _ => 0,
        }
    }

    /// For every node the nodes that read it, in execution order (twice where it is read twice).
    pub fn consumers(&self) -> Vec<Vec<NodeId>> {
        let mut readers = vec![Vec::new(); self.nodes.len()];
        for id in self.ids() {
            for input in &self.node(id).inputs {
                readers[input.index()].push(id);
            }
        }
        readers
    }

    /// The largest stride of the network: image sides must be multiples of it.
    pub fn stride(&self) -> usize {
        self.head.boxes().and_then(|boxes| boxes.strides.iter().copied().max()).unwrap_or(1)
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.head.classes()
    }

    /// Every tensor the graph needs, in execution order.
    pub fn params(&self) -> Vec<Param> {
        self.nodes.iter().flat_map(|node| node.op.params()).collect()
    }

    /// Channels of every node's tensor, in node order.
    ///
    /// # Errors
    /// As [`Graph::check`], which this is a part of.
    pub fn channels(&self) -> Result<Vec<usize>, GraphError> {
        shape::channels(self)
    }

    /// Refuses a graph that contradicts itself: dangling or forward references, wrong channel
    /// counts, zero or absurd sizes, duplicate names, outputs that the head does not describe.
    ///
    /// # Errors
    /// Names the first layer that is wrong.
    pub fn check(&self) -> Result<(), GraphError> {
        shape::check(self)
    }
}

/// Puts a graph together node by node; every push returns the id to wire further.
#[derive(Default)]
pub struct Builder {
    nodes: Vec<Node>,
}

impl Builder {
    /// Appends a node.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        id
    }

    /// Closes the graph and checks it.
    ///
    /// # Errors
    /// As [`Graph::check`].
    pub fn finish(self, outputs: Vec<NodeId>, head: Head) -> Result<Graph, GraphError> {
        let graph = Graph { nodes: self.nodes, outputs, head, dtype: Dtype::F32, exceptions: BTreeMap::new() };
        graph.check()?;
        Ok(graph)
    }
}
