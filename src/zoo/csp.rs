//! Cross-stage partial blocks: part of the channels runs through bottlenecks, the rest goes past them (Wang et al.,
//! "CSPNet", CVPR workshops 2020).

use super::blocks::{ConvArgs, Net, RepArgs, ZooError};
use crate::graph::NodeId;

/// Two convolutions in a row.
#[derive(Clone, Copy)]
pub(super) struct Bottleneck {
    pub kernels: [usize; 2],
    pub residual: bool,
    /// The first convolution is a `RepConv`.
    pub rep: bool,
}

impl Bottleneck {
    /// Two 3x3 convolutions.
    pub fn new(residual: bool) -> Self {
        Self { kernels: [3, 3], residual, rep: false }
    }
}

/// Sizes of a `C3` block, and what its bottlenecks are.
#[derive(Clone, Copy)]
pub(super) struct C3Args {
    pub c_out: usize,
    pub repeats: usize,
    pub inner: Bottleneck,
}

/// Sizes of a `C3k2` block, and what it holds.
#[derive(Clone, Copy)]
pub(super) struct C3k2Args {
    pub c_out: usize,
    pub half: usize,
    pub repeats: usize,
    pub inner: Inner,
}

/// What a `C3k2` holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Inner {
    Bottleneck,
    C3k,
    /// A bottleneck, then an attention block.
    Attention,
}

/// Sizes of a `C2f` block, and what it holds.
#[derive(Clone, Copy)]
pub(super) struct C2fArgs {
    pub c_out: usize,
    pub repeats: usize,
    /// Whether bottlenecks have residuals; a `CIB` always has one.
    pub residual: bool,
    /// Inverted blocks in place of bottlenecks, and whether with large windows.
    pub cib: Option<bool>,
}

impl Net<'_> {
    /// A bottleneck of a hidden width.
    fn bottleneck(&mut self, name: &str, input: NodeId, hidden: usize, args: Bottleneck) -> Result<NodeId, ZooError> {
        let (outer, [first, second]) = (self.channels(input), args.kernels);
        let a = match args.rep {
            true => self.reparameterised(&format!("{name}.cv1"), input, hidden, RepArgs::DENSE)?,
            false => self.conv(&format!("{name}.cv1"), input, hidden, ConvArgs::k(first))?,
        };
        let b = self.conv(&format!("{name}.cv2"), a, outer, ConvArgs::k(second))?;
        Ok(if args.residual { self.add(format!("{name}.add"), input, b) } else { b })
    }

    /// `C3`, `RepCSP`: two 1x1 branches of half the width, one through bottlenecks, joined by a third 1x1.
    pub fn c3(&mut self, name: &str, input: NodeId, args: C3Args) -> Result<NodeId, ZooError> {
        let mut x = self.conv(&format!("{name}.cv1"), input, args.c_out / 2, ConvArgs::k(1))?;
        for i in 0..self.plan.repeats(&format!("{name}.m"), args.repeats) {
            let hidden = self.channels(x);
            x = self.bottleneck(&format!("{name}.m.{i}"), x, hidden, args.inner)?;
        }
        let side = self.conv(&format!("{name}.cv2"), input, args.c_out / 2, ConvArgs::k(1))?;
        let joined = self.concat(format!("{name}.concat"), &[x, side]);
        self.conv(&format!("{name}.cv3"), joined, args.c_out, ConvArgs::k(1))
    }

    /// `C3k`: a `C3` with two bottlenecks of 3x3 windows that keeps its width.
    pub fn c3k(&mut self, name: &str, input: NodeId) -> Result<NodeId, ZooError> {
        let args = C3Args { c_out: self.channels(input), repeats: 2, inner: Bottleneck::new(true) };
        self.c3(name, input, args)
    }

    /// `C3k2`: split in two equal parts; the second runs through blocks; everything is concatenated.
    pub fn c3k2(&mut self, name: &str, input: NodeId, args: C3k2Args) -> Result<NodeId, ZooError> {
        let stem = self.conv(&format!("{name}.cv1"), input, 2 * args.half, ConvArgs::k(1))?;
        let [a, b] = self.split(name, stem);
        let (mut all, mut x) = (vec![a, b], b);
        for i in 0..self.plan.repeats(&format!("{name}.m"), args.repeats) {
            let block = format!("{name}.m.{i}");
            let hidden = self.channels(x) / 2;
            x = if self.plan.has(&format!("{block}.1.attn"), args.inner == Inner::Attention) {
                let x = self.bottleneck(&format!("{block}.0"), x, hidden, Bottleneck::new(true))?;
                self.psa_block(&format!("{block}.1"), x)?
            } else if self.plan.has(&format!("{block}.cv3"), args.inner == Inner::C3k) {
                self.c3k(&block, x)?
            } else {
                self.bottleneck(&block, x, hidden, Bottleneck::new(true))?
            };
            all.push(x);
        }
        let joined = self.concat(format!("{name}.concat"), &all);
        self.conv(&format!("{name}.cv2"), joined, args.c_out, ConvArgs::k(1))
    }

    /// `C2f`, `C2fCIB`: split in two equal parts; the second runs through bottlenecks of full width or inverted blocks;
    /// everything is concatenated.
    pub fn c2f(&mut self, name: &str, input: NodeId, args: C2fArgs) -> Result<NodeId, ZooError> {
        let stem = self.conv(&format!("{name}.cv1"), input, 2 * (args.c_out / 2), ConvArgs::k(1))?;
        let [a, b] = self.split(name, stem);
        let (mut all, mut x) = (vec![a, b], b);
        for i in 0..self.plan.repeats(&format!("{name}.m"), args.repeats) {
            let (block, width) = (format!("{name}.m.{i}"), self.channels(b));
            x = if self.plan.has(&format!("{block}.cv1.1"), args.cib.is_some()) {
                self.cib(&block, x, args.cib == Some(true))?
            } else {
                self.bottleneck(&block, x, width, Bottleneck::new(args.residual))?
            };
            all.push(x);
        }
        let joined = self.concat(format!("{name}.concat"), &all);
        self.conv(&format!("{name}.cv2"), joined, args.c_out, ConvArgs::k(1))
    }

    /// `CIB`: the compact inverted block of YOLOv10, depthwise windows around 1x1 convolutions, with a residual.
    fn cib(&mut self, name: &str, input: NodeId, large: bool) -> Result<NodeId, ZooError> {
        let outer = self.channels(input);
        let part = |i: usize| format!("{name}.cv1.{i}");
        let x = self.conv(&part(0), input, 0, ConvArgs::depthwise(3))?;
        let x = self.conv(&part(1), x, 2 * outer, ConvArgs::k(1))?;
        // Folded or not, a large window lies one name deeper than a block's own convolution.
        let deeper = format!("{}.conv.conv", part(2));
        let folded = self.plan.tensor(&format!("{}.conv.weight", part(2)), false)
            && self.plan.window(&format!("{}.conv.weight", part(2)), 3) == 7;
        let x = if self.plan.has(&deeper, large) || folded {
            self.reparameterised(&part(2), x, 0, RepArgs::LARGE)?
        } else {
            self.conv(&part(2), x, 0, ConvArgs::depthwise(3))?
        };
        let x = self.conv(&part(3), x, outer, ConvArgs::k(1))?;
        let x = self.conv(&part(4), x, 0, ConvArgs::depthwise(3))?;
        Ok(self.add(format!("{name}.add"), input, x))
    }

    /// `SPPF`: three 5x5 max-pools in a row, all stages concatenated. YOLO26's has no activation before the pools, and a
    /// residual where the width does not change.
    pub fn sppf(&mut self, name: &str, input: NodeId, c_out: usize, latest: bool) -> Result<NodeId, ZooError> {
        let hidden = self.channels(input) / 2;
        let first = ConvArgs { linear: latest, ..ConvArgs::k(1) };
        let first = self.conv(&format!("{name}.cv1"), input, hidden, first)?;
        let stages = self.pools(&format!("{name}.m."), first);
        let joined = self.concat(format!("{name}.concat"), &stages);
        let x = self.conv(&format!("{name}.cv2"), joined, c_out, ConvArgs::k(1))?;
        let residual = latest && self.channels(x) == self.channels(input);
        Ok(if residual { self.add(format!("{name}.add"), input, x) } else { x })
    }

    /// A tensor and three 5x5 max-pools in a row, named by a prefix and their number.
    pub fn pools(&mut self, prefix: &str, first: NodeId) -> Vec<NodeId> {
        let mut stages = vec![first];
        for i in 0..3 {
            stages.push(self.max_pool(format!("{prefix}{i}"), stages[i], [5, 1, 2]));
        }
        stages
    }
}
