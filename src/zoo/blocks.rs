//! The blocks that the YOLO family is made of, and where their widths come from.

use crate::graph::{Activation, Attention, Builder, Conv, ConvTranspose, GraphError, NodeId, Norm, Op};
use thiserror::Error;

/// Where a builder learns the sizes it does not fix itself: a published scale, or the tensors of a
/// checkpoint. Every question carries the answer of the published rule.
pub trait Blueprint {
    /// Output channels of the convolution whose kernel has this key.
    ///
    /// # Errors
    /// If there is no such tensor, or it is not a kernel.
    fn width(&self, weight_key: &str, rule: usize) -> Result<usize, ZooError>;

    /// How many of `{prefix}.0`, `{prefix}.1`, … there are.
    fn repeats(&self, prefix: &str, rule: usize) -> usize;

    /// Whether there is any tensor below this module name.
    fn has(&self, module: &str, rule: bool) -> bool;

    /// Whether a convolution block carries a bias in place of its normalisation (a fused checkpoint).
    fn fused(&self, module: &str) -> bool {
        let _ = module;
        false
    }

    /// Activation of a module that ends in one, if the source knows it.
    fn activation(&self, module: &str, rule: Activation) -> Activation {
        let _ = module;
        rule
    }

    /// Number of heads of an attention module, if the source knows it.
    fn heads(&self, module: &str, rule: usize) -> usize {
        let _ = module;
        rule
    }
}

/// Weights that are not a network we can build.
#[derive(Debug, Error, PartialEq)]
pub enum ZooError {
    /// A tensor is missing or has an impossible shape.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The sizes contradict each other.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// A tensor that the builder asked for and could not use.
#[derive(Debug, Error, PartialEq)]
#[error("tensor `{key}`: {problem}")]
pub struct Unknown {
    /// Key of the tensor.
    pub key: String,
    /// What was found and what was expected.
    pub problem: String,
}

/// Channels of a scale for a published number of them: capped, multiplied, and rounded up to a multiple of 8.
pub(super) fn channels(published: usize, width: f64, most: usize) -> usize {
    let scaled = published.min(most) as f64 * width;
    ((scaled / 8.0).ceil() as usize).max(1) * 8
}

/// Repeated blocks of a scale for a published number of them.
pub(super) fn repeats(published: usize, depth: f64) -> usize {
    ((published as f64 * depth).round() as usize).max(1)
}

/// A graph under construction together with its blueprint.
pub(super) struct Net<'a> {
    pub graph: Builder,
    pub plan: &'a dyn Blueprint,
    /// Added to the variance by normalisations.
    pub eps: f32,
    /// Output channels of every node so far.
    channels: Vec<usize>,
}

/// Kernel, stride and activation of a convolution block.
#[derive(Clone, Copy)]
pub(super) struct ConvArgs {
    pub kernel: usize,
    pub stride: usize,
    pub act: Activation,
    pub depthwise: bool,
}

impl ConvArgs {
    /// A dense block with SiLU and stride 1.
    pub fn k(kernel: usize) -> Self {
        Self { kernel, stride: 1, act: Activation::Silu, depthwise: false }
    }
}

impl<'a> Net<'a> {
    /// A graph that begins with an image, and the image.
    pub fn new(plan: &'a dyn Blueprint, input_channels: usize, eps: f32) -> (Self, NodeId) {
        let mut net = Self { graph: Builder::default(), plan, eps, channels: Vec::new() };
        let input = net.push("images", Op::Input { channels: input_channels }, &[], input_channels);
        (net, input)
    }

    pub fn channels(&self, id: NodeId) -> usize {
        self.channels[id.index()]
    }

    fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId], channels: usize) -> NodeId {
        self.channels.push(channels);
        self.graph.push(name, op, inputs)
    }

    /// `Conv`: convolution without bias, batch normalisation, activation; in a fused checkpoint convolution with bias.
    pub fn conv(&mut self, name: &str, input: NodeId, rule: usize, args: ConvArgs) -> Result<NodeId, ZooError> {
        let weight = format!("{name}.conv.weight");
        let c_in = self.channels(input);
        let c_out = if args.depthwise { c_in } else { self.plan.width(&weight, rule)? };
        let (bias, norm) = if self.plan.fused(name) {
            (Some(format!("{name}.conv.bias")), None)
        } else {
            (None, Some(Norm { prefix: format!("{name}.bn"), eps: self.eps }))
        };
        let act = self.plan.activation(name, args.act);
        let op = Op::Conv(Conv {
            weight,
            bias,
            norm,
            c_in,
            c_out,
            kernel: args.kernel,
            stride: args.stride,
            padding: args.kernel / 2,
            groups: if args.depthwise { c_in } else { 1 },
            act,
        });
        Ok(self.push(name, op, &[input], c_out))
    }

    /// The last, plain 1x1 convolution of a head branch.
    pub fn predict(&mut self, name: &str, input: NodeId, c_out: usize) -> NodeId {
        let op = Op::Conv(Conv {
            weight: format!("{name}.weight"),
            bias: Some(format!("{name}.bias")),
            norm: None,
            c_in: self.channels(input),
            c_out,
            kernel: 1,
            stride: 1,
            padding: 0,
            groups: 1,
            act: Activation::Identity,
        });
        self.push(name, op, &[input], c_out)
    }

    /// A transposed 2x2 convolution with stride 2 and a bias.
    pub fn conv_transpose(&mut self, name: &str, input: NodeId, c_out: usize) -> NodeId {
        let op = Op::ConvTranspose(ConvTranspose {
            weight: format!("{name}.weight"),
            bias: Some(format!("{name}.bias")),
            c_in: self.channels(input),
            c_out,
            factor: 2,
        });
        self.push(name, op, &[input], c_out)
    }

    /// A convolution whose parts have names of their own: `{name}.weight`, and the normalisation's prefix or a bias.
    pub fn plain(&mut self, name: &str, input: NodeId, rule: usize, args: PlainArgs) -> Result<NodeId, ZooError> {
        let weight = format!("{name}.weight");
        let c_in = self.channels(input);
        let c_out = if args.depthwise { c_in } else { self.plan.width(&weight, rule)? };
        let (bias, norm) = match args.norm {
            Some(prefix) => (None, Some(Norm { prefix, eps: self.eps })),
            None => (Some(format!("{name}.bias")), None),
        };
        let (groups, act) = (if args.depthwise { c_in } else { 1 }, args.act);
        let PlainArgs { kernel, stride, padding, .. } = args;
        let op = Op::Conv(Conv { weight, bias, norm, c_in, c_out, kernel, stride, padding, groups, act });
        Ok(self.push(name, op, &[input], c_out))
    }

    pub fn activate(&mut self, name: impl Into<String>, input: NodeId, act: Activation) -> NodeId {
        let channels = self.channels(input);
        self.push(name, Op::Activate { act }, &[input], channels)
    }

    pub fn max_pool(&mut self, name: impl Into<String>, input: NodeId, window: [usize; 3]) -> NodeId {
        let ([kernel, stride, padding], channels) = (window, self.channels(input));
        self.push(name, Op::MaxPool { kernel, stride, padding }, &[input], channels)
    }

    pub fn average(&mut self, name: impl Into<String>, input: NodeId) -> NodeId {
        let channels = self.channels(input);
        self.push(name, Op::GlobalAvgPool, &[input], channels)
    }

    pub fn concat(&mut self, name: impl Into<String>, inputs: &[NodeId]) -> NodeId {
        let channels = inputs.iter().map(|id| self.channels(*id)).sum();
        self.push(name, Op::Concat, inputs, channels)
    }

    pub fn upsample(&mut self, name: impl Into<String>, input: NodeId) -> NodeId {
        let channels = self.channels(input);
        self.push(name, Op::Upsample { factor: 2 }, &[input], channels)
    }

    pub fn add(&mut self, name: impl Into<String>, a: NodeId, b: NodeId) -> NodeId {
        let channels = self.channels(a);
        self.push(name, Op::Add, &[a, b], channels)
    }

    /// Splits a tensor into two equal parts.
    fn split(&mut self, name: &str, input: NodeId) -> [NodeId; 2] {
        let len = self.channels(input) / 2;
        [0, 1].map(|i| self.push(format!("{name}.split.{i}"), Op::Slice { start: i * len, len }, &[input], len))
    }

    /// `Bottleneck` with a residual: two 3x3 convolutions, the hidden width a share of the outer.
    fn bottleneck(&mut self, name: &str, input: NodeId, hidden: usize) -> Result<NodeId, ZooError> {
        let outer = self.channels(input);
        let a = self.conv(&format!("{name}.cv1"), input, hidden, ConvArgs::k(3))?;
        let b = self.conv(&format!("{name}.cv2"), a, outer, ConvArgs::k(3))?;
        Ok(self.add(format!("{name}.add"), input, b))
    }

    /// `C3k`: two 1x1 branches, one through bottlenecks, joined by a third 1x1.
    fn c3k(&mut self, name: &str, input: NodeId) -> Result<NodeId, ZooError> {
        let outer = self.channels(input);
        let mut x = self.conv(&format!("{name}.cv1"), input, outer / 2, ConvArgs::k(1))?;
        for i in 0..self.plan.repeats(&format!("{name}.m"), 2) {
            let hidden = self.channels(x);
            x = self.bottleneck(&format!("{name}.m.{i}"), x, hidden)?;
        }
        let side = self.conv(&format!("{name}.cv2"), input, outer / 2, ConvArgs::k(1))?;
        let joined = self.concat(format!("{name}.concat"), &[x, side]);
        self.conv(&format!("{name}.cv3"), joined, outer, ConvArgs::k(1))
    }

    /// `C3k2`: split in two equal parts; the second runs through blocks; everything is concatenated.
    pub fn c3k2(&mut self, name: &str, input: NodeId, args: C3k2Args) -> Result<NodeId, ZooError> {
        let stem = self.conv(&format!("{name}.cv1"), input, 2 * args.half, ConvArgs::k(1))?;
        let [a, b] = self.split(name, stem);
        let (mut all, mut x) = (vec![a, b], b);
        for i in 0..self.plan.repeats(&format!("{name}.m"), args.repeats) {
            let block = format!("{name}.m.{i}");
            x = if self.plan.has(&format!("{block}.cv3"), args.c3k) {
                self.c3k(&block, x)?
            } else {
                let hidden = self.channels(x) / 2;
                self.bottleneck(&block, x, hidden)?
            };
            all.push(x);
        }
        let joined = self.concat(format!("{name}.concat"), &all);
        self.conv(&format!("{name}.cv2"), joined, args.c_out, ConvArgs::k(1))
    }

    /// `C2f`: split in two equal parts; the second runs through bottlenecks of full width, with residuals where asked;
    /// everything is concatenated.
    pub fn c2f(&mut self, name: &str, input: NodeId, args: C2fArgs) -> Result<NodeId, ZooError> {
        let stem = self.conv(&format!("{name}.cv1"), input, 2 * (args.c_out / 2), ConvArgs::k(1))?;
        let [a, b] = self.split(name, stem);
        let (mut all, mut x) = (vec![a, b], b);
        for i in 0..self.plan.repeats(&format!("{name}.m"), args.repeats) {
            let (block, width) = (format!("{name}.m.{i}"), self.channels(b));
            x = if args.residual {
                self.bottleneck(&block, x, width)?
            } else {
                let inner = self.conv(&format!("{block}.cv1"), x, width, ConvArgs::k(3))?;
                self.conv(&format!("{block}.cv2"), inner, width, ConvArgs::k(3))?
            };
            all.push(x);
        }
        let joined = self.concat(format!("{name}.concat"), &all);
        self.conv(&format!("{name}.cv2"), joined, args.c_out, ConvArgs::k(1))
    }

    /// `SPPF`: three 5x5 max-pools in a row, all stages concatenated.
    pub fn sppf(&mut self, name: &str, input: NodeId, c_out: usize) -> Result<NodeId, ZooError> {
        let hidden = self.channels(input) / 2;
        let first = self.conv(&format!("{name}.cv1"), input, hidden, ConvArgs::k(1))?;
        let mut stages = vec![first];
        for i in 0..3 {
            stages.push(self.max_pool(format!("{name}.m.{i}"), stages[i], [5, 1, 2]));
        }
        let joined = self.concat(format!("{name}.concat"), &stages);
        self.conv(&format!("{name}.cv2"), joined, c_out, ConvArgs::k(1))
    }

    /// `C2PSA`: half the channels run through attention blocks with residuals.
    pub fn c2psa(&mut self, name: &str, input: NodeId, c_out: usize, repeats: usize) -> Result<NodeId, ZooError> {
        let stem = self.conv(&format!("{name}.cv1"), input, 2 * (c_out / 2), ConvArgs::k(1))?;
        let [a, mut b] = self.split(name, stem);
        for i in 0..self.plan.repeats(&format!("{name}.m"), repeats) {
            b = self.psa_block(&format!("{name}.m.{i}"), b)?;
        }
        let joined = self.concat(format!("{name}.concat"), &[a, b]);
        self.conv(&format!("{name}.cv2"), joined, c_out, ConvArgs::k(1))
    }

    fn psa_block(&mut self, name: &str, x: NodeId) -> Result<NodeId, ZooError> {
        let linear = ConvArgs { act: Activation::Identity, ..ConvArgs::k(1) };
        let dim = self.channels(x);
        let attn = self.attention(&format!("{name}.attn"), x, dim)?;
        let x = self.add(format!("{name}.attn.residual"), x, attn);
        let wide = self.conv(&format!("{name}.ffn.0"), x, 2 * dim, ConvArgs::k(1))?;
        let ffn = self.conv(&format!("{name}.ffn.1"), wide, dim, linear)?;
        Ok(self.add(format!("{name}.ffn.residual"), x, ffn))
    }

    fn attention(&mut self, name: &str, x: NodeId, dim: usize) -> Result<NodeId, ZooError> {
        let linear = ConvArgs { act: Activation::Identity, ..ConvArgs::k(1) };
        let qkv = self.conv(&format!("{name}.qkv"), x, 2 * dim, linear)?;
        let heads = self.plan.heads(name, (dim / 64).max(1)).max(1);
        let head_dim = dim / heads;
        let key_dim = (head_dim / 2).max(1);
        let op = Attention { heads, key_dim, head_dim, scale: (key_dim as f32).powf(-0.5) };
        let mixed = self.push(format!("{name}.mix"), Op::Attention(op), &[qkv], heads * head_dim);
        let values = self.push(format!("{name}.values"), Op::AttentionValues(op), &[qkv], heads * head_dim);
        let pe_args = ConvArgs { depthwise: true, ..ConvArgs { kernel: 3, ..linear } };
        let pe = self.conv(&format!("{name}.pe"), values, dim, pe_args)?;
        let sum = self.add(format!("{name}.sum"), mixed, pe);
        self.conv(&format!("{name}.proj"), sum, dim, linear)
    }
}

/// Sizes of a `C3k2` block.
#[derive(Clone, Copy)]
pub(super) struct C3k2Args {
    pub c_out: usize,
    pub half: usize,
    pub repeats: usize,
    pub c3k: bool,
}

/// Sizes of a `C2f` block.
#[derive(Clone, Copy)]
pub(super) struct C2fArgs {
    pub c_out: usize,
    pub repeats: usize,
    pub residual: bool,
}

/// A convolution outside the YOLO family.
#[derive(Clone)]
pub(super) struct PlainArgs {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub depthwise: bool,
    /// Key prefix of the normalisation; with none there is a bias.
    pub norm: Option<String>,
    pub act: Activation,
}
