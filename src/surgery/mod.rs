//! Removes channels: a [`Selection`] says which channels of every group are kept, and [`cut`] rebuilds
//! every layer on both sides: a convolution's outputs, the inputs of all that read it, the offsets
//! of splits, the sizes of attention heads. Where a removable group keeps nothing, the layers that
//! depended on it are removed.
//!
//! The property that proves it: the original with the removed channels masked ([`mask`]) computes the
//! same as the pruned model.

use crate::graph::{Attention, Conv, ConvTranspose, Dtype, Graph, Node, NodeId, Norm, Op};
use crate::group::{AtomId, DeadNodes, Groups};
use crate::model::{Model, ModelError, Weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// For every group the positions of the channels that are kept, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selection(pub Vec<Vec<usize>>);

impl Selection {
    /// Keeps every channel.
    pub fn all(groups: &Groups) -> Self {
        Self(groups.groups.iter().map(|g| (0..g.width()).collect()).collect())
    }

    /// The first channels of every group, or of every attention head where a group is spread over heads. A width that
    /// heads cannot share leads to a selection that [`cut`] refuses.
    pub fn first(groups: &Groups, widths: &[usize]) -> Self {
        let of = |(group, width): (&crate::group::Group, &usize)| {
            let (size, keep, rest) = (group.width() / group.heads, width / group.heads, width % group.heads);
            let of_head = |head: usize| (0..keep + usize::from(head < rest)).map(move |i| head * size + i);
            (0..group.heads).flat_map(of_head).collect()
        };
        Self(groups.groups.iter().zip(widths).map(of).collect())
    }

    /// Number of channels that are kept, per group.
    pub fn widths(&self) -> Vec<usize> {
        self.0.iter().map(Vec::len).collect()
    }
}

/// A selection that cannot be carried out.
#[derive(Debug, Error, PartialEq)]
pub enum SurgeryError {
    /// The selection speaks of another number of groups.
    #[error("the selection has {found} groups, the network {expected}")]
    GroupCount {
        /// Groups in the selection.
        found: usize,
        /// Groups of the network.
        expected: usize,
    },
    /// Positions that are not ascending or not in the group.
    #[error("group `{group}`: kept channels must be ascending and below {width}, found {position}")]
    Positions {
        /// Name of the group.
        group: String,
        /// Its width.
        width: usize,
        /// The first position that is wrong.
        position: usize,
    },
    /// Nothing would be left of a group that is not removable.
    #[error("group `{group}`: no channel would be left, expected at least {least}")]
    Empty {
        /// Name of the group.
        group: String,
        /// The least number of channels: one per attention head.
        least: usize,
    },
    /// Attention heads of different sizes.
    #[error("group `{group}`: its attention heads would keep {found:?} channels, expected the same number each")]
    Heads {
        /// Name of the group.
        group: String,
        /// Channels that would be kept per head.
        found: Vec<usize>,
    },
    /// The result does not have the widths that were asked for, or is no network.
    #[error("the pruned network is not what was asked for: {0}")]
    NotReached(String),
    /// The result is no valid model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// The model without the channels that the selection leaves out.
///
/// ```
/// use secateurs::group::groups;
/// use secateurs::surgery::{Selection, cut};
/// # let demo = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/demo.safetensors"));
/// # let model = secateurs::model::from_bytes(std::path::Path::new("demo.safetensors"), demo)?;
///
/// let groups = groups(&model.graph);
/// // The first half of every group is kept.
/// let widths: Vec<usize> = groups.groups.iter().map(|group| group.width() / 2).collect();
/// let pruned = cut(&model, &groups, &Selection::first(&groups, &widths))?;
/// assert!(pruned.weight_bytes() < model.weight_bytes() / 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If the selection is not legal for these groups (empty group, unequal heads, wrong positions), or the
/// result does not have the widths asked for.
pub fn cut(model: &Model, groups: &Groups, selection: &Selection) -> Result<Model, SurgeryError> {
    check(groups, selection)?;
    let kept = Kept::new(&model.graph, groups, selection)?;
    let graph = shrink(&model.graph, &kept)?;
    let mut weights = Weights::default();
    for id in model.graph.ids().filter(|id| kept.keeps(*id)) {
        let node = model.graph.node(id);
        let rows = kept.positions(id);
        let vectors: Vec<String> = match &node.op {
            Op::Conv(conv) => {
                let kernel = model.tensor(&conv.weight).select(0, &rows);
                let kernel = match conv.is_depthwise() {
                    true => kernel,
                    false => kernel.select(1, &kept.positions(node.inputs[0])),
                };
                weights.insert(conv.weight.clone(), kernel);
                conv.bias.iter().cloned().chain(conv.norm.iter().flat_map(Norm::keys)).collect()
            }
            Op::ConvTranspose(conv) => {
                let kernel = model.tensor(&conv.weight).select(0, &kept.positions(node.inputs[0])).select(1, &rows);
                weights.insert(conv.weight.clone(), kernel);
                conv.bias.iter().cloned().collect()
            }
            _ => continue,
        };
        for key in vectors {
            let tensor = model.tensor(&key).select(0, &rows);
            weights.insert(key, tensor);
        }
    }
    Ok(Model::new(graph, weights, model.info.clone())?)
}

/// The graph alone, pruned to the given widths: that of any selection with these widths.
///
/// # Errors
/// As [`cut`]; a group spread over heads needs a width that they can share.
pub fn cut_graph(graph: &Graph, groups: &Groups, widths: &[usize]) -> Result<Graph, SurgeryError> {
    let selection = Selection::first(groups, widths);
    check(groups, &selection)?;
    shrink(graph, &Kept::new(graph, groups, &selection)?)
}

/// The model with the same shapes in which the channels left out are zero in every tensor they occur in.
///
/// # Errors
/// If the selection is not legal for these groups.
pub fn mask(model: &Model, groups: &Groups, selection: &Selection) -> Result<Model, SurgeryError> {
    check(groups, selection)?;
    let kept = Kept::new(&model.graph, groups, selection)?;
    let mut masked = model.clone();
    for id in model.graph.ids() {
        // A layer that reads nothing gives nothing, whichever of its channels live on elsewhere.
        let flags = kept.flags(id);
        let removed: Vec<usize> = (0..flags.len()).filter(|c| !flags[*c] || kept.dead.absent[id.index()]).collect();
        let mut zero = |key: &str, outer: usize| {
            let tensor = masked.weights.get_mut(key).expect("a model has every tensor of its graph");
            let row = tensor.data().len() / outer / flags.len();
            for (o, c) in (0..outer).flat_map(|o| removed.iter().map(move |c| (o, c))) {
                tensor.data_mut()[(o * flags.len() + c) * row..][..row].fill(0.0);
            }
        };
        match &model.graph.node(id).op {
            Op::Conv(conv) => {
                zero(&conv.weight, 1);
                conv.bias.iter().for_each(|key| zero(key, 1));
                if let Some(norm) = &conv.norm {
                    let [_, shift, mean, _] = norm.keys();
                    zero(&shift, 1);
                    zero(&mean, 1);
                }
            }
            Op::ConvTranspose(conv) => {
                zero(&conv.weight, conv.c_in);
                conv.bias.iter().for_each(|key| zero(key, 1));
            }
            _ => {}
        }
    }
    Ok(masked)
}

fn check(groups: &Groups, selection: &Selection) -> Result<(), SurgeryError> {
    if selection.0.len() != groups.groups.len() {
        return Err(SurgeryError::GroupCount { found: selection.0.len(), expected: groups.groups.len() });
    }
    for (group, keep) in groups.groups.iter().zip(&selection.0) {
        let name = || group.name.clone();
        let ascending = keep.windows(2).find(|w| w[0] >= w[1]).map(|w| w[1]);
        if let Some(position) = ascending.or(keep.last().copied().filter(|last| *last >= group.width())) {
            return Err(SurgeryError::Positions { group: name(), width: group.width(), position });
        }
        if keep.len() < group.heads && !(keep.is_empty() && group.removable) {
            return Err(SurgeryError::Empty { group: name(), least: group.heads });
        }
        let size = group.width() / group.heads;
        let mut found = vec![0; group.heads];
        keep.iter().for_each(|position| found[position / size] += 1);
        if found.iter().any(|n| *n != found[0]) {
            return Err(SurgeryError::Heads { group: name(), found });
        }
    }
    Ok(())
}

/// Which atoms are kept, and which nodes are removed with the others.
struct Kept<'a> {
    groups: &'a Groups,
    atoms: Vec<bool>,
    dead: DeadNodes,
}

impl<'a> Kept<'a> {
    fn new(graph: &Graph, groups: &'a Groups, selection: &Selection) -> Result<Self, SurgeryError> {
        let mut atoms: Vec<bool> = groups.group_of.iter().map(Option::is_none).collect();
        for (group, keep) in groups.groups.iter().zip(&selection.0) {
            keep.iter().for_each(|position| atoms[group.atoms[*position].index()] = true);
        }
        let dead = DeadNodes::of(graph, &groups.channels, &|atom| !atoms[atom.index()]);
        let dead = dead.map_err(|id| {
            SurgeryError::NotReached(format!("`{}` would be left without a part", graph.node(id).name))
        })?;
        Ok(Self { groups, atoms, dead })
    }

    fn flags(&self, node: NodeId) -> Vec<bool> {
        self.groups.channels[node.index()].iter().map(|AtomId(atom)| self.atoms[*atom as usize]).collect()
    }

    fn positions(&self, node: NodeId) -> Vec<usize> {
        let flags = self.flags(node);
        (0..flags.len()).filter(|i| flags[*i]).collect()
    }

    /// Whether a node is part of the pruned graph. Unless a whole group is removed, all are.
    fn keeps(&self, node: NodeId) -> bool {
        self.dead.is_empty() || self.dead.needed[node.index()]
    }
}

/// Rebuilds every layer for the channels that are kept, and checks that the result has exactly them. Names do not
/// change; nodes are numbered anew only where some are removed.
fn shrink(graph: &Graph, kept: &Kept) -> Result<Graph, SurgeryError> {
    let mut number = vec![NodeId(0); graph.nodes.len()];
    let (head, dtype) = (graph.head.clone(), graph.dtype);
    let mut cut = Graph { nodes: Vec::new(), outputs: Vec::new(), head, dtype, exceptions: BTreeMap::new() };
    let mut asked = Vec::new();
    for id in graph.ids().filter(|id| kept.keeps(*id)) {
        number[id.index()] = NodeId(cut.nodes.len() as u32);
        let node = graph.node(id);
        let present = node.inputs.iter().filter(|input| !kept.dead.absent[input.index()]);
        let inputs = present.map(|input| number[kept.dead.stand_in(graph, *input).index()]).collect();
        cut.nodes.push(Node { name: node.name.clone(), op: shrink_op(node, id, kept), inputs });
        asked.push(kept.positions(id).len());
    }
    let stays = |(name, _): &(&String, &Dtype)| cut.find(name).is_some();
    cut.exceptions = graph.exceptions.iter().filter(stays).map(|(name, dtype)| (name.clone(), *dtype)).collect();
    cut.outputs = graph.outputs.iter().map(|id| number[kept.dead.stand_in(graph, *id).index()]).collect();
    reached(&cut, &asked)?;
    Ok(cut)
}

fn shrink_op(node: &Node, id: NodeId, kept: &Kept) -> Op {
    let c_out = || kept.positions(id).len();
    let c_in = || kept.positions(node.inputs[0]).len();
    match &node.op {
        Op::Conv(conv) => {
            let groups = if conv.is_depthwise() { c_in() } else { conv.groups };
            Op::Conv(Conv { c_out: c_out(), c_in: c_in(), groups, ..conv.clone() })
        }
        Op::ConvTranspose(conv) => Op::ConvTranspose(ConvTranspose { c_out: c_out(), c_in: c_in(), ..conv.clone() }),
        Op::Slice { start, len } => {
            let source = kept.flags(node.inputs[0]);
            Op::Slice { start: count(&source[..*start]), len: count(&source[*start..*start + *len]) }
        }
        Op::Attention(a) => Op::Attention(cut_heads(*a, &kept.flags(node.inputs[0]))),
        Op::AttentionValues(a) => Op::AttentionValues(cut_heads(*a, &kept.flags(node.inputs[0]))),
        Op::Input { .. }
        | Op::MaxPool { .. }
        | Op::AvgPool { .. }
        | Op::Upsample { .. }
        | Op::Concat
        | Op::Add
        | Op::Activate { .. }
        | Op::GlobalAvgPool => node.op.clone(),
    }
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|kept| **kept).count()
}

/// The check made sure that all heads keep as much as the first.
fn cut_heads(a: Attention, packed: &[bool]) -> Attention {
    let (key_dim, head_dim) = (count(&packed[..a.key_dim]), count(&packed[2 * a.key_dim..a.packed()]));
    Attention { key_dim, head_dim, ..a }
}

fn reached(graph: &Graph, asked: &[usize]) -> Result<(), SurgeryError> {
    graph.check().map_err(|e| SurgeryError::NotReached(e.to_string()))?;
    let found = graph.channels().map_err(|e| SurgeryError::NotReached(e.to_string()))?;
    for ((node, asked), found) in graph.nodes.iter().zip(asked).zip(found) {
        if found != *asked {
            return Err(SurgeryError::NotReached(format!(
                "`{}` has {found} channels, {asked} were asked for",
                node.name
            )));
        }
    }
    Ok(())
}
