//! The dtype that a network computes in: f32, f16 or int8.

use super::{Conv, Graph, GraphError, NodeId, Op};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Dtype of the convolutions that [`Graph::layer_dtypes`] names; the others are f32, and so are the tensors between the
/// layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point, IEEE 754 binary16. A CPU without f16 arithmetic stores the weights in f16 and computes in
    /// f32.
    F16,
    /// 8-bit integers.
    Int8,
}

impl Dtype {
    /// All with the name users type.
    pub const ALL: [(&str, Self); 3] = [("f32", Self::F32), ("f16", Self::F16), ("int8", Self::Int8)];

    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, dtype)| *dtype)
    }

    /// Its name in profiles, reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// Whether it is the default.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// The most products of 0..=255 with -127..=127 whose sum fits an i32.
pub const MAX_INT8_DEPTH: usize = i32::MAX as usize / (255 * 127);

impl Graph {
    /// Dtype of every node. Where the graph is not f32, all dense convolutions compute in its dtype but those that read
    /// the image (few channels, and all the information there is) and those whose outputs the caller reads (no later
    /// layer corrects their errors). Of these, [`Graph::exceptions`] have a dtype of their own.
    pub fn layer_dtypes(&self) -> Vec<Dtype> {
        let dtype = |id: NodeId| {
            let Op::Conv(conv) = &self.node(id).op else { return Dtype::F32 };
            let source = self.node(id).inputs.first().map(|input| &self.node(*input).op);
            let inside = !matches!(source, None | Some(Op::Input { .. })) && !self.outputs.contains(&id);
            let dtype = self.exceptions.get(&self.node(id).name).copied().unwrap_or(self.dtype);
            let depth = conv.kernel.saturating_mul(conv.kernel).saturating_mul(conv.c_in);
            let fits = dtype != Dtype::Int8 || depth <= MAX_INT8_DEPTH;
            if inside && conv.groups == 1 && fits { dtype } else { Dtype::F32 }
        };
        self.ids().map(dtype).collect()
    }

    /// The dense convolutions that compute in int8 or f16.
    pub fn narrow_convs(&self) -> impl Iterator<Item = (NodeId, &Conv)> {
        let dtypes = self.layer_dtypes();
        self.convs().filter(move |(id, _)| !dtypes[id.index()].is_f32())
    }

    /// The convolutions that compute in a dtype.
    pub fn convs_in(&self, dtype: Dtype) -> impl Iterator<Item = (NodeId, &Conv)> {
        let dtypes = self.layer_dtypes();
        self.convs().filter(move |(id, _)| dtypes[id.index()] == dtype)
    }

    /// Refuses exceptions in a network that is not int8, and those that name no convolution or are int8 themselves.
    pub(super) fn check_exceptions(&self) -> Result<(), GraphError> {
        let convs: HashSet<&str> = self.convs().map(|(id, _)| self.node(id).name.as_str()).collect();
        let problem = |(name, dtype): (&String, &Dtype)| {
            let what = if self.dtype != Dtype::Int8 {
                format!("has a dtype of its own in a network of {}, expected int8", self.dtype.name())
            } else if !convs.contains(name.as_str()) {
                "has a dtype of its own, but the graph has no such convolution".to_owned()
            } else if *dtype == Dtype::Int8 {
                "has the dtype int8 of its own, expected f32 or f16".to_owned()
            } else {
                return None;
            };
            Some(GraphError { node: name.clone(), problem: what })
        };
        self.exceptions.iter().find_map(problem).map_or(Ok(()), Err)
    }
}
