//! The operators. Tensors are `[N, C, H, W]`.

use super::Param;
use serde::{Deserialize, Serialize};

/// Function applied to every element after a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// The value itself.
    #[default]
    Identity,
    /// `x * sigmoid(x)` (swish).
    Silu,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// The function of one value.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::Identity => x,
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::Relu => x.max(0.0),
        }
    }
}

/// Batch normalisation behind a convolution. Its tensors are `{prefix}.weight`, `.bias`,
/// `.running_mean`, `.running_var`, each `[c_out]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Norm {
    /// Key prefix of the four tensors.
    pub prefix: String,
    /// Added to the variance (1e-3 in YOLO).
    pub eps: f32,
}

impl Norm {
    /// Keys of scale (gamma), shift (beta), running mean and running variance.
    pub fn keys(&self) -> [String; 4] {
        ["weight", "bias", "running_mean", "running_var"].map(|s| format!("{}.{s}", self.prefix))
    }
}

/// A square convolution with zero padding, then an optional bias, an optional batch
/// normalisation, and an activation. A fully connected layer is a convolution over its whole input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv {
    /// Key of the kernel `[c_out, c_in / groups, kernel, kernel]`.
    pub weight: String,
    /// Key of the bias `[c_out]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<String>,
    /// Batch normalisation after the bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step, the same in both directions.
    pub stride: usize,
    /// Zeros added on every side.
    pub padding: usize,
    /// 1, or `c_in` (= `c_out`) for a depthwise convolution.
    pub groups: usize,
    /// Last step.
    pub act: Activation,
}

impl Conv {
    /// Whether every channel is convolved by itself.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.c_in
    }

    /// Shape of the kernel tensor.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.c_out, self.c_in / self.groups.max(1), self.kernel, self.kernel]
    }

    /// Every tensor this convolution needs.
    pub fn params(&self) -> Vec<Param> {
        let per_channel = |key: String, trainable| Param { key, shape: vec![self.c_out], trainable };
        let mut params = vec![Param { key: self.weight.clone(), shape: self.weight_shape().to_vec(), trainable: true }];
        params.extend(self.bias.iter().map(|key| per_channel(key.clone(), true)));
        if let Some(norm) = &self.norm {
            let [scale, shift, mean, var] = norm.keys();
            params.extend([(scale, true), (shift, true), (mean, false), (var, false)].map(|(k, t)| per_channel(k, t)));
        }
        params
    }
}

/// A transposed convolution whose windows meet without overlap: kernel and stride are both `factor`, and nothing is
/// padded. Every input position becomes a square of `factor` x `factor` outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvTranspose {
    /// Key of the kernel `[c_in, c_out, factor, factor]`.
    pub weight: String,
    /// Key of the bias `[c_out]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<String>,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Upsampling factor of both sides.
    pub factor: usize,
}

impl ConvTranspose {
    /// Shape of the kernel tensor.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.c_in, self.c_out, self.factor, self.factor]
    }

    /// Every tensor this layer needs.
    pub fn params(&self) -> Vec<Param> {
        let weight = Param { key: self.weight.clone(), shape: self.weight_shape().to_vec(), trainable: true };
        let bias = |key: &String| Param { key: key.clone(), shape: vec![self.c_out], trainable: true };
        std::iter::once(weight).chain(self.bias.iter().map(bias)).collect()
    }
}

/// Multi-head self-attention over the positions of one packed tensor. The input's channels are,
/// head after head: `key_dim` queries, `key_dim` keys, `head_dim` values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Channels of a query, and of a key, per head.
    pub key_dim: usize,
    /// Channels of a value per head.
    pub head_dim: usize,
    /// Factor on the logits. Kept when queries are pruned: it belongs to the trained function.
    pub scale: f32,
    /// Equal runs of consecutive positions that attend within themselves (Tian et al., "YOLOv12", 2025: area
    /// attention). 1: every position attends to all.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub areas: usize,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

impl Attention {
    /// Channels of one head in the packed input.
    pub fn packed(&self) -> usize {
        2 * self.key_dim + self.head_dim
    }
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// The image, `[N, channels, H, W]`.
    Input {
        /// Channels.
        channels: usize,
    },
    /// Convolution with bias, normalisation and activation.
    Conv(Conv),
    /// Transposed convolution with bias.
    ConvTranspose(ConvTranspose),
    /// A function of every element, where it does not follow a convolution.
    Activate {
        /// The function.
        act: Activation,
    },
    /// Maximum over a window; padding counts as minus infinity.
    MaxPool {
        /// Side of the window.
        kernel: usize,
        /// Step.
        stride: usize,
        /// Positions added on every side.
        padding: usize,
    },
    /// Mean over a window without padding.
    AvgPool {
        /// Side of the window.
        kernel: usize,
        /// Step.
        stride: usize,
    },
    /// Nearest-neighbour upsampling.
    Upsample {
        /// Integer factor of both sides.
        factor: usize,
    },
    /// Channels of all inputs, one after the other.
    Concat,
    /// A run of channels.
    Slice {
        /// First channel.
        start: usize,
        /// Number of channels.
        len: usize,
    },
    /// Element-wise sum of two inputs.
    Add,
    /// `softmax(scale * q^T k)` applied to the values: `[N, heads * head_dim, H, W]`.
    Attention(Attention),
    /// The values of a packed attention input, `[N, heads * head_dim, H, W]`.
    #[serde(rename = "values")]
    AttentionValues(Attention),
    /// Mean over all positions, `[N, C, 1, 1]`.
    GlobalAvgPool,
}

impl Op {
    /// Every tensor this operator needs.
    pub fn params(&self) -> Vec<Param> {
        match self {
            Self::Conv(conv) => conv.params(),
            Self::ConvTranspose(conv) => conv.params(),
            _ => Vec::new(),
        }
    }
}
