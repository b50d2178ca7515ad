//! ResNet-18 to -152 (He et al., "Deep Residual Learning for Image Recognition", 2015), of any widths that a checkpoint
//! has, with the tensor names of torchvision, timm and candle-transformers.

use super::blocks::{Blueprint, Net, PlainArgs, ZooError};
use super::shapes::{Published, Shapes};
use crate::graph::{Activation, Graph, Head, NodeId};

/// Blocks of the four stages, and whether they are bottlenecks of three convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Blocks of each stage.
    pub blocks: [usize; 4],
    /// 1x1, 3x3, 1x1 instead of two 3x3.
    pub bottleneck: bool,
}

impl Depth {
    /// The published network of this many layers: 18, 34, 50, 101 or 152.
    pub fn of(layers: usize) -> Option<Self> {
        let (blocks, bottleneck) = match layers {
            18 => ([2, 2, 2, 2], false),
            34 => ([3, 4, 6, 3], false),
            50 => ([3, 4, 6, 3], true),
            101 => ([3, 4, 23, 3], true),
            152 => ([3, 8, 36, 3], true),
            _ => return None,
        };
        Some(Self { blocks, bottleneck })
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
    let nc = shapes.kernel("fc.weight")?[0];
    let blocks = [1, 2, 3, 4].map(|stage| shapes.repeats(&format!("layer{stage}"), 0));
    build(shapes, Depth { blocks, bottleneck: shapes.has("layer1.0.conv3", false) }, nc)
}

const RELU: Activation = Activation::Relu;
const LINEAR: Activation = Activation::Identity;

fn args(norm: String, kernel: usize, stride: usize, act: Activation) -> PlainArgs {
    PlainArgs { kernel, stride, padding: kernel / 2, depthwise: false, norm: Some(norm), act }
}

fn build(plan: &dyn Blueprint, depth: Depth, nc: usize) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, 1e-5);
    let x = net.plain("conv1", image, 64, args("bn1".into(), 7, 2, RELU))?;
    let mut x = net.max_pool("maxpool", x, [3, 2, 1]);
    for (stage, blocks) in depth.blocks.into_iter().enumerate() {
        for i in 0..blocks {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            x = block(&mut net, &format!("layer{}.{i}", stage + 1), x, (64 << stage, stride), depth.bottleneck)?;
        }
    }
    let x = net.average("avgpool", x);
    let logits = net.predict("fc", x, nc);
    Ok(net.graph.finish(vec![logits], Head::Classify { nc })?)
}

/// A residual block. Where it changes width or size, the residual does so by a 1x1 convolution.
fn block(
    net: &mut Net,
    name: &str,
    x: NodeId,
    (width, stride): (usize, usize),
    bottleneck: bool,
) -> Result<NodeId, ZooError> {
    let part = |i: usize| format!("{name}.conv{i}");
    let of = |i: usize, kernel: usize, stride: usize, act| args(format!("{name}.bn{i}"), kernel, stride, act);
    let (outer, y) = if bottleneck {
        let y = net.plain(&part(1), x, width, of(1, 1, 1, RELU))?;
        let y = net.plain(&part(2), y, width, of(2, 3, stride, RELU))?;
        (4 * width, net.plain(&part(3), y, 4 * width, of(3, 1, 1, LINEAR))?)
    } else {
        let y = net.plain(&part(1), x, width, of(1, 3, stride, RELU))?;
        (width, net.plain(&part(2), y, width, of(2, 3, 1, LINEAR))?)
    };
    let changes = stride != 1 || net.channels(x) != outer;
    let side = if net.plan.has(&format!("{name}.downsample"), changes) {
        let to = args(format!("{name}.downsample.1"), 1, stride, LINEAR);
        net.plain(&format!("{name}.downsample.0"), x, outer, to)?
    } else {
        x
    };
    let sum = net.add(format!("{name}.add"), side, y);
    Ok(net.activate(format!("{name}.relu"), sum, RELU))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_depths_have_their_published_sizes() {
        for (layers, params) in [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160)] {
            let graph = network(Depth::of(layers).unwrap(), 1000).unwrap();
            assert_eq!(graph.cost(224, 224).unwrap().params, params, "ResNet-{layers}");
            let tensors = graph.params().into_iter().map(|p| (p.key, p.shape)).collect();
            assert_eq!(from_shapes(&Shapes { tensors, ..Shapes::default() }).unwrap(), graph, "ResNet-{layers}");
        }
    }
}
