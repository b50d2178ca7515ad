//! YOLO11 for detection, in the five published scales and in any other widths that a checkpoint has.
//!
//! Names follow the checkpoints (`model.<layer>.<part>`). The classification branch of the head is
//! the depthwise one of YOLO11.

use super::blocks::{Blueprint, C3k2Args, ConvArgs, Net, Unknown, ZooError};
use crate::graph::{Activation, Graph, Head, NodeId, Op};
use std::collections::BTreeMap;

/// Bins of the box distribution per side.
pub const REG_MAX: usize = 16;

/// Pixels per cell of the three levels.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// Index of the head among the top-level layers.
pub const HEAD: usize = 23;

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

    fn channels(&self, published: usize) -> usize {
        let scaled = published.min(self.max_channels) as f64 * self.width;
        ((scaled / 8.0).ceil() as usize).max(1) * 8
    }

    fn repeats(&self, published: usize) -> usize {
        ((published as f64 * self.depth).round() as usize).max(1)
    }
}

/// The graph of a scale.
///
/// # Errors
/// If the scale leads to impossible sizes.
pub fn detect(scale: Scale, nc: usize) -> Result<Graph, ZooError> {
    build(&Published, scale, nc)
}

/// The graph that a checkpoint's tensors describe: their shapes decide every width and depth.
/// `activation` and `heads` answer what shapes cannot tell, by module name.
///
/// # Errors
/// Names the first tensor that is missing or has an impossible shape.
pub fn from_shapes(shapes: &Shapes) -> Result<Graph, ZooError> {
    let last = format!("model.{HEAD}.cv3.0.2.weight");
    let nc = shapes.kernel(&last)?[0];
    build(shapes, Scale { depth: 0.5, width: 0.25, max_channels: 1024, c3k_everywhere: false }, nc)
}

/// What a checkpoint tells about its network.
#[derive(Clone, Debug, Default)]
pub struct Shapes {
    /// Shape of every tensor.
    pub tensors: BTreeMap<String, Vec<usize>>,
    /// Activation of convolution blocks by module name, where known.
    pub activations: BTreeMap<String, Activation>,
    /// Attention heads by module name, where known.
    pub heads: BTreeMap<String, usize>,
}

impl Shapes {
    fn kernel(&self, key: &str) -> Result<[usize; 4], Unknown> {
        let fail = |problem: String| Unknown { key: key.into(), problem };
        let shape = self.tensors.get(key).ok_or_else(|| fail("is missing; a YOLO11 detector has it".into()))?;
        match shape[..] {
            [a, b, c, d] if a > 0 && a <= 1 << 16 => Ok([a, b, c, d]),
            _ => Err(fail(format!("has shape {shape:?}, expected [c_out, c_in, k, k]"))),
        }
    }
}

impl Blueprint for Shapes {
    fn width(&self, weight_key: &str, _rule: usize) -> Result<usize, ZooError> {
        Ok(self.kernel(weight_key)?[0])
    }

    fn repeats(&self, prefix: &str, _rule: usize) -> usize {
        (0..1000).take_while(|i| self.has(&format!("{prefix}.{i}"), false)).count()
    }

    fn has(&self, module: &str, _rule: bool) -> bool {
        let prefix = format!("{module}.");
        self.tensors.range(prefix.clone()..).next().is_some_and(|(key, _)| key.starts_with(&prefix))
    }

    fn fused(&self, module: &str) -> bool {
        self.tensors.contains_key(&format!("{module}.conv.bias")) && !self.has(&format!("{module}.bn"), false)
    }

    fn activation(&self, module: &str, rule: Activation) -> Activation {
        self.activations.get(module).copied().unwrap_or(rule)
    }

    fn heads(&self, module: &str, rule: usize) -> usize {
        self.heads.get(module).copied().unwrap_or(rule)
    }
}

/// Answers every question with the published rule.
struct Published;

impl Blueprint for Published {
    fn width(&self, _weight_key: &str, rule: usize) -> Result<usize, ZooError> {
        Ok(rule)
    }

    fn repeats(&self, _prefix: &str, rule: usize) -> usize {
        rule
    }

    fn has(&self, _module: &str, rule: bool) -> bool {
        rule
    }
}

fn build(plan: &dyn Blueprint, scale: Scale, nc: usize) -> Result<Graph, ZooError> {
    let (mut net, image) = Net::new(plan, 3);
    let down = |net: &mut Net, layer: usize, x, published| {
        net.conv(&format!("model.{layer}"), x, scale.channels(published), ConvArgs { stride: 2, ..ConvArgs::k(3) })
    };
    // Published channels, share of the hidden half, whether C3k.
    let c3k2 = |net: &mut Net, layer: usize, x, published, share: f64, c3k: bool| {
        let c_out = scale.channels(published);
        let half = (c_out as f64 * share) as usize;
        let args = C3k2Args { c_out, half, repeats: scale.repeats(2), c3k: c3k || scale.c3k_everywhere };
        net.c3k2(&format!("model.{layer}"), x, args)
    };

    let x = down(&mut net, 0, image, 64)?;
    let x = down(&mut net, 1, x, 128)?;
    let x = c3k2(&mut net, 2, x, 256, 0.25, false)?;
    let x = down(&mut net, 3, x, 256)?;
    let p3 = c3k2(&mut net, 4, x, 512, 0.25, false)?;
    let x = down(&mut net, 5, p3, 512)?;
    let p4 = c3k2(&mut net, 6, x, 512, 0.5, true)?;
    let x = down(&mut net, 7, p4, 1024)?;
    let x = c3k2(&mut net, 8, x, 1024, 0.5, true)?;
    let x = net.sppf("model.9", x, scale.channels(1024))?;
    let p5 = net.c2psa("model.10", x, scale.channels(1024), scale.repeats(2))?;

    let x = net.upsample("model.11", p5);
    let x = net.concat("model.12", &[x, p4]);
    let n4 = c3k2(&mut net, 13, x, 512, 0.5, false)?;
    let x = net.upsample("model.14", n4);
    let x = net.concat("model.15", &[x, p3]);
    let out3 = c3k2(&mut net, 16, x, 256, 0.5, false)?;
    let x = down(&mut net, 17, out3, 256)?;
    let x = net.concat("model.18", &[x, n4]);
    let out4 = c3k2(&mut net, 19, x, 512, 0.5, false)?;
    let x = down(&mut net, 20, out4, 512)?;
    let x = net.concat("model.21", &[x, p5]);
    let out5 = c3k2(&mut net, 22, x, 1024, 0.5, true)?;

    let outputs = head(&mut net, &[out3, out4, out5], nc)?;
    let head = Head::Detect { nc, reg_max: REG_MAX, strides: STRIDES.to_vec() };
    Ok(net.graph.finish(outputs, head)?)
}

fn head(net: &mut Net, levels: &[NodeId], nc: usize) -> Result<Vec<NodeId>, ZooError> {
    let finest = net.channels(levels[0]);
    let box_width = (finest / 4).max(4 * REG_MAX).max(16);
    let class_width = finest.max(nc.min(100));
    let mut outputs = Vec::new();
    for (i, level) in levels.iter().enumerate() {
        let name = |branch: &str, part: &str| format!("model.{HEAD}.{branch}.{i}.{part}");
        let mut x = *level;
        for part in ["0", "1"] {
            x = net.conv(&name("cv2", part), x, box_width, ConvArgs::k(3))?;
        }
        outputs.push(net.predict(&name("cv2", "2"), x, 4 * REG_MAX));

        let mut x = *level;
        for (depthwise, dense) in [("0.0", "0.1"), ("1.0", "1.1")] {
            x = net.conv(&name("cv3", depthwise), x, 0, ConvArgs { depthwise: true, ..ConvArgs::k(3) })?;
            x = net.conv(&name("cv3", dense), x, class_width, ConvArgs::k(1))?;
        }
        outputs.push(net.predict(&name("cv3", "2"), x, nc));
    }
    Ok(outputs)
}

/// Every tensor of an ultralytics state dict of this graph, running counters and the constant
/// distribution kernel included.
pub fn state_dict(graph: &Graph) -> BTreeMap<String, Vec<usize>> {
    let mut all: BTreeMap<String, Vec<usize>> = graph.params().into_iter().map(|p| (p.key, p.shape)).collect();
    for node in &graph.nodes {
        if let Op::Conv(conv) = &node.op
            && let Some(norm) = &conv.norm
        {
            all.insert(format!("{}.num_batches_tracked", norm.prefix), vec![]);
        }
    }
    all.insert(format!("model.{HEAD}.dfl.conv.weight"), vec![1, REG_MAX, 1, 1]);
    all
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
