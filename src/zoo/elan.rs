//! Blocks of YOLOv9 (Wang et al., "YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information", ECCV
//! 2024).

use super::blocks::{ConvArgs, Net, ZooError};
use super::csp::{Bottleneck, C3Args};
use crate::graph::{Activation, Conv, NodeId, Op};

/// Widths of an aggregating block.
#[derive(Clone, Copy)]
pub(super) struct ElanArgs {
    pub c_out: usize,
    /// Of the first convolution, both parts of which go on.
    pub stem: usize,
    /// Of each of the two stages.
    pub stage: usize,
    /// Bottlenecks of a stage; none: a stage is one 3x3 convolution (`ELAN1`).
    pub repeats: Option<usize>,
}

impl Net<'_> {
    /// `RepNCSPELAN4`, `ELAN1`: a stem in two parts, two stages after the second, all concatenated.
    pub fn elan(&mut self, name: &str, input: NodeId, args: ElanArgs) -> Result<NodeId, ZooError> {
        let stem = self.conv(&format!("{name}.cv1"), input, args.stem, ConvArgs::k(1))?;
        let [a, b] = self.split(name, stem);
        let mut all = vec![a, b];
        let mut x = b;
        for part in ["cv2", "cv3"] {
            let stage = format!("{name}.{part}");
            x = match args.repeats {
                Some(repeats) => {
                    let inner = Bottleneck { rep: true, ..Bottleneck::new(true) };
                    let x = self.c3(&format!("{stage}.0"), x, C3Args { c_out: args.stage, repeats, inner })?;
                    self.conv(&format!("{stage}.1"), x, args.stage, ConvArgs::k(3))?
                }
                None => self.conv(&stage, x, args.stage, ConvArgs::k(3))?,
            };
            all.push(x);
        }
        let joined = self.concat(format!("{name}.concat"), &all);
        self.conv(&format!("{name}.cv4"), joined, args.c_out, ConvArgs::k(1))
    }

    /// `AConv`: the mean of 2x2 windows, then a 3x3 convolution with stride 2.
    pub fn aconv(&mut self, name: &str, input: NodeId, c_out: usize) -> Result<NodeId, ZooError> {
        let x = self.avg_pool(format!("{name}.pool"), input, 2);
        self.conv(&format!("{name}.cv1"), x, c_out, ConvArgs::down(3))
    }

    /// `ADown`: the mean of 2x2 windows; half the channels through a 3x3 convolution with stride 2, half through a
    /// max-pool and a 1x1.
    pub fn adown(&mut self, name: &str, input: NodeId, c_out: usize) -> Result<NodeId, ZooError> {
        let x = self.avg_pool(format!("{name}.pool"), input, 2);
        let [a, b] = self.split(name, x);
        let a = self.conv(&format!("{name}.cv1"), a, c_out / 2, ConvArgs::down(3))?;
        let b = self.max_pool(format!("{name}.max"), b, [3, 2, 1]);
        let b = self.conv(&format!("{name}.cv2"), b, c_out / 2, ConvArgs::k(1))?;
        Ok(self.concat(format!("{name}.concat"), &[a, b]))
    }

    /// `SPPELAN`: three 5x5 max-pools in a row behind a 1x1, all stages concatenated.
    pub fn spp_elan(&mut self, name: &str, input: NodeId, hidden: usize, c_out: usize) -> Result<NodeId, ZooError> {
        let first = self.conv(&format!("{name}.cv1"), input, hidden, ConvArgs::k(1))?;
        let stages = self.pools(&format!("{name}.pool."), first);
        let joined = self.concat(format!("{name}.concat"), &stages);
        self.conv(&format!("{name}.cv5"), joined, c_out, ConvArgs::k(1))
    }

    /// `CBLinear`: a plain 1x1 convolution whose output is cut into these widths.
    pub fn cb_linear(&mut self, name: &str, input: NodeId, widths: &[usize]) -> Vec<NodeId> {
        let c_out = widths.iter().sum();
        let op = Op::Conv(Conv {
            weight: format!("{name}.conv.weight"),
            bias: Some(format!("{name}.conv.bias")),
            norm: None,
            c_in: self.channels(input),
            c_out,
            kernel: 1,
            stride: 1,
            padding: 0,
            groups: 1,
            act: Activation::Identity,
        });
        let all = self.push(name, op, &[input], c_out);
        let mut start = 0;
        let mut part = |(i, width): (usize, &usize)| {
            let slice = self.slice(format!("{name}.split.{i}"), all, start, *width);
            start += width;
            slice
        };
        widths.iter().enumerate().map(&mut part).collect()
    }

    /// `CBFuse`: parts of coarser levels, enlarged to the size of a tensor, and added to it. The first part has the
    /// tensor's size, each later one half the size of the one before.
    pub fn cb_fuse(&mut self, name: &str, parts: &[NodeId], x: NodeId) -> NodeId {
        let mut sum = x;
        for (i, part) in parts.iter().enumerate() {
            let part = self.enlarge(format!("{name}.up.{i}"), *part, 1 << i);
            sum = self.add(format!("{name}.add.{i}"), sum, part);
        }
        sum
    }
}
