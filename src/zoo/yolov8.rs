//! YOLOv8 for all five tasks, in the five published scales and in any other widths that a checkpoint has.
//!
//! Names follow the checkpoints. The C2f blocks of the backbone have residuals, those of the neck have not; the
//! tensors do not show it, so it follows from the family.

use super::blocks::{self, Blueprint, ConvArgs, Net, ZooError};
use super::csp::C2fArgs;
use super::head::{self, Generation, Task};
use super::shapes::{Published, Shapes};
use crate::graph::{Graph, NodeId};

/// Index of the box head among the top-level layers.
pub const HEAD: usize = 22;

/// Index of the classifier among the top-level layers.
pub const CLASSIFIER: usize = 9;

/// A published or custom scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Factor on the number of repeated blocks.
    pub depth: f64,
    /// Factor on the channels.
    pub width: f64,
    /// Cap on the channels before the factor.
    pub max_channels: usize,
}

impl Scale {
    /// The published scale of a letter (`n`, `s`, `m`, `l` or `x`); classifiers have no cap on their channels but 1024.
    pub fn of(letter: char, task: Task) -> Option<Self> {
        let (depth, width, max_channels) = match letter {
            'n' => (0.33, 0.25, 1024),
            's' => (0.33, 0.5, 1024),
            'm' => (0.67, 0.75, 768),
            'l' => (1.0, 1.0, 512),
            'x' => (1.0, 1.25, 512),
            _ => return None,
        };
        let max_channels = if task == Task::Classify { 1024 } else { max_channels };
        Some(Self { depth, width, max_channels })
    }

    pub(super) fn channels(&self, published: usize) -> usize {
        blocks::channels(published, self.width, self.max_channels)
    }

    pub(super) fn repeats(&self, published: usize) -> usize {
        blocks::repeats(published, self.depth)
    }
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
    build(shapes, Scale { depth: 1.0, width: 1.0, max_channels: 1024 }, task, nc)
}

fn build(plan: &dyn Blueprint, scale: Scale, task: Task, nc: usize) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, task.eps());
    let down = |net: &mut Net, layer: usize, x: NodeId, published: usize| {
        net.conv(&format!("model.{layer}"), x, scale.channels(published), ConvArgs::down(3))
    };
    let c2f = |net: &mut Net, layer: usize, x: NodeId, published: usize, repeats: usize, residual: bool| {
        let args = C2fArgs { c_out: scale.channels(published), repeats: scale.repeats(repeats), residual, cib: None };
        net.c2f(&format!("model.{layer}"), x, args)
    };
    let x = down(&mut net, 0, image, 64)?;
    let x = down(&mut net, 1, x, 128)?;
    let x = c2f(&mut net, 2, x, 128, 3, true)?;
    let x = down(&mut net, 3, x, 256)?;
    let p3 = c2f(&mut net, 4, x, 256, 6, true)?;
    let x = down(&mut net, 5, p3, 512)?;
    let p4 = c2f(&mut net, 6, x, 512, 6, true)?;
    let x = down(&mut net, 7, p4, 1024)?;
    let x = c2f(&mut net, 8, x, 1024, 3, true)?;
    if task == Task::Classify {
        return head::classify(net, CLASSIFIER, x, nc);
    }
    let p5 = net.sppf("model.9", x, scale.channels(1024), false)?;

    let x = net.upsample("model.10", p5);
    let x = net.concat("model.11", &[x, p4]);
    let n4 = c2f(&mut net, 12, x, 512, 3, false)?;
    let x = net.upsample("model.13", n4);
    let x = net.concat("model.14", &[x, p3]);
    let out3 = c2f(&mut net, 15, x, 256, 3, false)?;
    let x = down(&mut net, 16, out3, 256)?;
    let x = net.concat("model.17", &[x, n4]);
    let out4 = c2f(&mut net, 18, x, 512, 3, false)?;
    let x = down(&mut net, 19, out4, 512)?;
    let x = net.concat("model.20", &[x, p5]);
    let out5 = c2f(&mut net, 21, x, 1024, 3, false)?;
    let generation = Generation { prototypes: scale.channels(256), ..Generation::plain(HEAD, true) };
    head::finish(net, generation, &[out3, out4, out5], (task, nc))
}

#[cfg(test)]
mod tests {
    use super::super::head::REG_MAX;
    use super::*;

    #[test]
    fn published_scales_have_their_published_sizes() {
        // Parameters with the 16 constants of the distribution kernel, as the reference counts them.
        let published = [('n', 3_157_200), ('s', 11_166_560), ('m', 25_902_640), ('l', 43_691_520), ('x', 68_229_648)];
        for (letter, params) in published {
            let graph = network(Scale::of(letter, Task::Detect).unwrap(), Task::Detect, 80).unwrap();
            assert_eq!(graph.cost(640, 640).unwrap().params + REG_MAX, params, "yolov8{letter}");
        }
    }

    #[test]
    fn a_graph_built_from_its_own_shapes_is_the_same_graph() {
        for task in Task::PUBLISHED {
            for letter in ['n', 'm'] {
                let graph = network(Scale::of(letter, task).unwrap(), task, 7).unwrap();
                let tensors = graph.params().into_iter().map(|p| (p.key, p.shape)).collect();
                let shapes = Shapes { tensors, ..Shapes::default() };
                assert_eq!(from_shapes(&shapes).unwrap(), graph, "yolov8{letter} {task:?}");
            }
        }
    }
}
