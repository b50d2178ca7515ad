//! YOLO12 detectors in the five published scales and in any other widths that a checkpoint has.
//!
//! Attention within areas of the image in place of convolutions at strides 16 and 32. The older layout of the authors'
//! own program differs in three points, all of which its tensors show: windows of 5 for the positions, two early layers
//! whose channels are convolved in groups, and queries and keys apart from values (the importer joins those).

use super::attention::A2c2fArgs;
use super::blocks::{Blueprint, ConvArgs, Net, ZooError};
use super::head::{self, Generation, Task};
use super::shapes::{Published, Shapes};
use super::yolo11::{self, c3k2, down};
use crate::graph::{Graph, NodeId};

/// Index of the head among the top-level layers.
pub const HEAD: usize = 21;

/// Layers that the authors' program convolves in groups, and how many.
pub const GROUPED: [(usize, usize); 2] = [(1, 2), (3, 4)];

/// A published or custom scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Depth, width, and which blocks hold C3k: as in YOLO11.
    pub sizes: yolo11::Scale,
    /// Whether the attention layers have a residual, and a narrower feed-forward part (scales l and x).
    pub residual: bool,
}

impl Scale {
    /// The published scale of a letter: `n`, `s`, `m`, `l` or `x`.
    pub fn of(letter: char) -> Option<Self> {
        Some(Self { sizes: yolo11::Scale::of(letter)?, residual: "lx".contains(letter) })
    }
}

/// The detector of a scale.
///
/// # Errors
/// If the scale leads to impossible sizes.
pub fn detect(scale: Scale, nc: usize) -> Result<Graph, ZooError> {
    build(&Published, scale, (Task::Detect, nc))
}

/// The graph that a checkpoint's tensors describe: their shapes decide every width and depth.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let found = head::of_shapes(shapes, HEAD)?;
    let sizes = yolo11::Scale { depth: 1.0, width: 1.0, max_channels: 1024, c3k_everywhere: false };
    build(shapes, Scale { sizes, residual: false }, found)
}

fn build(plan: &dyn Blueprint, scale: Scale, task: (Task, usize)) -> Result<Graph, ZooError> {
    let Scale { sizes, residual } = scale;
    let (mut net, image) = Net::new(plan, 3, task.0.eps());
    let attend = |net: &mut Net, layer: usize, x: NodeId, published: usize, areas: Option<usize>| {
        let repeats = sizes.repeats(if areas.is_some() { 4 } else { 2 });
        let ratio = if residual { 1.2 } else { 2.0 };
        let args = A2c2fArgs { c_out: sizes.channels(published), repeats, areas, scaled: residual, ratio };
        net.a2c2f(&format!("model.{layer}"), x, args)
    };
    let x = down(&mut net, sizes, 0, image, 64)?;
    let x = down_in_groups(&mut net, sizes, GROUPED[0], x, 128)?;
    let x = c3k2(&mut net, sizes, 2, x, 256, 0.25, false)?;
    let x = down_in_groups(&mut net, sizes, GROUPED[1], x, 256)?;
    let p3 = c3k2(&mut net, sizes, 4, x, 512, 0.25, false)?;
    let x = down(&mut net, sizes, 5, p3, 512)?;
    let p4 = attend(&mut net, 6, x, 512, Some(4))?;
    let x = down(&mut net, sizes, 7, p4, 1024)?;
    let p5 = attend(&mut net, 8, x, 1024, Some(1))?;

    let x = net.upsample("model.9", p5);
    let x = net.concat("model.10", &[x, p4]);
    let n4 = attend(&mut net, 11, x, 512, None)?;
    let x = net.upsample("model.12", n4);
    let x = net.concat("model.13", &[x, p3]);
    let out3 = attend(&mut net, 14, x, 256, None)?;
    let x = down(&mut net, sizes, 15, out3, 256)?;
    let x = net.concat("model.16", &[x, n4]);
    let out4 = attend(&mut net, 17, x, 512, None)?;
    let x = down(&mut net, sizes, 18, out4, 512)?;
    let x = net.concat("model.19", &[x, p5]);
    let out5 = c3k2(&mut net, sizes, 20, x, 1024, 0.5, true)?;
    head::finish(net, Generation::plain(HEAD, false), &[out3, out4, out5], task)
}

/// A convolution with stride 2, in the authors' layout one for every group of channels, named `model.L.groups.G`.
fn down_in_groups(
    net: &mut Net,
    sizes: yolo11::Scale,
    (layer, groups): (usize, usize),
    x: NodeId,
    published: usize,
) -> Result<NodeId, ZooError> {
    let name = format!("model.{layer}");
    if !net.plan.has(&format!("{name}.groups"), false) {
        return down(net, sizes, layer, x, published);
    }
    let len = net.channels(x) / groups;
    let mut parts = Vec::new();
    for group in 0..groups {
        let part = net.slice(format!("{name}.split.{group}"), x, group * len, len);
        let width = sizes.channels(published) / groups;
        parts.push(net.conv(&format!("{name}.groups.{group}"), part, width, ConvArgs::down(3))?);
    }
    Ok(net.concat(name, &parts))
}
