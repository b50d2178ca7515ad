//! The runtimes that a profile may choose for its device.

use crate::graph::Dtype;
use serde::Serialize;

/// What runs networks on the device, as `[bench] runtime` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// The runtime of secateurs.
    #[default]
    Engine,
    /// A benchmark command of the user.
    Command,
    /// NVIDIA's TensorRT, through `trtexec`.
    TensorRt,
    /// ONNX Runtime, through its Python package.
    OnnxRuntime,
    /// ncnn, through its Python package.
    Ncnn,
}

impl RuntimeKind {
    /// Every runtime with the name users type.
    pub const ALL: [(&'static str, Self); 5] = [
        ("engine", Self::Engine),
        ("command", Self::Command),
        ("tensorrt", Self::TensorRt),
        ("onnxruntime", Self::OnnxRuntime),
        ("ncnn", Self::Ncnn),
    ];

    /// The name users type.
    pub fn key(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| *name)
    }

    /// The name that its makers give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine => "the runtime of secateurs",
            Self::Command => "a benchmark command",
            Self::TensorRt => "TensorRT",
            Self::OnnxRuntime => "ONNX Runtime",
            Self::Ncnn => "ncnn",
        }
    }

    /// Whether secateurs drives it on the device: it is neither its own nor behind a command of the user.
    pub fn is_driven(self) -> bool {
        matches!(self, Self::TensorRt | Self::OnnxRuntime | Self::Ncnn)
    }

    /// The dtypes that it computes an exported network in. ONNX Runtime rounds nothing to f16 by itself, and ncnn takes no
    /// pairs of `QuantizeLinear` and `DequantizeLinear`.
    pub fn dtypes(self) -> &'static [Dtype] {
        match self {
            Self::Engine | Self::TensorRt => &[Dtype::F32, Dtype::F16, Dtype::Int8],
            Self::OnnxRuntime => &[Dtype::F32, Dtype::Int8],
            Self::Ncnn => &[Dtype::F32, Dtype::F16],
            Self::Command => &[Dtype::F32],
        }
    }
}
