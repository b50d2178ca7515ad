//! Which layers of a graph the times of a runtime's layers belong to.
//!
//! Runtimes fuse layers and name the result after all of them: TensorRT writes `model.0/linear + PWN(PWN(model.0/gate),
//! model.0)` and `{ForeignNode[model.10.m.0.attn/packed...model.10.m.0.attn]}` for everything between two layers, ONNX
//! Runtime `model.0/linear_nchwc`. The time of such a layer is shared by the arithmetic of its members; the time of
//! layers that name none, such as copies, belongs to the frame as a whole.

use crate::graph::{Graph, GraphError, NodeId};
use std::collections::{BTreeSet, HashMap};

/// What stands between the first and the last of many layers.
const RANGE: &str = "...";

/// Milliseconds of a frame by node of the graph; 0 for those that no layer names. `layers` are those of the runtime, for
/// images of `height` x `width`.
///
/// # Errors
/// If the size does not suit the graph.
pub(super) fn by_node(
    graph: &Graph,
    (height, width): (usize, usize),
    layers: &[(String, f64)],
) -> Result<Vec<f64>, GraphError> {
    let shapes = graph.shapes(height, width)?;
    let macs = graph.macs(&shapes);
    // What has no products still writes its output.
    let work: Vec<f64> = macs.iter().zip(&shapes).map(|(macs, shape)| (macs + shape.len()) as f64).collect();
    let names: HashMap<&str, NodeId> =
        graph.ids().skip(1).map(|id| (graph.node(id).name.as_str(), id)).filter(|(name, _)| !name.is_empty()).collect();
    let mut times = vec![0.0; graph.nodes.len()];
    for (layer, ms) in layers {
        let members = members(layer, &names);
        let all: f64 = members.iter().map(|index| work[*index]).sum();
        members.iter().for_each(|index| times[*index] += ms * work[*index] / all.max(1.0));
    }
    Ok(times)
}

/// The nodes that a layer of the runtime is made of.
fn members(layer: &str, names: &HashMap<&str, NodeId>) -> BTreeSet<usize> {
    let inside = |text: &str| -> Vec<usize> { words(text).filter_map(|word| find(word, names)).collect() };
    let mut parts = layer.split(RANGE);
    let mut all: BTreeSet<usize> = inside(parts.next().unwrap_or_default()).into_iter().collect();
    let mut last = all.iter().next_back().copied();
    for part in parts {
        let next = inside(part);
        // Nodes stand in the order in which they are computed.
        if let (Some(from), Some(to)) = (last, next.first()) {
            all.extend(from.min(*to)..=from.max(*to));
        }
        last = next.last().copied().or(last);
        all.extend(next);
    }
    all
}

/// The names in the name of a layer.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || "._/-:".contains(c))).filter(|word| !word.is_empty())
}

/// The node that a tensor belongs to: of the same name, or of a part of it, whose end says what of the node it is.
fn find(word: &str, names: &HashMap<&str, NodeId>) -> Option<usize> {
    let mut name = word;
    loop {
        if let Some(id) = names.get(name) {
            return Some(id.index());
        }
        name = name.rfind(['/', '_']).map(|at| &name[..at])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Op;
    use crate::zoo::yolo11::{Scale, detect};

    #[test]
    fn fused_layers_are_shared_by_their_members() {
        let graph = detect(Scale::of('n').unwrap(), 2).unwrap();
        let index = |name: &str| graph.find(name).unwrap().index();
        let of = |layer: &str| by_node(&graph, (64, 64), &[(layer.to_owned(), 2.0)]).unwrap();
        let (first, second) = (index("model.0"), index("model.1"));
        for layer in [
            "model.0/linear + PWN(PWN(model.0/gate), model.0)",
            "model.0/linear_nchwc",
            "Reformatting CopyNode for Input Tensor 0 to model.0/linear",
            "model.0",
        ] {
            let times = of(layer);
            assert!((times[first] - 2.0).abs() < 1e-12 && times.iter().sum::<f64>() == times[first], "{layer}");
        }
        // `model.1` is no part of `model.10`, nor of what only begins like it.
        assert_eq!(of("model.1x")[second], 0.0);
        let both = of("model.0/linear || model.1/linear");
        assert!(both[first] > 0.0 && both[second] > 0.0 && (both[first] + both[second] - 2.0).abs() < 1e-12);
        let attention = graph.nodes.iter().position(|node| matches!(node.op, Op::Attention(_))).unwrap();
        let name = &graph.nodes[attention].name;
        let range = of(&format!("{{ForeignNode[{}/gate...{name}/mixed]}}", graph.nodes[attention - 1].name));
        assert!(range[attention] > 0.0 && range[attention - 1] > 0.0);
        assert!((range.iter().sum::<f64>() - 2.0).abs() < 1e-9);
        for nothing in ["ReorderInput_token_27", "", "...", "decode/scores", "{ForeignNode[...]}"] {
            assert_eq!(of(nothing).iter().sum::<f64>(), 0.0, "{nothing}");
        }
    }
}
