//! YOLO26 for all five tasks, in the five published scales and in any other widths that a checkpoint has.
//!
//! Layers and names are those of YOLO11. Boxes are plain distances without a distribution, and the head has a second
//! branch that needs no suppression. A classifier of YOLO26 is that of YOLO11.

use super::blocks::{Blueprint, Net, ZooError};
use super::csp::{C3k2Args, Inner};
use super::head::{self, Branches, Generation, Task};
use super::shapes::{Published, Shapes};
use super::yolo11::{self, Scale, backbone, c3k2, down};
use crate::graph::Graph;

/// Index of the box head among the top-level layers.
pub const HEAD: usize = yolo11::HEAD;

/// The network of a scale for a task; scales are those of YOLO11.
///
/// # Errors
/// If the scale leads to impossible sizes.
pub fn network(scale: Scale, task: Task, nc: usize) -> Result<Graph, ZooError> {
    if task == Task::Classify {
        return yolo11::network(scale, task, nc);
    }
    build(&Published, scale, Branches::Both, (task, nc))
}

/// The graph that a checkpoint's tensors describe: their shapes decide task, branches, widths and depths.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let found = head::of_shapes(shapes, HEAD)?;
    // Every width and depth comes from the tensors.
    let scale = Scale { depth: 1.0, width: 1.0, max_channels: 1024, c3k_everywhere: false };
    build(shapes, scale, Branches::of_shapes(shapes, HEAD), found)
}

fn build(plan: &dyn Blueprint, scale: Scale, branches: Branches, task: (Task, usize)) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, task.0.eps());
    let [p3, p4, x] = backbone(&mut net, scale, image)?;
    let x = net.sppf("model.9", x, scale.channels(1024), true)?;
    let p5 = net.c2psa("model.10", x, scale.channels(1024), scale.repeats(2))?;

    let x = net.upsample("model.11", p5);
    let x = net.concat("model.12", &[x, p4]);
    let n4 = c3k2(&mut net, scale, 13, x, 512, 0.5, true)?;
    let x = net.upsample("model.14", n4);
    let x = net.concat("model.15", &[x, p3]);
    let out3 = c3k2(&mut net, scale, 16, x, 256, 0.5, true)?;
    let x = down(&mut net, scale, 17, out3, 256)?;
    let x = net.concat("model.18", &[x, n4]);
    let out4 = c3k2(&mut net, scale, 19, x, 512, 0.5, true)?;
    let x = down(&mut net, scale, 20, out4, 512)?;
    let x = net.concat("model.21", &[x, p5]);
    let c_out = scale.channels(1024);
    let args = C3k2Args { c_out, half: c_out / 2, repeats: 1, inner: Inner::Attention };
    let out5 = net.c3k2("model.22", x, args)?;
    let generation =
        Generation { reg_max: 1, branches, prototypes: scale.channels(256), ..Generation::plain(HEAD, false) };
    head::finish(net, generation, &[out3, out4, out5], task)
}
