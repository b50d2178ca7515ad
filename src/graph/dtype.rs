//! The dtype that a network computes in: f32, f16 or int8.

use super::{Conv, Graph, NodeId, Op};
use serde::{Deserialize, Serialize};

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
    /// layer corrects their errors).
    pub fn layer_dtypes(&self) -> Vec<Dtype> {
        let narrow = |id: NodeId| match &self.node(id).op {
            Op::Conv(conv) => {
                let source = self.node(id).inputs.first().map(|input| &self.node(*input).op);
                let inside = !matches!(source, None | Some(Op::Input { .. })) && !self.outputs.contains(&id);
                let depth = conv.kernel.saturating_mul(conv.kernel).saturating_mul(conv.c_in);
                inside && conv.groups == 1 && (self.dtype != Dtype::Int8 || depth <= MAX_INT8_DEPTH)
            }
            _ => false,
        };
        self.ids().map(|id| if narrow(id) { self.dtype } else { Dtype::F32 }).collect()
    }

    /// The dense convolutions that compute in the graph's dtype, unless that is f32.
    pub fn narrow_convs(&self) -> impl Iterator<Item = (NodeId, &Conv)> {
        let dtypes = self.layer_dtypes();
        self.convs().filter(move |(id, _)| !dtypes[id.index()].is_f32())
    }
}
