//! MobileNetV4, the convolutional ones (Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", 2024), of
//! any widths that a checkpoint has, with the tensor names of timm and candle-transformers.
//!
//! Blocks and window sizes follow from the shapes of the kernels; the first block of each of the first four
//! stages downsamples by 2, by the rule of the family. The attention of the hybrid networks is not supported.

use super::blocks::{Blueprint, Net, PlainArgs, Unknown, ZooError};
use super::shapes::{Published, Shapes};
use crate::graph::{Activation, Graph, Head, NodeId};

/// A block of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// A dense convolution of a width and a kernel.
    Conv(usize, usize),
    /// A fused inverted bottleneck: width, kernel, factor of the inner width.
    Fused(usize, usize, usize),
    /// A universal inverted bottleneck: width, kernels of the first and of the middle depthwise convolution (0: there
    /// is none), factor of the inner width.
    Universal(usize, usize, usize, usize),
}

use Block::{Conv, Fused, Universal};

/// A published network: width of the stem, and the blocks of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    stem: usize,
    stages: [&'static [Block]; 5],
}

impl Scale {
    /// The published scale of a letter: `s`, `m` or `l`.
    pub fn of(letter: char) -> Option<Self> {
        match letter {
            's' => Some(SMALL),
            'm' => Some(MEDIUM),
            'l' => Some(LARGE),
            _ => None,
        }
    }
}

const LAST: &[Block] = &[Conv(960, 1)];

#[rustfmt::skip]
const SMALL: Scale = Scale { stem: 32, stages: [
    &[Conv(32, 3), Conv(32, 1)],
    &[Conv(96, 3), Conv(64, 1)],
    &[
        Universal(96, 5, 5, 3), Universal(96, 0, 3, 2), Universal(96, 0, 3, 2), Universal(96, 0, 3, 2),
        Universal(96, 0, 3, 2), Universal(96, 3, 0, 4),
    ],
    &[
        Universal(128, 3, 3, 6), Universal(128, 5, 5, 4), Universal(128, 0, 5, 4), Universal(128, 0, 5, 3),
        Universal(128, 0, 3, 4), Universal(128, 0, 3, 4),
    ],
    LAST,
] };

#[rustfmt::skip]
const MEDIUM: Scale = Scale { stem: 32, stages: [
    &[Fused(48, 3, 4)],
    &[Universal(80, 3, 5, 4), Universal(80, 3, 3, 2)],
    &[
        Universal(160, 3, 5, 6), Universal(160, 3, 3, 4), Universal(160, 3, 3, 4), Universal(160, 3, 5, 4),
        Universal(160, 3, 3, 4), Universal(160, 3, 0, 4), Universal(160, 0, 0, 2), Universal(160, 3, 0, 4),
    ],
    &[
        Universal(256, 5, 5, 6), Universal(256, 5, 5, 4), Universal(256, 3, 5, 4), Universal(256, 3, 5, 4),
        Universal(256, 0, 0, 4), Universal(256, 3, 0, 4), Universal(256, 3, 5, 2), Universal(256, 5, 5, 4),
        Universal(256, 0, 0, 4), Universal(256, 0, 0, 4), Universal(256, 5, 0, 2),
    ],
    LAST,
] };

#[rustfmt::skip]
const LARGE: Scale = Scale { stem: 24, stages: [
    &[Fused(48, 3, 4)],
    &[Universal(96, 3, 5, 4), Universal(96, 3, 3, 4)],
    &[
        Universal(192, 3, 5, 4), Universal(192, 3, 3, 4), Universal(192, 3, 3, 4), Universal(192, 3, 3, 4),
        Universal(192, 3, 5, 4), Universal(192, 5, 3, 4), Universal(192, 5, 3, 4), Universal(192, 5, 3, 4),
        Universal(192, 5, 3, 4), Universal(192, 5, 3, 4), Universal(192, 3, 0, 4),
    ],
    &[
        Universal(512, 5, 5, 4), Universal(512, 5, 5, 4), Universal(512, 5, 5, 4), Universal(512, 5, 5, 4),
        Universal(512, 5, 0, 4), Universal(512, 5, 3, 4), Universal(512, 5, 0, 4), Universal(512, 5, 0, 4),
        Universal(512, 5, 3, 4), Universal(512, 5, 5, 4), Universal(512, 5, 0, 4), Universal(512, 5, 0, 4),
        Universal(512, 5, 0, 4),
    ],
    LAST,
] };

/// The classifier of a scale.
///
/// # Errors
/// If there are no classes.
pub fn network(scale: Scale, nc: usize) -> Result<Graph, ZooError> {
    let stages: Vec<Vec<Block>> = scale.stages.iter().map(|stage| stage.to_vec()).collect();
    build(&Published, scale.stem, &stages, nc)
}

/// The graph that a checkpoint's tensors describe.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let nc = shapes.kernel("classifier.weight")?[0];
    let mut stages = Vec::new();
    for stage in 0..5 {
        let prefix = format!("blocks.{stage}");
        let blocks = (0..shapes.repeats(&prefix, 0)).map(|i| block_of(shapes, &format!("{prefix}.{i}")));
        stages.push(blocks.collect::<Result<Vec<_>, _>>()?);
    }
    build(shapes, 0, &stages, nc)
}

/// The block that the tensors below a name make; widths are asked for again when it is built.
fn block_of(shapes: &Shapes, name: &str) -> Result<Block, ZooError> {
    let side = |part: &str| match shapes.has(&format!("{name}.{part}"), false) {
        true => shapes.kernel(&format!("{name}.{part}.conv.weight")).map(|kernel| kernel[2]),
        false => Ok(0),
    };
    if let Some(part) = ["attn", "layer_scale"].iter().find(|part| shapes.has(&format!("{name}.{part}"), false)) {
        let problem = "belongs to a hybrid MobileNetV4, which is not supported".to_owned();
        return Err(Unknown { key: format!("{name}.{part}"), problem }.into());
    }
    Ok(if shapes.has(&format!("{name}.pw_exp"), false) {
        Universal(0, side("dw_start")?, side("dw_mid")?, 0)
    } else if shapes.has(&format!("{name}.conv_exp"), false) {
        Fused(0, shapes.kernel(&format!("{name}.conv_exp.weight"))?[2], 0)
    } else {
        Conv(0, shapes.kernel(&format!("{name}.conv.weight"))?[2])
    })
}

const RELU: Activation = Activation::Relu;
const LINEAR: Activation = Activation::Identity;

fn args(norm: String, kernel: usize, stride: usize, act: Activation) -> PlainArgs {
    PlainArgs { kernel, stride, padding: kernel / 2, depthwise: false, norm: Some(norm), act }
}

fn build(plan: &dyn Blueprint, stem: usize, stages: &[Vec<Block>], nc: usize) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, 1e-5);
    let mut x = net.plain("conv_stem", image, stem, args("bn1".into(), 3, 2, RELU))?;
    for (stage, blocks) in stages.iter().enumerate() {
        for (i, block) in blocks.iter().enumerate() {
            let stride = if stage < 4 && i == 0 { 2 } else { 1 };
            x = append(&mut net, &format!("blocks.{stage}.{i}"), x, *block, stride)?;
        }
    }
    let x = net.average("global_pool", x);
    let x = net.plain("conv_head", x, 1280, args("norm_head".into(), 1, 1, RELU))?;
    let logits = net.predict("classifier", x, nc);
    Ok(net.graph.finish(vec![logits], Head::Classify { nc })?)
}

fn append(net: &mut Net, name: &str, x: NodeId, block: Block, stride: usize) -> Result<NodeId, ZooError> {
    let c_in = net.channels(x);
    match block {
        Conv(width, kernel) => {
            net.plain(&format!("{name}.conv"), x, width, args(format!("{name}.bn1"), kernel, stride, RELU))
        }
        Fused(width, kernel, factor) => {
            let wide = args(format!("{name}.bn1"), kernel, stride, RELU);
            let y = net.plain(&format!("{name}.conv_exp"), x, c_in * factor, wide)?;
            net.plain(&format!("{name}.conv_pwl"), y, width, args(format!("{name}.bn2"), 1, 1, LINEAR))
        }
        Universal(width, first, middle, factor) => {
            let of = |part: &str, kernel, stride, act, depthwise| {
                let args = PlainArgs { depthwise, ..args(format!("{name}.{part}.bn"), kernel, stride, act) };
                (format!("{name}.{part}.conv"), args)
            };
            let mut y = x;
            if first > 0 {
                let (part, args) = of("dw_start", first, if middle > 0 { 1 } else { stride }, LINEAR, true);
                y = net.plain(&part, y, 0, args)?;
            }
            let (part, args) = of("pw_exp", 1, 1, RELU, false);
            y = net.plain(&part, y, c_in * factor, args)?;
            if middle > 0 {
                let (part, args) = of("dw_mid", middle, stride, RELU, true);
                y = net.plain(&part, y, 0, args)?;
            }
            let (part, args) = of("pw_proj", 1, 1, LINEAR, false);
            y = net.plain(&part, y, width, args)?;
            let residual = stride == 1 && net.channels(y) == c_in;
            Ok(if residual { net.add(format!("{name}.add"), y, x) } else { y })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_scales_have_their_published_sizes() {
        for (letter, params) in [('s', 3_774_024), ('m', 9_715_512), ('l', 32_590_864)] {
            let graph = network(Scale::of(letter).unwrap(), 1000).unwrap();
            assert_eq!(graph.cost(224, 224).unwrap().params, params, "MobileNetV4 {letter}");
            let tensors = graph.params().into_iter().map(|p| (p.key, p.shape)).collect();
            assert_eq!(from_shapes(&Shapes { tensors, ..Shapes::default() }).unwrap(), graph, "MobileNetV4 {letter}");
        }
    }
}
