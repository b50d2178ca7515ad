//! Dependency groups: which channels must be pruned together.
//!
//! Every channel of every tensor gets an *atom*: a dense convolution makes new atoms, everything
//! else passes, selects, repeats or ties those of its inputs. An index map is thus data, one atom per
//! channel, and no layer type or model is listed by hand. Atoms that a residual sum, or the product
//! of queries and keys, holds together are merged. A [`Group`] collects the atoms that occur in
//! the same tensors: they are interchangeable, and their number is one decision of the search. Where the network makes
//! sense without any of them, the number may be 0: then a whole block, or an input of a concatenation, is removed
//! ([`DeadNodes`]).
//!
//! The idea of dependency groups follows Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023).
//! This module knows no weights.

mod atoms;
mod dead;

pub use dead::DeadNodes;

use crate::graph::{Graph, NodeId, Op};
use serde::Serialize;
use std::collections::BTreeMap;

/// Number of an atom: channels that are kept or removed as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AtomId(pub u32);

impl AtomId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number of a group. A type of its own so that it is never mixed up with a node or an atom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GroupId(pub u32);

impl GroupId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Interchangeable atoms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Name of the first convolution that makes these channels; with `[from..to]` where it makes several groups.
    pub name: String,
    /// The atoms, in the order of the first tensor that has them; head after head where `heads` > 1.
    pub atoms: Vec<AtomId>,
    /// Attention heads the atoms are spread over: each must keep the same number. 1 elsewhere.
    pub heads: usize,
    /// Convolutions with these channels as output, depthwise and transposed ones included.
    pub producers: Vec<NodeId>,
    /// Dense and transposed convolutions with these channels as input.
    pub consumers: Vec<NodeId>,
    /// Whether width 0 is allowed: the network works without these channels, and every other group still has a use.
    pub removable: bool,
}

impl Group {
    /// Number of channels before pruning.
    pub fn width(&self) -> usize {
        self.atoms.len()
    }
}

/// The groups of a graph, and the atom of every channel of every node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Groups {
    /// The groups that may be pruned, in the order in which the network makes them.
    pub groups: Vec<Group>,
    /// For every node the atom of each of its channels.
    #[serde(skip)]
    pub channels: Vec<Vec<AtomId>>,
    /// For every atom its group; none for atoms that must be kept (image, outputs).
    #[serde(skip)]
    pub group_of: Vec<Option<GroupId>>,
}

impl Groups {
    /// The group behind an id.
    pub fn group(&self, id: GroupId) -> &Group {
        &self.groups[id.index()]
    }

    /// All ids.
    pub fn ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.groups.len() as u32).map(GroupId)
    }

    /// By node the groups in its tensor, ascending.
    fn occurrences(&self) -> Vec<Vec<GroupId>> {
        let of = |atoms: &Vec<AtomId>| {
            let mut here: Vec<GroupId> = atoms.iter().filter_map(|atom| self.group_of[atom.index()]).collect();
            here.sort_unstable();
            here.dedup();
            here
        };
        self.channels.iter().map(of).collect()
    }

    /// How many channels each group lends to a node's tensor, and how many of its channels are fixed:
    /// its width as a function of the groups' widths.
    pub fn composition(&self, node: NodeId) -> Composition {
        let mut all = Composition::default();
        let mut counts: BTreeMap<GroupId, usize> = BTreeMap::new();
        for atom in &self.channels[node.index()] {
            match self.group_of[atom.index()] {
                Some(group) => *counts.entry(group).or_default() += 1,
                None => all.fixed += 1,
            }
        }
        all.parts = counts.into_iter().map(|(group, count)| (group, count / self.group(group).width())).collect();
        all
    }
}

/// The width of a tensor: `fixed + sum(times * width(group))`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Composition {
    /// Channels that every plan keeps.
    pub fixed: usize,
    /// Groups in the tensor, each with how many times its channels occur there.
    pub parts: Vec<(GroupId, usize)>,
}

impl Composition {
    /// The width under a plan that answers the width of every group.
    pub fn width(&self, of: impl Fn(GroupId) -> usize) -> usize {
        self.fixed + self.parts.iter().map(|(group, times)| times * of(*group)).sum::<usize>()
    }
}

/// Finds the groups of a graph that passed [`Graph::check`].
///
/// ```
/// use secateurs::{group::groups, zoo::simple_cnn::simple_cnn};
///
/// let groups = groups(&simple_cnn(10)?);
/// let widths: Vec<usize> = groups.groups.iter().map(|group| group.width()).collect();
/// assert_eq!(widths, [32, 64, 128]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn groups(graph: &Graph) -> Groups {
    // 1. One atom per channel, merged where tied.
    let atoms::Atoms { channels, count, heads } = atoms::trace(graph);

    // 2. Atoms of the image and of the outputs are kept.
    let mut fixed = vec![false; count];
    let inputs = graph.ids().filter(|id| matches!(graph.node(*id).op, Op::Input { .. }));
    for node in inputs.chain(graph.outputs.iter().copied()) {
        channels[node.index()].iter().for_each(|atom| fixed[atom.index()] = true);
    }

    // 3. The tensors that an atom occurs in decide its group.
    let mut tensors: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (node, atoms) in channels.iter().enumerate() {
        for atom in atoms {
            let seen = &mut tensors[atom.index()];
            if seen.last() != Some(&(node as u32)) {
                seen.push(node as u32);
            }
        }
    }
    let mut by_signature: BTreeMap<&[u32], Vec<AtomId>> = BTreeMap::new();
    for (atom, signature) in tensors.iter().enumerate().filter(|(atom, _)| !fixed[*atom]) {
        by_signature.entry(signature).or_default().push(AtomId(atom as u32));
    }
    let mut members: Vec<Vec<AtomId>> = by_signature.into_values().collect();
    members.sort();

    // 4. Facts about every group.
    let mut group_of = vec![None; count];
    let groups = members.into_iter().enumerate().map(|(id, atoms)| {
        atoms.iter().for_each(|atom| group_of[atom.index()] = Some(GroupId(id as u32)));
        describe(graph, &channels, atoms, &tensors, &heads)
    });
    let groups = groups.collect();
    let mut all = Groups { groups, channels, group_of };
    let occur = all.occurrences();
    let removable = removable(graph, &all, &occur);
    all.groups.iter_mut().zip(removable).for_each(|(group, removable)| group.removable = removable);
    all
}

/// By group, whether the network works without it, and without any others of which the same is said.
fn removable(graph: &Graph, groups: &Groups, occur: &[Vec<GroupId>]) -> Vec<bool> {
    let mut without = vec![false; groups.groups.len()];
    let mut single = without.clone();
    for id in groups.ids().filter(|id| groups.group(*id).heads == 1) {
        without[id.index()] = true;
        single[id.index()] = works(graph, groups, occur, &without);
        without[id.index()] = false;
    }
    if works(graph, groups, occur, &single) {
        return single;
    }
    // Two may stand in for each other, such as the two parts of a concatenation: then the one that the network makes first
    // is said to be removable.
    for id in groups.ids().filter(|id| single[id.index()]) {
        without[id.index()] = true;
        without[id.index()] = works(graph, groups, occur, &without);
    }
    without
}

/// Whether the network works without some groups, and every other group still occurs in what is left.
fn works(graph: &Graph, groups: &Groups, occur: &[Vec<GroupId>], without: &[bool]) -> bool {
    let removed = |atom: AtomId| groups.group_of[atom.index()].is_some_and(|id| without[id.index()]);
    let Ok(rest) = DeadNodes::of(graph, &groups.channels, &removed) else { return false };
    let mut used = without.to_vec();
    for (_, here) in occur.iter().enumerate().filter(|(node, _)| rest.needed[*node]) {
        here.iter().for_each(|group| used[group.index()] = true);
    }
    used.into_iter().all(|used| used)
}

fn describe(
    graph: &Graph,
    channels: &[Vec<AtomId>],
    atoms: Vec<AtomId>,
    tensors: &[Vec<u32>],
    heads: &[usize],
) -> Group {
    let here = &tensors[atoms[0].index()];
    let is_here = |id: NodeId| here.binary_search(&id.0).is_ok();
    let of_kind = |depthwise: bool| {
        graph.ids().filter(move |id| match &graph.node(*id).op {
            Op::Conv(conv) => depthwise || !conv.is_depthwise(),
            Op::ConvTranspose(_) => true,
            _ => false,
        })
    };
    let producers: Vec<NodeId> = of_kind(true).filter(|id| is_here(*id)).collect();
    let consumers = of_kind(false).filter(|id| is_here(graph.node(*id).inputs[0])).collect();
    let first = producers.first().copied().unwrap_or(NodeId(here[0]));
    let row = &channels[first.index()];
    let name = &graph.node(first).name;
    let at = row.iter().position(|atom| *atom == atoms[0]).unwrap_or(0);
    let whole = row.len() == atoms.len();
    let name = if whole { name.clone() } else { format!("{name}[{at}..{}]", at + atoms.len()) };
    let heads = atoms.iter().map(|atom| heads[atom.index()]).max().unwrap_or(1);
    Group { name, atoms, heads, producers, consumers, removable: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo::yolo11::{Scale, detect};

    fn yolo(letter: char) -> (Graph, Groups) {
        let graph = detect(Scale::of(letter).unwrap(), 80).unwrap();
        let groups = groups(&graph);
        (graph, groups)
    }

    #[test]
    fn yolo11_has_the_known_number_of_groups() {
        let (graph, groups) = yolo('n');
        assert_eq!((graph.convs().count(), groups.groups.len()), (87, 71));
    }

    #[test]
    fn groups_tie_what_must_be_cut_together() {
        let (graph, groups) = yolo('n');
        // Producers of the group of a conv's first channel.
        let tied = |name: &str, channel: usize| {
            let node = graph.find(name).unwrap();
            let group = groups.group_of[groups.channels[node.index()][channel].index()].unwrap();
            let names = groups.group(group).producers.iter().map(|id| graph.node(*id).name.as_str());
            names.collect::<Vec<_>>()
        };
        let cases: &[(&str, usize, &[&str])] = &[
            ("model.0", 0, &["model.0"]),
            // The two parts of a C3k2: the first is free, the second is tied by the residual.
            ("model.2.cv1", 0, &["model.2.cv1"]),
            ("model.2.cv1", 16, &["model.2.cv1", "model.2.m.0.cv2"]),
            ("model.6.m.0.cv1", 0, &["model.6.m.0.cv1", "model.6.m.0.m.0.cv2", "model.6.m.0.m.1.cv2"]),
            ("model.6.m.0.cv3", 0, &["model.6.m.0.cv3"]),
            ("model.9.cv1", 0, &["model.9.cv1"]),
            // Half B of C2PSA runs through both residuals.
            ("model.10.cv1", 128, &["model.10.cv1", "model.10.m.0.attn.proj", "model.10.m.0.ffn.1"]),
            ("model.10.m.0.attn.qkv", 0, &["model.10.m.0.attn.qkv"]),
            ("model.10.m.0.attn.qkv", 64, &["model.10.m.0.attn.qkv", "model.10.m.0.attn.pe"]),
            // A depthwise convolution belongs to its input's group.
            ("model.16.cv2", 0, &["model.16.cv2", "model.23.cv3.0.0.0"]),
            ("model.23.cv3.0.0.1", 0, &["model.23.cv3.0.0.1", "model.23.cv3.0.1.0"]),
        ];
        for (name, channel, producers) in cases {
            assert_eq!(tied(name, *channel), *producers, "{name} channel {channel}");
        }
    }

    #[test]
    fn attention_groups_know_their_heads() {
        let (_, groups) = yolo('n');
        let heads: Vec<(usize, usize)> =
            groups.groups.iter().filter(|g| g.heads > 1).map(|g| (g.heads, g.width())).collect();
        // Two heads: 32 tied query-key pairs each, 64 values each.
        assert_eq!(heads, [(2, 64), (2, 128)]);
    }

    #[test]
    fn widths_follow_from_the_composition() {
        for letter in ['n', 'x'] {
            let (graph, groups) = yolo(letter);
            for (id, shape) in graph.ids().zip(graph.shapes(64, 64).unwrap()) {
                assert_eq!(
                    groups.composition(id).width(|g| groups.group(g).width()),
                    shape.c,
                    "{}",
                    graph.node(id).name
                );
            }
        }
    }
}
