//! VGG-13, -16 and -19 (Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
//! 2014), of any widths that a checkpoint has, with the tensor names of timm and candle-transformers.
//!
//! The first fully connected layer is a 7x7 convolution over its whole input, so that images must be 224 to 255 pixels
//! wide and high. As in candle-transformers, which serves as the reference, the logits too pass a ReLU.

use super::blocks::{Blueprint, Net, PlainArgs, ZooError};
use super::shapes::{Published, Shapes};
use crate::graph::{Activation, Graph, Head};

/// Convolutions of the five stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth(pub [usize; 5]);

impl Depth {
    /// The published network of this many layers: 13, 16 or 19.
    pub fn of(layers: usize) -> Option<Self> {
        match layers {
            13 => Some(Self([2, 2, 2, 2, 2])),
            16 => Some(Self([2, 2, 3, 3, 3])),
            19 => Some(Self([2, 2, 4, 4, 4])),
            _ => None,
        }
    }
}

/// The classifier of a depth.
///
/// # Errors
/// If there are no classes.
pub fn network(depth: Depth, nc: usize) -> Result<Graph, ZooError> {
    build(&Published, depth, nc)
}

/// The graph that a checkpoint's tensors describe.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let nc = shapes.kernel("head.fc.weight")?[0];
    // Layers are numbered through: a convolution and its activation take two numbers, a pool one.
    let (mut depth, mut at) = ([0; 5], 0);
    for stage in &mut depth {
        while shapes.has(&format!("features.{at}"), false) {
            (*stage, at) = (*stage + 1, at + 2);
        }
        at += 1;
    }
    build(shapes, Depth(depth), nc)
}

fn build(plan: &dyn Blueprint, depth: Depth, nc: usize) -> Result<Graph, ZooError> {
    let (mut net, mut x) = Net::new(plan, 3, 1e-5);
    let args = |kernel: usize, padding: usize| PlainArgs {
        kernel,
        stride: 1,
        padding,
        depthwise: false,
        norm: None,
        act: Activation::Relu,
    };
    let mut at = 0;
    for (stage, convs) in depth.0.into_iter().enumerate() {
        for _ in 0..convs {
            x = net.plain(&format!("features.{at}"), x, 64 << stage.min(3), args(3, 1))?;
            at += 2;
        }
        x = net.max_pool(format!("features.{at}"), x, [2, 2, 0]);
        at += 1;
    }
    x = net.plain("pre_logits.fc1", x, 4096, args(7, 0))?;
    x = net.plain("pre_logits.fc2", x, 4096, args(1, 0))?;
    let logits = net.plain("head.fc", x, nc, args(1, 0))?;
    Ok(net.graph.finish(vec![logits], Head::Classify { nc })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_depths_have_their_published_sizes() {
        for (layers, params) in [(13, 133_047_848), (16, 138_357_544), (19, 143_667_240)] {
            let graph = network(Depth::of(layers).unwrap(), 1000).unwrap();
            assert_eq!(graph.cost(224, 224).unwrap().params, params, "VGG-{layers}");
            let tensors = graph.params().into_iter().map(|p| (p.key, p.shape)).collect();
            assert_eq!(from_shapes(&Shapes { tensors, ..Shapes::default() }).unwrap(), graph, "VGG-{layers}");
        }
    }
}
