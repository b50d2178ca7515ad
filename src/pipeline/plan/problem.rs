//! The problem that the search solves: levels and losses per group, latency and memory terms.

use super::target::SearchTarget;
use crate::graph::GraphError;
use crate::group::{Group, GroupId, Groups};
use crate::importance::LossCurves;
use crate::latency::LatencyTable;
use crate::memory::{self, Deployed};
use crate::search::{Factor, MemoryTerm, Problem, Variable};

/// The most widths a group may choose from.
const MAX_LEVELS: usize = 8;

/// The widths a group may have, ascending; the last is its full width. Multiples of the grid (and of the
/// head count) from `min_keep` of the full width on; where that gives more than eight, eight evenly spread. A group
/// that may be removed as a whole may also have none.
pub fn levels(group: &Group, grid: usize, min_keep: f64) -> Vec<usize> {
    let full = group.width();
    let unit = if full > grid { grid.max(1) } else { full.div_ceil(2).max(1) };
    let unit = unit.next_multiple_of(group.heads);
    let least = ((min_keep * full as f64).ceil() as usize).max(1).next_multiple_of(unit);
    let mut all: Vec<usize> = (least..full).step_by(unit).collect();
    all.push(full);
    if all.len() > MAX_LEVELS {
        let last = all.len() - 1;
        all = (0..MAX_LEVELS).map(|i| all[i * last / (MAX_LEVELS - 1)]).collect();
        all.dedup();
    }
    if group.removable {
        all.insert(0, 0);
    }
    all
}

/// The problem of a job. `levels` holds the widths of every group.
///
/// # Errors
/// As [`Graph::shapes`].
pub fn problem(
    deployed: &Deployed,
    groups: &Groups,
    levels: &[Vec<usize>],
    curves: &LossCurves,
    table: &LatencyTable,
    target: SearchTarget,
) -> Result<Problem, GraphError> {
    let variable = |(id, group): (usize, &Group)| Variable {
        name: group.name.clone(),
        widths: levels[id].clone(),
        loss: losses(curves, id, &levels[id], group.width()),
    };
    let factors =
        table.terms(deployed.graph, groups).into_iter().map(|term| tabulate(&term.scope, levels, |w| term.millis(w)));
    let kernels = memory::kernels(deployed, groups)?.into_iter();
    let kernels = kernels.map(|term| tabulate(&term.scope, levels, |w| term.bytes(w)));
    let live = memory::live_sets(deployed, groups)?.into_iter().map(|set| MemoryTerm {
        constant: set.constant,
        terms: set.per_channel.into_iter().map(|(group, bytes)| (group.index(), bytes)).collect(),
    });
    let mut memory: Vec<MemoryTerm> = live.collect();
    let mut budget = target.budget;
    // Weights alone are a step of memory too: with nothing live where memory has no limit, else with as much as makes
    // the two limits meet.
    match (target.weight_bytes, budget.memory_bytes) {
        (Some(weights), None) => {
            memory = vec![MemoryTerm::default()];
            budget.memory_bytes = Some(weights);
        }
        (Some(weights), Some(all)) if weights < all => {
            memory.push(MemoryTerm { constant: all - weights, terms: Vec::new() });
        }
        _ => {}
    }
    Ok(Problem {
        variables: groups.groups.iter().enumerate().map(variable).collect(),
        factors: factors.collect(),
        memory,
        weight_factors: kernels.collect(),
        budget,
    })
}

/// Losses at the levels, made monotone: a narrower group never costs less.
fn losses(curves: &LossCurves, group: usize, levels: &[usize], full: usize) -> Vec<f64> {
    let mut losses: Vec<f64> = levels.iter().map(|width| curves.loss(group, *width, full)).collect();
    for i in (0..losses.len().saturating_sub(1)).rev() {
        losses[i] = losses[i].max(losses[i + 1]);
    }
    losses
}

/// A function of a few groups' widths as a table over their levels, the last group running fastest.
fn tabulate(scope: &[GroupId], levels: &[Vec<usize>], value: impl Fn(&dyn Fn(GroupId) -> usize) -> f64) -> Factor {
    let sizes: Vec<usize> = scope.iter().map(|group| levels[group.index()].len()).collect();
    let total: usize = sizes.iter().product();
    let table = (0..total).map(|mut entry| {
        let mut widths = vec![0; scope.len()];
        for (slot, size) in sizes.iter().enumerate().rev() {
            widths[slot] = levels[scope[slot].index()][entry % size];
            entry /= size;
        }
        value(&|group| scope.iter().position(|g| *g == group).map_or(0, |slot| widths[slot]))
    });
    Factor { scope: scope.iter().map(|group| group.index()).collect(), table: table.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_on_the_grid_and_end_at_the_full_width() {
        let group = |width: usize, heads, removable| Group {
            name: "g".into(),
            atoms: (0..width as u32).map(crate::group::AtomId).collect(),
            heads,
            producers: vec![],
            consumers: vec![],
            removable,
        };
        let cases: &[(usize, usize, usize, f64, &[usize])] = &[
            (64, 1, 8, 0.25, &[16, 24, 32, 40, 48, 56, 64]),
            (80, 1, 16, 0.5, &[48, 64, 80]),
            (20, 1, 8, 0.0, &[8, 16, 20]),
            (8, 1, 8, 0.25, &[4, 8]),
            (64, 2, 3, 0.9, &[60, 64]),
            (256, 1, 8, 0.1, &[32, 64, 96, 128, 160, 192, 224, 256]),
        ];
        for (width, heads, grid, min_keep, expected) in cases {
            assert_eq!(levels(&group(*width, *heads, false), *grid, *min_keep), *expected, "{width}");
            let with_none = [&[0], *expected].concat();
            assert_eq!(levels(&group(*width, *heads, true), *grid, *min_keep), with_none, "{width}");
        }
    }
}
