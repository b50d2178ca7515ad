//! Merges removed channels into the most similar ones that are kept, without any data.
//!
//! A channel whose filter points where another one's does carries about the same signal, so what is read from it can be
//! read from the other at the right scale: its columns in the kernels that read it are added to the other's. After Kim
//! et al., "Neuron Merging: Compensating for Pruned Neurons" (NeurIPS 2020), with the filters and shifts of all
//! convolutions that make a channel, normalisation folded in, as its direction.

use super::kept_rows;
use crate::graph::{NodeId, Op};
use crate::group::{AtomId, Group, Groups};
use crate::model::{Model, fold};
use crate::surgery::Selection;
use std::collections::BTreeMap;

/// The least cosine of two channels that are merged.
const SIMILAR: f64 = 0.45;

/// For a removed channel: the one that takes its place, and at which scale.
type Partners = BTreeMap<AtomId, (AtomId, f64)>;

/// Adds the columns of removed channels to those of their partners in the pruned model's kernels.
pub(super) fn merge(original: &Model, groups: &Groups, selection: &Selection, cut: &mut Model) {
    let mut partners = Partners::new();
    for (group, keep) in groups.groups.iter().zip(&selection.0) {
        // Products of queries and keys are not linear in single channels.
        if group.heads == 1 && !keep.is_empty() && keep.len() < group.width() {
            partners.extend(partners_of(original, groups, group, keep));
        }
    }
    for id in original.graph.ids() {
        let node = original.graph.node(id);
        let Op::Conv(conv) = &node.op else { continue };
        let partner = cut.graph.find(&node.name).map(|mine| cut.graph.node(mine).op.clone());
        let Some(Op::Conv(smaller)) = partner.filter(|_| !conv.is_depthwise()) else { continue };
        let columns = kept_rows(groups, selection, node.inputs[0]);
        let whole = original.tensor(&conv.weight).select(0, &kept_rows(groups, selection, id));
        let Some(kernel) = cut.weights.get_mut(&smaller.weight) else { continue };
        let taps = conv.kernel * conv.kernel;
        for (from, to, scale) in moves(&groups.channels[node.inputs[0].index()], &partners) {
            let Ok(to) = columns.binary_search(&to) else { continue };
            let rows = kernel.data_mut().chunks_exact_mut(smaller.c_in * taps);
            for (mine, theirs) in rows.zip(whole.data().chunks_exact(conv.c_in * taps)) {
                let theirs = &theirs[from * taps..(from + 1) * taps];
                let mine = &mut mine[to * taps..(to + 1) * taps];
                mine.iter_mut().zip(theirs).for_each(|(m, t)| *m += (scale * f64::from(*t)) as f32);
            }
        }
    }
}

/// Positions of a tensor whose channels are removed, with those of their partners: where channels occur several times,
/// the occurrences of the same number belong together.
fn moves(channels: &[AtomId], partners: &Partners) -> Vec<(usize, usize, f64)> {
    let mut places: BTreeMap<AtomId, Vec<usize>> = BTreeMap::new();
    channels.iter().enumerate().for_each(|(at, atom)| places.entry(*atom).or_default().push(at));
    let of = |(removed, (kept, scale)): (&AtomId, &(AtomId, f64))| {
        let (from, to) = (places.get(removed)?, places.get(kept)?);
        Some(from.iter().zip(to).map(|(from, to)| (*from, *to, *scale)).collect::<Vec<_>>())
    };
    partners.iter().filter_map(of).flatten().collect()
}

/// The partners of a group's removed channels, where there are any.
fn partners_of(model: &Model, groups: &Groups, group: &Group, keep: &[usize]) -> Partners {
    let Some(directions) = directions(model, groups, group) else { return Partners::new() };
    let dot = |a: usize, b: usize| directions[a].iter().zip(&directions[b]).map(|(x, y)| x * y).sum::<f64>();
    let removed = (0..group.width()).filter(|at| keep.binary_search(at).is_err());
    let kept = |at: usize| {
        let own = dot(at, at);
        let near = keep.iter().map(|kept| (*kept, dot(at, *kept), dot(*kept, *kept)));
        let near = near.filter(|(_, _, theirs)| own * theirs > 0.0);
        let (kept, both, theirs) =
            near.max_by(|a, b| (a.1 / (own * a.2).sqrt()).total_cmp(&(b.1 / (own * b.2).sqrt())))?;
        let similar = both / (own * theirs).sqrt() >= SIMILAR;
        similar.then(|| (group.atoms[at], (group.atoms[kept], both / theirs)))
    };
    removed.filter_map(kept).collect()
}

/// For every channel of a group the folded filters and shifts of all that make it; none where something else than a
/// convolution does.
fn directions(model: &Model, groups: &Groups, group: &Group) -> Option<Vec<Vec<f64>>> {
    let mut directions = vec![Vec::new(); group.width()];
    for producer in &group.producers {
        let Op::Conv(conv) = &model.graph.node(*producer).op else { return None };
        let (kernel, bias) = fold(model, conv);
        let row = kernel.len() / conv.c_out.max(1);
        for (at, place) in places(groups, group, *producer)?.into_iter().enumerate() {
            directions[at].extend(kernel[place * row..(place + 1) * row].iter().copied().map(f64::from));
            directions[at].push(f64::from(bias[place]));
        }
    }
    Some(directions)
}

/// Where a group's channels are in a tensor.
fn places(groups: &Groups, group: &Group, node: NodeId) -> Option<Vec<usize>> {
    let channels = &groups.channels[node.index()];
    group.atoms.iter().map(|atom| channels.iter().position(|other| other == atom)).collect()
}
