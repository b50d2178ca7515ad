//! YOLOv9 detectors in the five published variants and in any other widths that a checkpoint has (Wang et al., "YOLOv9",
//! ECCV 2024): t, s, m and c have one backbone, e has two that are fused.

use super::blocks::{Blueprint, ConvArgs, Net, ZooError};
use super::elan::ElanArgs;
use super::head::{self, Generation, Task};
use super::shapes::{Published, Shapes};
use crate::graph::{Graph, NodeId};

/// Index of the head among the top-level layers of t, s, m and c.
pub const HEAD: usize = 22;

/// Index of the head among the top-level layers of e.
pub const HEAD_E: usize = 42;

/// The numbers of a variant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// Of the first two convolutions.
    stem: [usize; 2],
    /// Output, stem and stage of the four aggregating blocks of the backbone.
    blocks: [[usize; 3]; 4],
    /// Output, stem and stage of the four of the neck: top-down at strides 16 and 8, bottom-up at 16 and 32.
    neck: [[usize; 3]; 4],
    /// Of the convolutions with stride 2 between the blocks, first those of the backbone, then those of the neck.
    downs: [usize; 5],
    /// Bottlenecks of a stage.
    repeats: usize,
    /// Hidden and outer width of the pools.
    pools: [usize; 2],
    /// The first block is one of single convolutions (t, s).
    light: bool,
    /// Blocks with stride 2 are ADown, which splits the channels in two (c, e).
    adown: bool,
}

impl Variant {
    /// The published variant of a letter: `t`, `s`, `m` or `c`; `e` is [`detect_e`].
    pub fn of(letter: char) -> Option<Self> {
        Some(match letter {
            't' => Self::regular(16, [32, 64, 96, 128], [48, 64], true),
            's' => Self::regular(32, [64, 128, 192, 256], [96, 128], true),
            'm' => Self::MEDIUM,
            'c' => Self {
                stem: [64, 128],
                blocks: [[256, 128, 64], [512, 256, 128], [512, 512, 256], [512, 512, 256]],
                neck: [[512, 512, 256], [256, 256, 128], [512, 512, 256], [512, 512, 256]],
                downs: [256, 512, 512, 256, 512],
                pools: [256, 512],
                adown: true,
                ..Self::MEDIUM
            },
            _ => return None,
        })
    }

    const MEDIUM: Self = Self::regular(32, [128, 240, 360, 480], [184, 240], false);

    /// Blocks whose three widths follow from one.
    const fn regular(stem: usize, [a, b, c, d]: [usize; 4], downs: [usize; 2], light: bool) -> Self {
        Self {
            stem: [stem, 2 * stem],
            blocks: [[a, a, a / 2], [b, b, b / 2], [c, c, c / 2], [d, d, d / 2]],
            neck: [[c, c, c / 2], [b, b, b / 2], [c, c, c / 2], [d, d, d / 2]],
            downs: [b, c, d, downs[0], downs[1]],
            repeats: if light { 3 } else { 1 },
            pools: [d / 2, d],
            light,
            adown: false,
        }
    }
}

/// The detector of a variant.
///
/// # Errors
/// If the variant leads to impossible sizes.
pub fn detect(variant: Variant, nc: usize) -> Result<Graph, ZooError> {
    build(&Published, variant, (Task::Detect, nc))
}

/// The detector of variant e.
///
/// # Errors
/// If `nc` is 0.
pub fn detect_e(nc: usize) -> Result<Graph, ZooError> {
    build_e(&Published, (Task::Detect, nc))
}

/// The graph that a checkpoint's tensors describe: their shapes decide variant, widths and depths.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    if shapes.has(&format!("model.{HEAD_E}.cv3"), false) {
        return build_e(shapes, head::of_shapes(shapes, HEAD_E)?);
    }
    let found = head::of_shapes(shapes, HEAD)?;
    let light = shapes.tensor("model.2.cv2.conv.weight", false);
    // The second kernel of an ADown block.
    let adown = shapes.tensor("model.3.cv2.conv.weight", false);
    // Every width and depth comes from the tensors.
    let variant = Variant { light, adown, ..Variant::MEDIUM };
    build(shapes, variant, found)
}

/// An aggregating block.
fn elan(
    net: &mut Net,
    layer: usize,
    x: NodeId,
    [c_out, stem, stage]: [usize; 3],
    repeats: Option<usize>,
) -> Result<NodeId, ZooError> {
    net.elan(&format!("model.{layer}"), x, ElanArgs { c_out, stem, stage, repeats })
}

fn build(plan: &dyn Blueprint, v: Variant, task: (Task, usize)) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, task.0.eps());
    let repeats = Some(v.repeats);
    let down = |net: &mut Net, layer: usize, x: NodeId, c_out: usize| {
        let name = format!("model.{layer}");
        if v.adown { net.adown(&name, x, c_out) } else { net.aconv(&name, x, c_out) }
    };
    let x = net.conv("model.0", image, v.stem[0], ConvArgs::down(3))?;
    let x = net.conv("model.1", x, v.stem[1], ConvArgs::down(3))?;
    let x = elan(&mut net, 2, x, v.blocks[0], repeats.filter(|_| !v.light))?;
    let x = down(&mut net, 3, x, v.downs[0])?;
    let p3 = elan(&mut net, 4, x, v.blocks[1], repeats)?;
    let x = down(&mut net, 5, p3, v.downs[1])?;
    let p4 = elan(&mut net, 6, x, v.blocks[2], repeats)?;
    let x = down(&mut net, 7, p4, v.downs[2])?;
    let x = elan(&mut net, 8, x, v.blocks[3], repeats)?;
    let p5 = net.spp_elan("model.9", x, v.pools[0], v.pools[1])?;

    let x = net.upsample("model.10", p5);
    let x = net.concat("model.11", &[x, p4]);
    let n4 = elan(&mut net, 12, x, v.neck[0], repeats)?;
    let x = net.upsample("model.13", n4);
    let x = net.concat("model.14", &[x, p3]);
    let out3 = elan(&mut net, 15, x, v.neck[1], repeats)?;
    let x = down(&mut net, 16, out3, v.downs[3])?;
    let x = net.concat("model.17", &[x, n4]);
    let out4 = elan(&mut net, 18, x, v.neck[2], repeats)?;
    let x = down(&mut net, 19, out4, v.downs[4])?;
    let x = net.concat("model.20", &[x, p5]);
    let out5 = elan(&mut net, 21, x, v.neck[3], repeats)?;
    head::finish(net, Generation::plain(HEAD, true), &[out3, out4, out5], task)
}

/// Output, stem and stage of the aggregating blocks of e's backbones.
const BLOCKS_E: [[usize; 3]; 4] = [[256, 128, 64], [512, 256, 128], [1024, 512, 256], [1024, 512, 256]];

/// Bottlenecks of a stage of e.
const REPEATS_E: Option<usize> = Some(2);

fn build_e(plan: &dyn Blueprint, task: (Task, usize)) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3, task.0.eps());
    // The first backbone, and its maps at strides 2 to 32.
    let x = net.conv("model.1", image, 64, ConvArgs::down(3))?;
    let mut maps = vec![x];
    let x = net.conv("model.2", x, 128, ConvArgs::down(3))?;
    let mut x = elan(&mut net, 3, x, BLOCKS_E[0], REPEATS_E)?;
    maps.push(x);
    for (layer, block) in [5, 7, 9].into_iter().zip(&BLOCKS_E[1..]) {
        let c_out = net.channels(x);
        x = net.adown(&format!("model.{}", layer - 1), x, c_out)?;
        x = elan(&mut net, layer, x, *block, REPEATS_E)?;
        maps.push(x);
    }
    // Each map gives every finer level of the second backbone, and its own, a part of that level's width.
    let widths = fused_widths(&net)?;
    let mut parts = Vec::new();
    for (i, map) in maps.into_iter().enumerate() {
        parts.push(net.cb_linear(&format!("model.{}", 10 + i), map, &widths[..=i]));
    }
    let fuse = |net: &mut Net, layer: usize, level: usize, x: NodeId| {
        let parts: Vec<NodeId> = parts.iter().filter_map(|of_map| of_map.get(level).copied()).collect();
        net.cb_fuse(&format!("model.{layer}"), &parts, x)
    };
    let x = net.conv("model.15", image, 64, ConvArgs::down(3))?;
    let x = fuse(&mut net, 16, 0, x);
    let x = net.conv("model.17", x, 128, ConvArgs::down(3))?;
    let x = fuse(&mut net, 18, 1, x);
    let mut x = elan(&mut net, 19, x, BLOCKS_E[0], REPEATS_E)?;
    let mut levels = Vec::new();
    for (i, block) in BLOCKS_E[1..].iter().enumerate() {
        let (layer, c_out) = (20 + 3 * i, net.channels(x));
        x = net.adown(&format!("model.{layer}"), x, c_out)?;
        x = fuse(&mut net, layer + 1, 2 + i, x);
        x = elan(&mut net, layer + 2, x, *block, REPEATS_E)?;
        levels.push(x);
    }
    let p5 = net.spp_elan("model.29", x, 256, 512)?;

    let x = net.upsample("model.30", p5);
    let x = net.concat("model.31", &[x, levels[1]]);
    let n4 = elan(&mut net, 32, x, [512, 512, 256], REPEATS_E)?;
    let x = net.upsample("model.33", n4);
    let x = net.concat("model.34", &[x, levels[0]]);
    let out3 = elan(&mut net, 35, x, [256, 256, 128], REPEATS_E)?;
    let x = net.adown("model.36", out3, 256)?;
    let x = net.concat("model.37", &[x, n4]);
    let out4 = elan(&mut net, 38, x, [512, 512, 256], REPEATS_E)?;
    let x = net.adown("model.39", out4, 512)?;
    let x = net.concat("model.40", &[x, p5]);
    let out5 = elan(&mut net, 41, x, [512, 1024, 512], REPEATS_E)?;
    head::finish(net, Generation::plain(HEAD_E, true), &[out3, out4, out5], task)
}

/// Widths of the second backbone where it is fused with the first.
fn fused_widths(net: &Net) -> Result<Vec<usize>, ZooError> {
    let width = |name: &str, rule: usize| net.plan.width(&format!("model.{name}.conv.weight"), rule);
    let mut widths = vec![width("15", 64)?, width("17", 128)?];
    for (layer, rule) in [(20, 256), (23, 512), (26, 1024)] {
        widths.push(width(&format!("{layer}.cv1"), rule / 2)? + width(&format!("{layer}.cv2"), rule / 2)?);
    }
    Ok(widths)
}
