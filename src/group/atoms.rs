//! One atom per channel of every tensor, merged where channels are tied.

use super::AtomId;
use crate::graph::{Attention, Graph, Node, Op};

/// Result of [`trace`].
pub(super) struct Atoms {
    /// For every node the atom of each channel.
    pub channels: Vec<Vec<AtomId>>,
    /// Number of atoms.
    pub count: usize,
    /// For every atom the attention heads its group is spread over (1 elsewhere).
    pub heads: Vec<usize>,
}

/// Disjoint sets of elements, the smallest member of each as its root.
struct Ties(Vec<u32>);

impl Ties {
    fn make(&mut self) -> u32 {
        self.0.push(self.0.len() as u32);
        self.0.len() as u32 - 1
    }

    fn root(&mut self, mut x: u32) -> u32 {
        while self.0[x as usize] != x {
            let up = self.0[x as usize];
            self.0[x as usize] = self.0[up as usize];
            x = up;
        }
        x
    }

    fn tie(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b) as usize] = a.min(b);
    }
}

/// Walks the graph once. The graph must have passed its check.
pub(super) fn trace(graph: &Graph) -> Atoms {
    let mut ties = Ties(Vec::new());
    let mut maps: Vec<Vec<u32>> = Vec::with_capacity(graph.nodes.len());
    let mut attentions: Vec<(Vec<u32>, usize)> = Vec::new();
    for node in &graph.nodes {
        let map = channel_map(node, &maps, &mut ties, &mut attentions);
        maps.push(map);
    }

    // Number the roots in the order of their first element.
    let elements = ties.0.len() as u32;
    let mut number = vec![u32::MAX; elements as usize];
    let mut count = 0;
    for element in 0..elements {
        let root = ties.root(element) as usize;
        if number[root] == u32::MAX {
            number[root] = count;
            count += 1;
        }
        number[element as usize] = number[root];
    }
    let mut heads = vec![1; count as usize];
    for (elements, n) in attentions {
        elements.iter().for_each(|e| heads[number[*e as usize] as usize] = n);
    }
    let atoms = |map: Vec<u32>| map.into_iter().map(|e| AtomId(number[e as usize])).collect();
    Atoms { channels: maps.into_iter().map(atoms).collect(), count: count as usize, heads }
}

fn channel_map(node: &Node, maps: &[Vec<u32>], ties: &mut Ties, attentions: &mut Vec<(Vec<u32>, usize)>) -> Vec<u32> {
    let input = |i: usize| &maps[node.inputs[i].index()];
    match &node.op {
        Op::Input { channels } => (0..*channels).map(|_| ties.make()).collect(),
        Op::Conv(conv) if conv.is_depthwise() => input(0).clone(),
        Op::Conv(conv) => (0..conv.c_out).map(|_| ties.make()).collect(),
        Op::ConvTranspose(conv) => (0..conv.c_out).map(|_| ties.make()).collect(),
        Op::MaxPool { .. } | Op::AvgPool { .. } | Op::Upsample { .. } | Op::GlobalAvgPool | Op::Activate { .. } => {
            input(0).clone()
        }
        Op::Concat => (0..node.inputs.len()).flat_map(|i| input(i).iter().copied()).collect(),
        Op::Slice { start, len } => input(0)[*start..start + len].to_vec(),
        Op::Add => {
            let (a, b) = (input(0).clone(), input(1));
            a.iter().zip(b).for_each(|(x, y)| ties.tie(*x, *y));
            a
        }
        Op::Attention(a) => {
            let packed = input(0);
            for head in 0..a.heads {
                let at = head * a.packed();
                (at..at + a.key_dim).for_each(|q| ties.tie(packed[q], packed[q + a.key_dim]));
            }
            let values = values(a, packed);
            attentions.push((packed.clone(), a.heads));
            values
        }
        Op::AttentionValues(a) => values(a, input(0)),
    }
}

fn values(a: &Attention, packed: &[u32]) -> Vec<u32> {
    let starts = (0..a.heads).map(|head| head * a.packed() + 2 * a.key_dim);
    starts.flat_map(|at| packed[at..at + a.head_dim].iter().copied()).collect()
}
