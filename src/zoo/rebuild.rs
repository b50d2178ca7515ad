//! A network for other classes, keypoints or channels of the image than it was built for.
//!
//! The branches that tell classes and keypoints get the outputs that are needed, and inside the widths that the published
//! rule gives for these; where their widths are not those of the rule, as after pruning, they stay. All other layers keep
//! their shapes.

use crate::graph::{Boxes, Conv, Graph, GraphError, Head, NodeId, Op};

/// What a network is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// Number of classes.
    pub classes: usize,
    /// Keypoints of an object and values of each, where the data tell.
    pub keypoints: Option<[usize; 2]>,
    /// Channels of the image, where the data tell.
    pub channels: Option<usize>,
}

/// The graph of the same network for a purpose; equal to the graph itself where that serves it already.
///
/// # Errors
/// If no sizes fit together, as with no class at all.
pub fn rebuild(graph: &Graph, purpose: Purpose) -> Result<Graph, GraphError> {
    let mut new = graph.clone();
    let channels = purpose.channels.unwrap_or_else(|| graph.input_channels());
    if channels != graph.input_channels() {
        read(&mut new, channels);
    }
    match graph.head.boxes() {
        None => {
            let out = graph.outputs.clone();
            out.into_iter().for_each(|id| rewidth(&mut new, &[id], [0; 2], purpose.classes));
        }
        Some(boxes) => branches(graph, &mut new, boxes, purpose),
    }
    new.head = renewed(&graph.head, purpose);
    new.check().map(|()| new)
}

/// Changes the branches of a head that finds boxes.
fn branches(graph: &Graph, new: &mut Graph, Boxes { nc, reg_max, strides }: Boxes<'_>, purpose: Purpose) {
    let levels = strides.len();
    let pair = matches!(graph.head, Head::EndToEnd { one2many: true, .. });
    for outputs in graph.outputs.chunks(if pair { graph.outputs.len() / 2 } else { graph.outputs.len() }) {
        let of = |first: usize, step: usize| -> Vec<Vec<NodeId>> {
            let ids = outputs.iter().skip(first).step_by(step).take(levels);
            ids.map(|id| chain(graph, *id)).collect()
        };
        // What the finest level gives the head decides the width of all.
        let finest = |chains: &[Vec<NodeId>]| {
            chains.first().and_then(|chain| conv(graph, *chain.first()?)).map_or(0, |c| c.c_in)
        };
        if nc != purpose.classes {
            let chains = of(1, 2);
            let inner = [nc, purpose.classes].map(|nc| finest(&chains).max(nc.min(100)));
            chains.iter().for_each(|chain| rewidth(new, chain, inner, purpose.classes));
        }
        if let (Head::Pose { keypoints, dims, .. }, Some(wanted)) = (graph.head.branch(), purpose.keypoints)
            && [*keypoints, *dims] != wanted
        {
            let chains = of(2 * levels, 1);
            let sigmas = if reg_max == 1 { 2 } else { 0 };
            let inner = [[*keypoints, *dims], wanted].map(|[k, d]| (finest(&chains) / 4).max(k * (d + sigmas)));
            chains.iter().for_each(|chain| rewidth(new, chain, inner, wanted[0] * wanted[1]));
        }
    }
}

/// The head of a network for a purpose.
fn renewed(head: &Head, purpose: Purpose) -> Head {
    let mut new = head.clone();
    match &mut new {
        Head::EndToEnd { branch, .. } => **branch = renewed(branch, purpose),
        Head::Detect { nc, .. } | Head::Segment { nc, .. } | Head::Obb { nc, .. } | Head::Classify { nc } => {
            *nc = purpose.classes;
        }
        Head::Pose { nc, keypoints, dims, .. } => {
            *nc = purpose.classes;
            [*keypoints, *dims] = purpose.keypoints.unwrap_or([*keypoints, *dims]);
        }
    }
    new
}

fn conv(graph: &Graph, id: NodeId) -> Option<&Conv> {
    if let Op::Conv(conv) = &graph.node(id).op { Some(conv) } else { None }
}

/// The convolutions that lead to an output and to nothing else, in their order.
fn chain(graph: &Graph, output: NodeId) -> Vec<NodeId> {
    let readers = graph.consumers();
    let mut chain = vec![output];
    let mut at = output;
    while let [input] = graph.node(at).inputs[..] {
        if conv(graph, input).is_none() || readers[input.index()].len() != 1 || graph.outputs.contains(&input) {
            break;
        }
        chain.push(input);
        at = input;
    }
    chain.reverse();
    chain
}

/// Gives the last convolution of a chain its outputs, and those before it the inner width of the rule, `[before, now]`, if
/// they have it now.
fn rewidth(graph: &mut Graph, chain: &[NodeId], [before, now]: [usize; 2], outputs: usize) {
    let dense = chain.iter().take(chain.len().saturating_sub(1)).filter_map(|id| conv(graph, *id));
    let by_rule = dense.filter(|conv| conv.groups == 1).all(|conv| conv.c_out == before);
    let mut width = chain.first().and_then(|id| conv(graph, *id)).map_or(0, |conv| conv.c_in);
    for (at, id) in chain.iter().enumerate() {
        let Op::Conv(conv) = &mut graph.nodes[id.index()].op else { continue };
        conv.c_in = width;
        if at + 1 == chain.len() {
            conv.c_out = outputs;
        } else if conv.groups > 1 {
            (conv.c_out, conv.groups) = (width, width);
        } else if by_rule {
            conv.c_out = now;
        }
        width = conv.c_out;
    }
}

/// Lets the layers that read the image read one of other channels.
fn read(graph: &mut Graph, wanted: usize) {
    for node in &mut graph.nodes {
        match &mut node.op {
            Op::Input { channels } => *channels = wanted,
            Op::Conv(conv) if node.inputs.iter().all(|input| input.index() == 0) => conv.c_in = wanted,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::{Task, published};

    #[test]
    fn a_published_network_for_other_classes_is_the_published_one_for_these() {
        let names = [
            "yolo26n",
            "yolo26n-seg",
            "yolo26n-pose",
            "yolo26n-obb",
            "yolo11n",
            "yolo11s-seg",
            "yolo11n-pose",
            "yolo11n-obb",
            "yolo11n-cls",
            "yolov8n",
            "yolov8n-seg",
            "yolo12n",
            "yolov10n",
            "yolov9t",
            "yolov9c",
            "yolov9e",
            "yolov6n",
            "yolov5nu",
        ];
        for name in names {
            for (from, to) in [(80, 3), (3, 80), (3, 400), (2, 2)] {
                let graph = published(name, from).unwrap().unwrap();
                let purpose = Purpose { classes: to, keypoints: None, channels: None };
                let found = rebuild(&graph, purpose).unwrap();
                assert_eq!(found, published(name, to).unwrap().unwrap(), "{name}, {from} to {to} classes");
            }
        }
    }

    #[test]
    fn keypoints_and_channels_change_too() {
        use crate::zoo::{yolo11, yolo26};
        let scale = yolo11::Scale::of('n').unwrap();
        for network in [yolo11::network, yolo26::network] {
            let of = |keypoints, dims| network(scale, Task::Pose { keypoints, dims }, 2).unwrap();
            for [keypoints, dims] in [[4, 2], [5, 3], [60, 3]] {
                let purpose = Purpose { classes: 2, keypoints: Some([keypoints, dims]), channels: None };
                assert_eq!(rebuild(&of(17, 3), purpose).unwrap(), of(keypoints, dims), "{keypoints} of {dims}");
            }
        }
        for name in ["yolo11n", "yolov9e", "yolo26n-cls"] {
            let purpose = Purpose { classes: 4, keypoints: None, channels: Some(1) };
            let grey = rebuild(&published(name, 4).unwrap().unwrap(), purpose).unwrap();
            assert_eq!(grey.input_channels(), 1);
            let shapes = grey.shapes(64, 64).unwrap();
            assert!(shapes.iter().all(|shape| shape.c > 0), "{name}");
        }
    }

    #[test]
    fn no_class_is_refused_and_other_widths_stay() {
        let mut graph = published("yolo11n", 80).unwrap().unwrap();
        let purpose = Purpose { classes: 3, keypoints: None, channels: None };
        assert!(rebuild(&graph, Purpose { classes: 0, ..purpose }).is_err());
        // One level's class branch as pruning leaves it.
        let last = chain(&graph, graph.outputs[1]);
        rewidth(&mut graph, &last, [80, 24], 80);
        let found = rebuild(&graph, purpose).unwrap();
        let widths = |at: usize| -> Vec<usize> {
            chain(&found, found.outputs[at]).iter().filter_map(|id| conv(&found, *id)).map(|conv| conv.c_out).collect()
        };
        assert_eq!((widths(1), widths(3)), (vec![64, 24, 24, 24, 3], vec![128, 64, 64, 64, 3]));
    }
}
