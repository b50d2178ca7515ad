//! Branch and bound with a dual at every node, for what a single dual leaves open.
//!
//! Where a budget is spent in few large pieces, as peak memory often is, the dual mixes plans that differ in a few
//! variables. Splitting the levels of such a variable forbids the mixture and lifts the bound.

use super::Options;
use super::dual::{Ascent, Dual, Effort, Multipliers, PRICE};
use super::local::State;
use super::primal::{EQUAL, Pool};

/// Evaluations of the dual at a node.
const STEPS: usize = 8;

struct Node {
    /// Variable, first and last level.
    ranges: Vec<(usize, usize, usize)>,
    bound: f64,
    multipliers: Multipliers,
    /// Where the levels are split: the variable, and the last level of the lower part.
    split: Option<(usize, usize)>,
}

/// Splits, the weakest bound first, and returns the bound that is proven in the end: infinite if nothing is left open.
pub(super) fn branch(dual: &mut Dual, root: Ascent, pool: &mut Pool, bound: f64, options: &Options) -> f64 {
    let split = choose(dual, &root, &[]);
    let mut open = vec![Node { ranges: Vec::new(), bound, multipliers: root.multipliers, split }];
    // Nodes that cannot be split count with the bound they have.
    let mut ended = f64::INFINITY;
    for _ in 0..options.branches {
        let Some(loss) = pool.loss() else { break };
        let cutoff = loss * (1.0 - EQUAL);
        open.retain(|node| node.bound < cutoff);
        let weakest = (0..open.len()).min_by(|a, b| open[*a].bound.total_cmp(&open[*b].bound));
        let Some(weakest) = weakest else { break };
        if loss - open[weakest].bound.min(ended) <= options.gap * loss {
            break;
        }
        let node = open.swap_remove(weakest);
        let Some((variable, last)) = node.split else {
            ended = ended.min(node.bound);
            break;
        };
        let range = node.ranges.iter().find(|(v, _, _)| *v == variable).copied();
        let (_, low, high) = range.unwrap_or((variable, 0, dual.problem.sizes[variable] - 1));
        for (first, last) in [(low, last), (last + 1, high)] {
            let mut ranges = node.ranges.clone();
            ranges.retain(|(v, _, _)| *v != variable);
            ranges.push((variable, first, last));
            dual.ranges.clone_from(&ranges);
            let known = dual.seen.len();
            let enough = pool.loss().map_or(f64::INFINITY, |loss| loss * (1.0 - EQUAL) / dual.scale);
            let ascent = dual.ascend(1.0, PRICE, &Effort { steps: STEPS, enough, start: Some(&node.multipliers) });
            let bound = (ascent.bound * dual.scale).max(node.bound);
            if bound >= cutoff {
                continue;
            }
            for at in known.max(dual.seen.len().saturating_sub(1))..dual.seen.len() {
                let mut state = State::new(dual.problem, dual.seen[at].levels.clone());
                if state.repair() {
                    state.improve();
                    pool.offer(&state.levels);
                }
            }
            let split = choose(dual, &ascent, &ranges);
            open.push(Node { ranges, bound, multipliers: ascent.multipliers, split });
        }
        pool.report_bound(open.iter().map(|node| node.bound).fold(ended, f64::min));
    }
    dual.ranges.clear();
    open.iter().map(|node| node.bound).fold(ended, f64::min)
}

/// The variable whose levels the mixture spreads the most, by what they lose, and where to split it.
fn choose(dual: &Dual, ascent: &Ascent, ranges: &[(usize, usize, usize)]) -> Option<(usize, usize)> {
    let problem = dual.problem;
    let mut best: Option<(f64, (usize, usize))> = None;
    for variable in 0..problem.len() {
        let held = ranges.iter().find(|(v, _, _)| *v == variable);
        let (low, high) = held.map_or((0, problem.sizes[variable] - 1), |(_, low, high)| (*low, *high));
        let levels = || ascent.mixture.iter().map(|(at, share)| (dual.seen[*at].levels[variable], *share));
        let (mut least, mut most, mut mean) = (usize::MAX, 0, 0.0);
        for (level, share) in levels() {
            (least, most, mean) = (least.min(level), most.max(level), mean + share * level as f64);
        }
        if least >= most || low >= high {
            continue;
        }
        let loss = &problem.loss[variable];
        let middle: f64 = levels().map(|(level, share)| share * loss[level]).sum();
        let spread: f64 = levels().map(|(level, share)| share * (loss[level] - middle).abs()).sum();
        // What costs nothing to change still has to be told apart.
        let spread = spread + 1e-9 * (most - least) as f64;
        if best.is_none_or(|(known, _)| spread > known) {
            best = Some((spread, (variable, (mean as usize).clamp(least.max(low), (most - 1).min(high - 1)))));
        }
    }
    best.map(|(_, split)| split)
}
