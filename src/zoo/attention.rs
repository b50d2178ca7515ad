//! Attention blocks: those of YOLOv10, YOLO11 and YOLO26, and the area attention of YOLO12 (Tian et al., "YOLOv12:
//! Attention-Centric Real-Time Object Detectors", 2025).

use super::blocks::{ConvArgs, Net, ZooError};
use crate::graph::{Activation, Attention, Conv, NodeId, Op};

/// Channels of an attention head of YOLO12.
const HEAD_DIM: usize = 32;

/// Sizes of an `A2C2f` block, and what it holds.
#[derive(Clone, Copy)]
pub(super) struct A2c2fArgs {
    pub c_out: usize,
    pub repeats: usize,
    /// Attention blocks that see this many areas; none: `C3k` blocks.
    pub areas: Option<usize>,
    /// A residual with a factor for every channel.
    pub scaled: bool,
    /// Hidden channels of a feed-forward block by outer ones.
    pub ratio: f64,
}

impl Net<'_> {
    /// `C2PSA`: half the channels run through attention blocks with residuals.
    pub fn c2psa(&mut self, name: &str, input: NodeId, c_out: usize, repeats: usize) -> Result<NodeId, ZooError> {
        self.partial_attention(name, input, c_out, |net, mut x| {
            for i in 0..net.plan.repeats(&format!("{name}.m"), repeats) {
                x = net.psa_block(&format!("{name}.m.{i}"), x)?;
            }
            Ok(x)
        })
    }

    /// `PSA`: a `C2PSA` with one block, whose parts stand directly below it.
    pub fn psa(&mut self, name: &str, input: NodeId, c_out: usize) -> Result<NodeId, ZooError> {
        self.partial_attention(name, input, c_out, |net, x| net.psa_block(name, x))
    }

    fn partial_attention(
        &mut self,
        name: &str,
        input: NodeId,
        c_out: usize,
        inner: impl FnOnce(&mut Self, NodeId) -> Result<NodeId, ZooError>,
    ) -> Result<NodeId, ZooError> {
        let stem = self.conv(&format!("{name}.cv1"), input, 2 * (c_out / 2), ConvArgs::k(1))?;
        let [a, b] = self.split(name, stem);
        let b = inner(self, b)?;
        let joined = self.concat(format!("{name}.concat"), &[a, b]);
        self.conv(&format!("{name}.cv2"), joined, c_out, ConvArgs::k(1))
    }

    /// Attention, then a feed-forward block, each with a residual.
    pub fn psa_block(&mut self, name: &str, x: NodeId) -> Result<NodeId, ZooError> {
        let dim = self.channels(x);
        let attn = self.attention(&format!("{name}.attn"), x, dim)?;
        let x = self.add(format!("{name}.attn.residual"), x, attn);
        self.feed_forward(&format!("{name}.ffn"), x, 2 * dim)
    }

    fn feed_forward(&mut self, name: &str, x: NodeId, hidden: usize) -> Result<NodeId, ZooError> {
        let dim = self.channels(x);
        let wide = self.conv(&format!("{name}.0"), x, hidden, ConvArgs::k(1))?;
        let ffn = self.conv(&format!("{name}.1"), wide, dim, ConvArgs::linear())?;
        Ok(self.add(format!("{name}.residual"), x, ffn))
    }

    fn attention(&mut self, name: &str, x: NodeId, dim: usize) -> Result<NodeId, ZooError> {
        let heads = self.plan.heads(name, (dim / 64).max(1)).max(1);
        let head_dim = dim / heads;
        let key_dim = (head_dim / 2).max(1);
        let op = Attention { heads, key_dim, head_dim, scale: (key_dim as f32).powf(-0.5), areas: 1 };
        let qkv = self.conv(&format!("{name}.qkv"), x, heads * op.packed(), ConvArgs::linear())?;
        self.mix(name, qkv, op, 3)
    }

    /// What follows the packed queries, keys and values: a depthwise convolution of the values is added to the mixed
    /// ones and stands for the positions.
    fn mix(&mut self, name: &str, qkv: NodeId, op: Attention, window: usize) -> Result<NodeId, ZooError> {
        let dim = op.heads * op.head_dim;
        let mixed = self.push(format!("{name}.mix"), Op::Attention(op), &[qkv], dim);
        let values = self.push(format!("{name}.values"), Op::AttentionValues(op), &[qkv], dim);
        let pe = ConvArgs { linear: true, ..ConvArgs::depthwise(window) };
        let pe = self.conv(&format!("{name}.pe"), values, dim, pe)?;
        let sum = self.add(format!("{name}.sum"), mixed, pe);
        self.conv(&format!("{name}.proj"), sum, dim, ConvArgs::linear())
    }

    /// `A2C2f`: a chain of blocks, the input of the chain and all results concatenated.
    pub fn a2c2f(&mut self, name: &str, input: NodeId, args: A2c2fArgs) -> Result<NodeId, ZooError> {
        let mut x = self.conv(&format!("{name}.cv1"), input, args.c_out / 2, ConvArgs::k(1))?;
        let mut all = vec![x];
        for i in 0..self.plan.repeats(&format!("{name}.m"), args.repeats) {
            let block = format!("{name}.m.{i}");
            x = match args.areas {
                Some(areas) => {
                    let x = self.area_block(&format!("{block}.0"), x, areas, args.ratio)?;
                    self.area_block(&format!("{block}.1"), x, areas, args.ratio)?
                }
                None => self.c3k(&block, x)?,
            };
            all.push(x);
        }
        let joined = self.concat(format!("{name}.concat"), &all);
        let y = self.conv(&format!("{name}.cv2"), joined, args.c_out, ConvArgs::k(1))?;
        let gamma = format!("{name}.gamma");
        if !self.plan.tensor(&gamma, args.scaled && args.areas.is_some()) {
            return Ok(y);
        }
        let y = self.scale(gamma, y);
        Ok(self.add(format!("{name}.add"), input, y))
    }

    /// A factor for every channel, as a depthwise 1x1 convolution.
    fn scale(&mut self, key: String, x: NodeId) -> NodeId {
        let channels = self.channels(x);
        let op = Op::Conv(Conv {
            weight: key.clone(),
            bias: None,
            norm: None,
            c_in: channels,
            c_out: channels,
            kernel: 1,
            stride: 1,
            padding: 0,
            groups: channels,
            act: Activation::Identity,
        });
        self.push(key, op, &[x], channels)
    }

    /// `ABlock`: area attention, then a feed-forward block, each with a residual.
    fn area_block(&mut self, name: &str, x: NodeId, areas: usize, ratio: f64) -> Result<NodeId, ZooError> {
        let (attn, dim) = (format!("{name}.attn"), self.channels(x));
        let heads = self.plan.heads(&attn, (dim / HEAD_DIM).max(1)).max(1);
        let head_dim = dim / heads;
        let op = Attention { heads, key_dim: head_dim, head_dim, scale: (head_dim as f32).powf(-0.5), areas };
        let qkv = self.conv(&format!("{attn}.qkv"), x, 3 * dim, ConvArgs::linear())?;
        let window = self.plan.window(&format!("{attn}.pe.conv.weight"), 7);
        let mixed = self.mix(&attn, qkv, op, window)?;
        let x = self.add(format!("{attn}.residual"), x, mixed);
        self.feed_forward(&format!("{name}.mlp"), x, (dim as f64 * ratio) as usize)
    }
}
