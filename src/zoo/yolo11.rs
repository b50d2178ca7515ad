//! YOLO11 for all five tasks, in the five published scales and in any other widths that a checkpoint has.
//!
//! Names follow the checkpoints (`model.<layer>.<part>`). The classification branch of the head is
//! the depthwise one of YOLO11.

use super::blocks::{self, Blueprint, ConvArgs, Net, ZooError};
use super::csp::{C3k2Args, Inner};
use super::head::{self, Generation, Task};
use super::shapes::Published;
use crate::graph::{Graph, NodeId};
use std::collections::BTreeMap;

pub use super::head::{REG_MAX, STRIDES};
pub use super::shapes::Shapes;

/// Index of the box head among the top-level layers.
pub const HEAD: usize = 23;

/// Index of the classifier among the top-level layers.
pub const CLASSIFIER: usize = 10;

/// A published or custom scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor on the number of repeated blocks.
    pub depth: f64,
    /// Factor on the channels.
    pub width: f64,
    /// Cap on the channels before the factor.
    pub max_channels: usize,
    /// Whether every C3k2 holds C3k blocks (scales m, l, x) or only the deep ones.
    pub c3k_everywhere: bool,
}

impl Scale {
    /// The published scale of a letter: `n`, `s`, `m`, `l` or `x`.
    pub fn of(letter: char) -> Option<Self> {
        let (depth, width, max_channels) = match letter {
            'n' => (0.5, 0.25, 1024),
            's' => (0.5, 0.5, 1024),
            'm' => (0.5, 1.0, 512),
            'l' => (1.0, 1.0, 512),
            'x' => (1.0, 1.5, 512),
            _ => return None,
        };
        Some(Self { depth, width, max_channels, c3k_everywhere: "mlx".contains(letter) })
    }

    pub(super) fn channels(&self, published: usize) -> usize {
        blocks::channels(published, self.width, self.max_channels)
    }

    pub(super) fn repeats(&self, published: usize) -> usize {
        blocks::repeats(published, self.depth)
    }
}

/// The detector of a scale.
///
/// # Errors
/// If the scale leads to impossible sizes.
pub fn detect(scale: Scale, nc: usize) -> Result<Graph, ZooError> {
    network(scale, Task::Detect, nc)
}

/// The network of a scale for a task.
///
/// # Errors
/// If the scale leads to impossible sizes.
pub fn network(scale: Scale, task: Task, nc: usize) -> Result<Graph, ZooError> {
    build(&Published, scale, task, nc)
}

/// The graph that a checkpoint's tensors describe: their shapes decide task, widths and depths.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let classifier = format!("model.{CLASSIFIER}.linear.weight");
    let (task, nc) = match shapes.tensors.contains_key(&classifier) {
        true => (Task::Classify, shapes.kernel(&classifier)?[0]),
        false => head::of_shapes(shapes, HEAD)?,
    };
    // Every width and depth comes from the tensors.
    build(shapes, Scale { depth: 1.0, width: 1.0, max_channels: 1024, c3k_everywhere: false }, task, nc)
}

fn build(plan: &dyn Blueprint, scale: Scale, task: Task, nc: usize) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, task.eps());
    let [p3, p4, x] = backbone(&mut net, scale, image)?;
    let attention = |net: &mut Net, layer: usize, x| {
        net.c2psa(&format!("model.{layer}"), x, scale.channels(1024), scale.repeats(2))
    };
    if task == Task::Classify {
        let x = attention(&mut net, 9, x)?;
        return head::classify(net, CLASSIFIER, x, nc);
    }
    let x = net.sppf("model.9", x, scale.channels(1024), false)?;
    let p5 = attention(&mut net, 10, x)?;

    let x = net.upsample("model.11", p5);
    let x = net.concat("model.12", &[x, p4]);
    let n4 = c3k2(&mut net, scale, 13, x, 512, 0.5, false)?;
    let x = net.upsample("model.14", n4);
    let x = net.concat("model.15", &[x, p3]);
    let out3 = c3k2(&mut net, scale, 16, x, 256, 0.5, false)?;
    let x = down(&mut net, scale, 17, out3, 256)?;
    let x = net.concat("model.18", &[x, n4]);
    let out4 = c3k2(&mut net, scale, 19, x, 512, 0.5, false)?;
    let x = down(&mut net, scale, 20, out4, 512)?;
    let x = net.concat("model.21", &[x, p5]);
    let out5 = c3k2(&mut net, scale, 22, x, 1024, 0.5, true)?;
    let generation = Generation { prototypes: scale.channels(256), ..Generation::plain(HEAD, false) };
    head::finish(net, generation, &[out3, out4, out5], (task, nc))
}

/// Layers 0 to 8: the features at strides 8, 16 and 32.
pub(super) fn backbone(net: &mut Net, scale: Scale, image: NodeId) -> Result<[NodeId; 3], ZooError> {
    let x = down(net, scale, 0, image, 64)?;
    let x = down(net, scale, 1, x, 128)?;
    let x = c3k2(net, scale, 2, x, 256, 0.25, false)?;
    let x = down(net, scale, 3, x, 256)?;
    let p3 = c3k2(net, scale, 4, x, 512, 0.25, false)?;
    let x = down(net, scale, 5, p3, 512)?;
    let p4 = c3k2(net, scale, 6, x, 512, 0.5, true)?;
    let x = down(net, scale, 7, p4, 1024)?;
    let x = c3k2(net, scale, 8, x, 1024, 0.5, true)?;
    Ok([p3, p4, x])
}

pub(super) fn down(net: &mut Net, scale: Scale, layer: usize, x: NodeId, published: usize) -> Result<NodeId, ZooError> {
    net.conv(&format!("model.{layer}"), x, scale.channels(published), ConvArgs::down(3))
}

/// Published channels, share of the hidden half, whether C3k.
pub(super) fn c3k2(
    net: &mut Net,
    scale: Scale,
    layer: usize,
    x: NodeId,
    published: usize,
    share: f64,
    c3k: bool,
) -> Result<NodeId, ZooError> {
    let c_out = scale.channels(published);
    let half = (c_out as f64 * share) as usize;
    let inner = if c3k || scale.c3k_everywhere { Inner::C3k } else { Inner::Bottleneck };
    let args = C3k2Args { c_out, half, repeats: scale.repeats(2), inner };
    net.c3k2(&format!("model.{layer}"), x, args)
}

/// Every tensor of an ultralytics state dict of this graph, running counters and the constant
/// distribution kernel included.
pub fn state_dict(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    head::state_dict(graph)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_scales_have_their_published_sizes() {
        // Parameters with the 16 constants of the distribution kernel, as the reference counts them.
        for (letter, params) in
            [('n', 2_624_080), ('s', 9_458_752), ('m', 20_114_688), ('l', 25_372_160), ('x', 56_966_176)]
        {
            let graph = detect(Scale::of(letter).unwrap(), 80).unwrap();
            assert_eq!(graph.cost(640, 640).unwrap().params + REG_MAX, params, "yolo11{letter}");
        }
    }

    #[test]
    fn a_graph_built_from_its_own_shapes_is_the_same_graph() {
        for letter in ['n', 's', 'm', 'l', 'x'] {
            let graph = detect(Scale::of(letter).unwrap(), 7).unwrap();
            let shapes = Shapes { tensors: state_dict(&graph), ..Shapes::default() };
            assert_eq!(from_shapes(&shapes).unwrap(), graph, "yolo11{letter}");
        }
    }
}
