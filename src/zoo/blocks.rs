//! The blocks that the YOLO family is made of, and where their widths come from.

use crate::graph::{Activation, Builder, Conv, ConvTranspose, GraphError, NodeId, Norm, Op};
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

    /// Channels of the image.
    fn image_channels(&self, rule: usize) -> usize {
        rule
    }

    /// Whether there is a tensor of this key.
    fn tensor(&self, key: &str, rule: bool) -> bool {
        let _ = key;
        rule
    }

    /// Side of the window of the convolution whose kernel has this key.
    fn window(&self, weight_key: &str, rule: usize) -> usize {
        let _ = weight_key;
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

/// Repeated blocks of a scale for a published number of them; ties are rounded to even.
pub(super) fn repeats(published: usize, depth: f64) -> usize {
    ((published as f64 * depth).round_ties_even() as usize).max(1)
}

/// A graph under construction together with its blueprint.
pub(super) struct Net<'a> {
    pub graph: Builder,
    pub plan: &'a dyn Blueprint,
    /// Added to the variance by normalisations.
    pub eps: f32,
    /// Activation of the family's convolution blocks.
    pub act: Activation,
    /// Output channels of every node so far.
    channels: Vec<usize>,
}

/// Kernel, stride and kind of a convolution block.
#[derive(Clone, Copy)]
pub(super) struct ConvArgs {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// Without an activation.
    pub linear: bool,
    pub depthwise: bool,
}

impl ConvArgs {
    /// A dense block with the family's activation and stride 1.
    pub fn k(kernel: usize) -> Self {
        Self { kernel, stride: 1, padding: kernel / 2, linear: false, depthwise: false }
    }

    /// The same with stride 2.
    pub fn down(kernel: usize) -> Self {
        Self { stride: 2, ..Self::k(kernel) }
    }

    /// A dense 1x1 block without activation.
    pub fn linear() -> Self {
        Self { linear: true, ..Self::k(1) }
    }

    /// Every channel by itself.
    pub fn depthwise(kernel: usize) -> Self {
        Self { depthwise: true, ..Self::k(kernel) }
    }
}

impl<'a> Net<'a> {
    /// A graph that begins with an image of `input_channels` as published, and the image.
    pub fn new(plan: &'a dyn Blueprint, input_channels: usize, eps: f32) -> (Self, NodeId) {
        let (act, input_channels) = (Activation::Silu, plan.image_channels(input_channels));
        let mut net = Self { graph: Builder::default(), plan, eps, act, channels: Vec::new() };
        let input = net.push("images", Op::Input { channels: input_channels }, &[], input_channels);
        (net, input)
    }

    pub fn channels(&self, id: NodeId) -> usize {
        self.channels[id.index()]
    }

    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId], channels: usize) -> NodeId {
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
        let act = self.plan.activation(name, if args.linear { Activation::Identity } else { self.act });
        let op = Op::Conv(Conv {
            weight,
            bias,
            norm,
            c_in,
            c_out,
            kernel: args.kernel,
            stride: args.stride,
            padding: args.padding,
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

    /// The sum of two convolutions without activation, then the family's; in a fused checkpoint the one convolution
    /// `{name}.conv` that the two fold to (Ding et al., "RepVGG", CVPR 2021).
    pub fn reparameterised(
        &mut self,
        name: &str,
        input: NodeId,
        rule: usize,
        args: RepArgs,
    ) -> Result<NodeId, ZooError> {
        let RepArgs { parts: [(first, large), (second, small)], depthwise } = args;
        if !self.plan.has(&format!("{name}.{second}"), true) {
            let args = PlainArgs { kernel: large, stride: 1, padding: large / 2, depthwise, norm: None, act: self.act };
            return self.plain(&format!("{name}.conv"), input, rule, args);
        }
        let part = |kernel: usize| ConvArgs { linear: true, depthwise, ..ConvArgs::k(kernel) };
        let a = self.conv(&format!("{name}.{first}"), input, rule, part(large))?;
        let b = self.conv(&format!("{name}.{second}"), input, rule, part(small))?;
        let sum = self.add(format!("{name}.sum"), a, b);
        Ok(self.activate(format!("{name}.act"), sum, self.act))
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

    pub fn avg_pool(&mut self, name: impl Into<String>, input: NodeId, kernel: usize) -> NodeId {
        let channels = self.channels(input);
        self.push(name, Op::AvgPool { kernel, stride: 1 }, &[input], channels)
    }

    pub fn upsample(&mut self, name: impl Into<String>, input: NodeId) -> NodeId {
        self.enlarge(name, input, 2)
    }

    /// Nearest-neighbour upsampling by any factor; the tensor itself by 1.
    pub fn enlarge(&mut self, name: impl Into<String>, input: NodeId, factor: usize) -> NodeId {
        let channels = self.channels(input);
        if factor == 1 { input } else { self.push(name, Op::Upsample { factor }, &[input], channels) }
    }

    pub fn slice(&mut self, name: impl Into<String>, input: NodeId, start: usize, len: usize) -> NodeId {
        self.push(name, Op::Slice { start, len }, &[input], len)
    }

    pub fn add(&mut self, name: impl Into<String>, a: NodeId, b: NodeId) -> NodeId {
        let channels = self.channels(a);
        self.push(name, Op::Add, &[a, b], channels)
    }

    /// Splits a tensor into two equal parts.
    pub fn split(&mut self, name: &str, input: NodeId) -> [NodeId; 2] {
        let len = self.channels(input) / 2;
        [0, 1].map(|i| self.slice(format!("{name}.split.{i}"), input, i * len, len))
    }
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

/// Two convolutions that fold to one, the larger window first.
#[derive(Clone, Copy)]
pub(super) struct RepArgs {
    /// Name below the block, and side of the window.
    pub parts: [(&'static str, usize); 2],
    pub depthwise: bool,
}

impl RepArgs {
    /// `RepConv` of YOLOv9.
    pub const DENSE: Self = Self { parts: [("conv1", 3), ("conv2", 1)], depthwise: false };

    /// `RepVGGDW` of YOLOv10.
    pub const LARGE: Self = Self { parts: [("conv", 7), ("conv1", 3)], depthwise: true };
}
