//! YOLOv6 as ultralytics builds it: plain convolutions with ReLU, and the head of YOLOv8. In the five published scales and
//! in any other widths that a checkpoint has.

use super::blocks::{Blueprint, ConvArgs, Net, ZooError};
use super::head::{self, Generation, Task};
use super::shapes::{Published, Shapes};
use super::yolov8;
use crate::graph::{Activation, Graph, NodeId};

/// Index of the head among the top-level layers.
pub const HEAD: usize = 28;

/// The published scale of a letter: `n`, `s`, `m`, `l` or `x`.
pub fn scale(letter: char) -> Option<yolov8::Scale> {
    yolov8::Scale::of(letter, Task::Detect)
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
    net.act = Activation::Relu;
    let conv = |net: &mut Net, layer: usize, x: NodeId, published: usize, args: ConvArgs| {
        net.conv(&format!("model.{layer}"), x, scale.channels(published), args)
    };
    // Where a scale repeats a layer once, it has no number of its own.
    let chain = |net: &mut Net, layer: usize, x: NodeId, [published, repeats]: [usize; 2]| {
        let (name, width) = (format!("model.{layer}"), scale.channels(published));
        if net.plan.tensor(&format!("{name}.conv.weight"), scale.repeats(repeats) == 1) {
            return net.conv(&name, x, width, ConvArgs::k(3));
        }
        let mut x = x;
        for i in 0..net.plan.repeats(&name, scale.repeats(repeats)) {
            x = net.conv(&format!("{name}.{i}"), x, width, ConvArgs::k(3))?;
        }
        Ok(x)
    };
    let up = |net: &mut Net, layer: usize, x: NodeId| {
        let width = net.channels(x);
        net.conv_transpose(&format!("model.{layer}"), x, width)
    };
    let x = conv(&mut net, 0, image, 64, ConvArgs::down(3))?;
    let x = conv(&mut net, 1, x, 128, ConvArgs::down(3))?;
    let x = chain(&mut net, 2, x, [128, 6])?;
    let x = conv(&mut net, 3, x, 256, ConvArgs::down(3))?;
    let p3 = chain(&mut net, 4, x, [256, 12])?;
    let x = conv(&mut net, 5, p3, 512, ConvArgs::down(3))?;
    let p4 = chain(&mut net, 6, x, [512, 18])?;
    let x = conv(&mut net, 7, p4, 1024, ConvArgs::down(3))?;
    let x = chain(&mut net, 8, x, [1024, 6])?;
    let x = net.sppf("model.9", x, scale.channels(1024), false)?;

    let n5 = conv(&mut net, 10, x, 256, ConvArgs::k(1))?;
    let x = up(&mut net, 11, n5);
    let x = net.concat("model.12", &[x, p4]);
    let x = conv(&mut net, 13, x, 256, ConvArgs::k(3))?;
    let x = chain(&mut net, 14, x, [256, 9])?;
    let n4 = conv(&mut net, 15, x, 128, ConvArgs::k(1))?;
    let x = up(&mut net, 16, n4);
    let x = net.concat("model.17", &[x, p3]);
    let x = conv(&mut net, 18, x, 128, ConvArgs::k(3))?;
    let out3 = chain(&mut net, 19, x, [128, 9])?;
    let x = conv(&mut net, 20, out3, 128, ConvArgs::down(3))?;
    let x = net.concat("model.21", &[x, n4]);
    let x = conv(&mut net, 22, x, 256, ConvArgs::k(3))?;
    let out4 = chain(&mut net, 23, x, [256, 9])?;
    let x = conv(&mut net, 24, out4, 256, ConvArgs::down(3))?;
    let x = net.concat("model.25", &[x, n5]);
    let x = conv(&mut net, 26, x, 512, ConvArgs::k(3))?;
    let out5 = chain(&mut net, 27, x, [512, 9])?;
    head::finish(net, Generation::plain(HEAD, true), &[out3, out4, out5], task)
}
