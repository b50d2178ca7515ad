//! The numbers that a network computes with.

use super::{Graph, NodeId, Op};
use serde::{Deserialize, Serialize};

/// The numbers of the convolutions. Tensors between the layers are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 8-bit whole numbers where [`Graph::int8_layers`] says so, f32 elsewhere.
    Int8,
}

impl Dtype {
    /// All with the name users type.
    pub const ALL: [(&str, Self); 2] = [("f32", Self::F32), ("int8", Self::Int8)];

    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, dtype)| *dtype)
    }

    /// Its name in profiles, reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }

    /// Whether it is the default.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }
}

/// The most products of 0..=255 with -127..=127 whose sum an i32 surely holds.
pub const MAX_INT8_DEPTH: usize = i32::MAX as usize / (255 * 127);

impl Graph {
    /// For every node whether it is a convolution in 8-bit whole numbers. None is where the graph is f32. Else all dense
    /// ones are but those that read the image (few channels, and all that the network knows) and those whose outputs the
    /// caller reads (what they say is not refined by any layer behind them).
    pub fn int8_layers(&self) -> Vec<bool> {
        let int8 = |id: NodeId| match &self.node(id).op {
            Op::Conv(conv) => {
                let source = self.node(id).inputs.first().map(|input| &self.node(*input).op);
                let inside = !matches!(source, None | Some(Op::Input { .. })) && !self.outputs.contains(&id);
                let depth = conv.kernel.saturating_mul(conv.kernel).saturating_mul(conv.c_in);
                inside && conv.groups == 1 && depth <= MAX_INT8_DEPTH
            }
            _ => false,
        };
        self.ids().map(|id| self.dtype == Dtype::Int8 && int8(id)).collect()
    }
}
