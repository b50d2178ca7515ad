//! Shapes of all tensors for an input size, and the checks that make a graph trustworthy.

use super::{Conv, ConvTranspose, Graph, GraphError, MAX_NODES, Node, Op};
use std::collections::HashSet;

/// The most elements a tensor or a kernel may have (16 GiB in f32): a bound for untrusted files.
pub const MAX_ELEMENTS: usize = 1 << 32;

/// Channels, height and width of one image's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Channels.
    pub c: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
}

impl Shape {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.c * self.h * self.w
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of positions, `h * w`.
    pub fn area(&self) -> usize {
        self.h * self.w
    }
}

impl Graph {
    /// The shape of every node's tensor for an input of `height` x `width`, in node order.
    ///
    /// # Errors
    /// If a layer does not fit: sides that differ in a concat or a sum, a window larger than its
    /// input, a tensor over [`MAX_ELEMENTS`].
    pub fn shapes(&self, height: usize, width: usize) -> Result<Vec<Shape>, GraphError> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let inputs: Vec<Shape> = node.inputs.iter().map(|id| shapes[id.index()]).collect();
            let shape = infer(node, &inputs, (height, width)).map_err(|p| fail(node, p))?;
            let len = shape.c.checked_mul(shape.h).and_then(|n| n.checked_mul(shape.w));
            if len.is_none_or(|n| n == 0 || n > MAX_ELEMENTS) {
                return Err(fail(
                    node,
                    format!("a tensor of {} x {} x {} is empty or too large", shape.c, shape.h, shape.w),
                ));
            }
            shapes.push(shape);
        }
        Ok(shapes)
    }
}

fn fail(node: &Node, problem: String) -> GraphError {
    GraphError { node: node.name.clone(), problem }
}

fn window(side: usize, kernel: usize, stride: usize, padding: usize) -> Option<usize> {
    side.checked_add(padding.checked_mul(2)?)?.checked_sub(kernel).map(|room| room / stride + 1)
}

fn windowed(input: Shape, c: usize, kernel: usize, stride: usize, padding: usize) -> Result<Shape, String> {
    let side = |n| {
        window(n, kernel, stride, padding).ok_or_else(|| {
            format!("a window of {kernel} does not fit an input of {} x {} with padding {padding}", input.h, input.w)
        })
    };
    Ok(Shape { c, h: side(input.h)?, w: side(input.w)? })
}

fn infer(node: &Node, inputs: &[Shape], image: (usize, usize)) -> Result<Shape, String> {
    let first = inputs.first().copied().unwrap_or(Shape { c: 0, h: 0, w: 0 });
    Ok(match &node.op {
        Op::Input { channels } => Shape { c: *channels, h: image.0, w: image.1 },
        Op::Conv(conv) => windowed(first, conv.c_out, conv.kernel, conv.stride, conv.padding)?,
        Op::MaxPool { kernel, stride, padding } => windowed(first, first.c, *kernel, *stride, *padding)?,
        Op::AvgPool { kernel, stride } => windowed(first, first.c, *kernel, *stride, 0)?,
        Op::Upsample { factor } | Op::ConvTranspose(ConvTranspose { factor, .. }) => {
            let c = if let Op::ConvTranspose(conv) = &node.op { conv.c_out } else { first.c };
            Shape { c, h: first.h.saturating_mul(*factor), w: first.w.saturating_mul(*factor) }
        }
        Op::Concat => {
            if let Some(odd) = inputs.iter().find(|s| (s.h, s.w) != (first.h, first.w)) {
                return Err(format!("joins {} x {} with {} x {}", first.h, first.w, odd.h, odd.w));
            }
            Shape { c: inputs.iter().map(|s| s.c).sum(), ..first }
        }
        Op::Slice { len, .. } => Shape { c: *len, ..first },
        Op::Activate { .. } => first,
        Op::Add => {
            if inputs.iter().any(|s| *s != first) {
                return Err(format!("adds tensors of different shapes: {inputs:?}"));
            }
            first
        }
        Op::Attention(a) if !first.area().is_multiple_of(a.areas.max(1)) => {
            return Err(format!("{} x {} positions do not split into {} equal areas", first.h, first.w, a.areas));
        }
        Op::Attention(a) | Op::AttentionValues(a) => Shape { c: a.heads * a.head_dim, ..first },
        Op::GlobalAvgPool => Shape { c: first.c, h: 1, w: 1 },
    })
}

/// The checks behind [`Graph::check`]; see there.
pub(super) fn check(graph: &Graph) -> Result<(), GraphError> {
    let channels = channels(graph)?;
    graph.check_exceptions()?;
    check_outputs(graph, &channels).map_err(|problem| GraphError { node: "graph".into(), problem })
}

/// The channels of every node; all checks but those of the outputs.
pub(super) fn channels(graph: &Graph) -> Result<Vec<usize>, GraphError> {
    let whole = |problem: String| GraphError { node: "graph".into(), problem };
    if graph.nodes.is_empty() || graph.nodes.len() > MAX_NODES {
        return Err(whole(format!("has {} layers, expected 1 to {MAX_NODES}", graph.nodes.len())));
    }
    let mut names = HashSet::new();
    let mut channels: Vec<usize> = Vec::with_capacity(graph.nodes.len());
    for (index, node) in graph.nodes.iter().enumerate() {
        if !names.insert(node.name.as_str()) {
            return Err(fail(node, "its name is used twice".into()));
        }
        if let Some(bad) = node.inputs.iter().find(|id| id.index() >= index) {
            return Err(fail(node, format!("reads layer {}, which does not come before it", bad.0)));
        }
        if matches!(node.op, Op::Input { .. }) != (index == 0) {
            return Err(fail(node, "the first layer, and no other, must be the input".into()));
        }
        let inputs: Vec<usize> = node.inputs.iter().map(|id| channels[id.index()]).collect();
        let c = check_node(node, &inputs).map_err(|p| fail(node, p))?;
        if c == 0 || c > 1 << 20 {
            return Err(fail(node, format!("has {c} output channels")));
        }
        channels.push(c);
    }
    Ok(channels)
}

fn check_node(node: &Node, inputs: &[usize]) -> Result<usize, String> {
    let arity = match node.op {
        Op::Input { .. } => 0..=0,
        Op::Concat => 1..=64,
        Op::Add => 2..=2,
        _ => 1..=1,
    };
    if !arity.contains(&inputs.len()) {
        return Err(format!("reads {} layers, expected {} to {}", inputs.len(), arity.start(), arity.end()));
    }
    let first = inputs.first().copied().unwrap_or(0);
    let small = |what: &str, value: usize, low: usize, high: usize| {
        if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{what} {value} is not in {low}..={high}")) }
    };
    match &node.op {
        Op::Input { channels } => Ok(*channels),
        Op::Conv(conv) => check_conv(conv, first),
        Op::ConvTranspose(conv) => {
            small("factor", conv.factor, 1, 64)?;
            if conv.c_in != first {
                return Err(format!("expects {} input channels, its input has {first}", conv.c_in));
            }
            check_size(&conv.weight_shape(), conv.c_out).map(|()| conv.c_out)
        }
        Op::Activate { .. } => Ok(first),
        Op::MaxPool { kernel, stride, padding } => {
            small("window", *kernel, 1, 255)?;
            small("stride", *stride, 1, 255)?;
            small("padding", *padding, 0, kernel / 2)?;
            Ok(first)
        }
        Op::AvgPool { kernel, stride } => {
            small("window", *kernel, 1, 255)?;
            small("stride", *stride, 1, 255)?;
            Ok(first)
        }
        Op::Upsample { factor } => small("factor", *factor, 1, 64).map(|()| first),
        Op::Concat => {
            inputs.iter().try_fold(0usize, |sum, c| sum.checked_add(*c)).ok_or_else(|| "too many channels".into())
        }
        Op::Slice { start, len } => match start.checked_add(*len) {
            Some(end) if end <= first => Ok(*len),
            _ => Err(format!("takes {len} channels from {start} on, but its input has {first}")),
        },
        Op::Add if inputs[0] != inputs[1] => Err(format!("adds {} channels to {}", inputs[0], inputs[1])),
        Op::Add => Ok(first),
        Op::Attention(a) | Op::AttentionValues(a) => {
            small("heads", a.heads, 1, 1024)?;
            small("key_dim", a.key_dim, 1, 1 << 16)?;
            small("head_dim", a.head_dim, 1, 1 << 16)?;
            small("areas", a.areas, 1, 1024)?;
            if !a.scale.is_finite() {
                return Err("its scale is not finite".into());
            }
            if a.heads * a.packed() != first {
                return Err(format!("expects {} packed channels, its input has {first}", a.heads * a.packed()));
            }
            Ok(a.heads * a.head_dim)
        }
        Op::GlobalAvgPool => Ok(first),
    }
}

fn check_conv(conv: &Conv, c_in: usize) -> Result<usize, String> {
    if conv.c_in != c_in {
        return Err(format!("expects {} input channels, its input has {c_in}", conv.c_in));
    }
    let depthwise = conv.groups == conv.c_in && conv.c_in == conv.c_out;
    if conv.groups != 1 && !depthwise {
        return Err(format!(
            "{} groups for {} -> {} channels; 1 or depthwise is supported",
            conv.groups, conv.c_in, conv.c_out
        ));
    }
    if conv.kernel == 0 || conv.kernel > 255 || conv.stride == 0 || conv.stride > 255 || conv.padding > 255 {
        return Err(format!("kernel {}, stride {}, padding {}: out of range", conv.kernel, conv.stride, conv.padding));
    }
    if conv.norm.as_ref().is_some_and(|n| !(n.eps >= 0.0 && n.eps < 1.0)) {
        return Err("the normalisation's eps is not in 0..1".into());
    }
    check_size(&conv.weight_shape(), conv.c_out).map(|()| conv.c_out)
}

fn check_size(weight: &[usize], c_out: usize) -> Result<(), String> {
    let size = weight.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    if size.is_none_or(|n| n > MAX_ELEMENTS) || c_out > 1 << 20 {
        return Err("its kernel is too large".into());
    }
    Ok(())
}

fn check_outputs(graph: &Graph, channels: &[usize]) -> Result<(), String> {
    let expected = graph.head.channels()?;
    let found = graph.outputs.iter().map(|id| channels.get(id.index()).copied().ok_or("an output does not exist"));
    let found = found.collect::<Result<Vec<_>, _>>()?;
    if found != expected {
        return Err(format!("its outputs have {found:?} channels, the head expects {expected:?}"));
    }
    Ok(())
}
