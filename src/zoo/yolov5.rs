//! YOLOv5u: YOLOv5 with the head of YOLOv8, in the five published scales and in any other widths that a checkpoint has.
//!
//! C3 blocks of the backbone have residuals, those of the neck have not; the tensors do not show it, so it follows from
//! the family.

use super::blocks::{Blueprint, ConvArgs, Net, ZooError};
use super::csp::{Bottleneck, C3Args};
use super::head::{self, Generation, Task};
use super::shapes::{Published, Shapes};
use super::yolov8;
use crate::graph::{Graph, NodeId};

/// Index of the head among the top-level layers.
pub const HEAD: usize = 24;

/// The published scale of a letter: `n`, `s`, `m`, `l` or `x`.
pub fn scale(letter: char) -> Option<yolov8::Scale> {
    let (depth, width) = match letter {
        'n' => (0.33, 0.25),
        's' => (0.33, 0.5),
        'm' => (0.67, 0.75),
        'l' => (1.0, 1.0),
        'x' => (1.33, 1.25),
        _ => return None,
    };
    Some(yolov8::Scale { depth, width, max_channels: 1024 })
}

/// The detector of a scale.
///
/// # Errors
/// If the scale leads to impossible sizes.
pub fn detect(scale: yolov8::Scale, nc: usize) -> Result<Graph, ZooError> {
    build(&Published, scale, (Task::Detect, nc))
}

/// The graph that a checkpoint's tensors describe: their shapes decide every width and depth.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let found = head::of_shapes(shapes, HEAD)?;
    build(shapes, yolov8::Scale { depth: 1.0, width: 1.0, max_channels: 1024 }, found)
}

fn build(plan: &dyn Blueprint, scale: yolov8::Scale, task: (Task, usize)) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, task.0.eps());
    let conv = |net: &mut Net, layer: usize, x: NodeId, published: usize, args: ConvArgs| {
        net.conv(&format!("model.{layer}"), x, scale.channels(published), args)
    };
    let c3 = |net: &mut Net, layer: usize, x: NodeId, [published, repeats]: [usize; 2]| {
        // The backbone's blocks have residuals.
        let inner = Bottleneck { kernels: [1, 3], ..Bottleneck::new(layer < 9) };
        let args = C3Args { c_out: scale.channels(published), repeats: scale.repeats(repeats), inner };
        net.c3(&format!("model.{layer}"), x, args)
    };
    let x = conv(&mut net, 0, image, 64, ConvArgs { padding: 2, ..ConvArgs::down(6) })?;
    let x = conv(&mut net, 1, x, 128, ConvArgs::down(3))?;
    let x = c3(&mut net, 2, x, [128, 3])?;
    let x = conv(&mut net, 3, x, 256, ConvArgs::down(3))?;
    let p3 = c3(&mut net, 4, x, [256, 6])?;
    let x = conv(&mut net, 5, p3, 512, ConvArgs::down(3))?;
    let p4 = c3(&mut net, 6, x, [512, 9])?;
    let x = conv(&mut net, 7, p4, 1024, ConvArgs::down(3))?;
    let x = c3(&mut net, 8, x, [1024, 3])?;
    let x = net.sppf("model.9", x, scale.channels(1024), false)?;

    let n5 = conv(&mut net, 10, x, 512, ConvArgs::k(1))?;
    let x = net.upsample("model.11", n5);
    let x = net.concat("model.12", &[x, p4]);
    let x = c3(&mut net, 13, x, [512, 3])?;
    let n4 = conv(&mut net, 14, x, 256, ConvArgs::k(1))?;
    let x = net.upsample("model.15", n4);
    let x = net.concat("model.16", &[x, p3]);
    let out3 = c3(&mut net, 17, x, [256, 3])?;
    let x = conv(&mut net, 18, out3, 256, ConvArgs::down(3))?;
    let x = net.concat("model.19", &[x, n4]);
    let out4 = c3(&mut net, 20, x, [512, 3])?;
    let x = conv(&mut net, 21, out4, 512, ConvArgs::down(3))?;
    let x = net.concat("model.22", &[x, n5]);
    let out5 = c3(&mut net, 23, x, [1024, 3])?;
    head::finish(net, Generation::plain(HEAD, true), &[out3, out4, out5], task)
}
