//! YOLOv10 detectors in the six published scales and in any other widths that a checkpoint has (Wang et al., "YOLOv10:
//! Real-Time End-to-End Object Detection", NeurIPS 2024).
//!
//! C2f blocks as in YOLOv8, some of them with compact inverted blocks, and the first head with a second branch that needs
//! no suppression. Residuals of bottlenecks follow from the family, as in YOLOv8.

use super::blocks::{Blueprint, ConvArgs, Net, ZooError};
use super::csp::C2fArgs;
use super::head::{self, Branches, Generation, Task};
use super::shapes::{Published, Shapes};
use super::yolov8;
use crate::graph::{Graph, NodeId};

/// Index of the head among the top-level layers.
pub const HEAD: usize = 23;

/// A published or custom scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Depth, width and cap.
    pub sizes: yolov8::Scale,
    /// Layers with compact inverted blocks.
    pub inverted: &'static [usize],
    /// Those among them with windows of 7.
    pub large: &'static [usize],
}

impl Scale {
    /// The published scale of a letter: `n`, `s`, `m`, `b`, `l` or `x`.
    pub fn of(letter: char) -> Option<Self> {
        let (depth, width, max_channels) = match letter {
            'n' => (0.33, 0.25, 1024),
            's' => (0.33, 0.5, 1024),
            'm' => (0.67, 0.75, 768),
            'b' => (0.67, 1.0, 512),
            'l' => (1.0, 1.0, 512),
            'x' => (1.0, 1.25, 512),
            _ => return None,
        };
        let (inverted, large): (&[usize], &[usize]) = match letter {
            'n' => (&[22], &[22]),
            's' => (&[8, 22], &[8, 22]),
            'm' => (&[8, 19, 22], &[]),
            'x' => (&[6, 8, 13, 19, 22], &[]),
            _ => (&[8, 13, 19, 22], &[]),
        };
        Some(Self { sizes: yolov8::Scale { depth, width, max_channels }, inverted, large })
    }
}

/// The detector of a scale.
///
/// # Errors
/// If the scale leads to impossible sizes.
pub fn detect(scale: Scale, nc: usize) -> Result<Graph, ZooError> {
    build(&Published, scale, Branches::Both, (Task::Detect, nc))
}

/// The graph that a checkpoint's tensors describe: their shapes decide branches, widths and depths.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let found = head::of_shapes(shapes, HEAD)?;
    let sizes = yolov8::Scale { depth: 1.0, width: 1.0, max_channels: 1024 };
    build(shapes, Scale { sizes, inverted: &[], large: &[] }, Branches::of_shapes(shapes, HEAD), found)
}

fn build(plan: &dyn Blueprint, scale: Scale, branches: Branches, task: (Task, usize)) -> Result<Graph, ZooError> {
    let sizes = scale.sizes;
    let (mut net, image) = Net::new(plan, 3, task.0.eps());
    let down = |net: &mut Net, layer: usize, x: NodeId, published: usize| {
        net.conv(&format!("model.{layer}"), x, sizes.channels(published), ConvArgs::down(3))
    };
    let scdown = |net: &mut Net, layer: usize, x: NodeId, published: usize| {
        let x = net.conv(&format!("model.{layer}.cv1"), x, sizes.channels(published), ConvArgs::k(1))?;
        let args = ConvArgs { linear: true, stride: 2, ..ConvArgs::depthwise(3) };
        net.conv(&format!("model.{layer}.cv2"), x, 0, args)
    };
    let c2f = |net: &mut Net, layer: usize, x: NodeId, [published, repeats]: [usize; 2]| {
        let args = C2fArgs {
            c_out: sizes.channels(published),
            repeats: sizes.repeats(repeats),
            // The backbone's blocks have residuals.
            residual: layer < 9,
            cib: scale.inverted.contains(&layer).then(|| scale.large.contains(&layer)),
        };
        net.c2f(&format!("model.{layer}"), x, args)
    };
    let x = down(&mut net, 0, image, 64)?;
    let x = down(&mut net, 1, x, 128)?;
    let x = c2f(&mut net, 2, x, [128, 3])?;
    let x = down(&mut net, 3, x, 256)?;
    let p3 = c2f(&mut net, 4, x, [256, 6])?;
    let x = scdown(&mut net, 5, p3, 512)?;
    let p4 = c2f(&mut net, 6, x, [512, 6])?;
    let x = scdown(&mut net, 7, p4, 1024)?;
    let x = c2f(&mut net, 8, x, [1024, 3])?;
    let x = net.sppf("model.9", x, sizes.channels(1024), false)?;
    let p5 = net.psa("model.10", x, sizes.channels(1024))?;

    let x = net.upsample("model.11", p5);
    let x = net.concat("model.12", &[x, p4]);
    let n4 = c2f(&mut net, 13, x, [512, 3])?;
    let x = net.upsample("model.14", n4);
    let x = net.concat("model.15", &[x, p3]);
    let out3 = c2f(&mut net, 16, x, [256, 3])?;
    let x = down(&mut net, 17, out3, 256)?;
    let x = net.concat("model.18", &[x, n4]);
    let out4 = c2f(&mut net, 19, x, [512, 3])?;
    let x = scdown(&mut net, 20, out4, 512)?;
    let x = net.concat("model.21", &[x, p5]);
    let out5 = c2f(&mut net, 22, x, [1024, 3])?;
    head::finish(net, Generation { branches, ..Generation::plain(HEAD, false) }, &[out3, out4, out5], task)
}
