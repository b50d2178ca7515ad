//! Widths by simple rules, the baselines that a search must beat: the same share of every group, or one threshold on the
//! scores of all channels.

use crate::graph::Graph;
use crate::group::Groups;
use crate::latency::LatencyTable;

/// Steps of the bisection.
const BISECTIONS: usize = 24;

/// How widths follow from scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Every group keeps the same share.
    Uniform,
    /// The channels with the lowest scores are removed, wherever they are.
    Global,
}

/// The widest plan whose predicted latency is within `budget_ms`; the narrowest one where none is. `scores` has one
/// value per channel and group.
pub fn widths(
    rule: Rule,
    scores: &[Vec<f64>],
    levels: &[Vec<usize>],
    (graph, groups, table): (&Graph, &Groups, &LatencyTable),
    budget_ms: f64,
) -> Vec<usize> {
    let mut all: Vec<f64> = scores.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let of = |share: f64| -> Vec<usize> {
        let threshold = all.get((share * all.len() as f64) as usize).copied().unwrap_or(f64::INFINITY);
        let width = |(scores, levels): (&Vec<f64>, &Vec<usize>)| {
            let wanted = match rule {
                Rule::Uniform => (1.0 - share) * scores.len() as f64,
                Rule::Global => scores.iter().filter(|score| **score >= threshold).count() as f64,
            };
            nearest(levels, wanted)
        };
        scores.iter().zip(levels).map(width).collect()
    };
    let fits = |widths: &[usize]| table.predict(graph, groups, widths) <= budget_ms;
    let (mut mild, mut strong) = (0.0, 1.0);
    if fits(&of(mild)) {
        return of(mild);
    }
    for _ in 0..BISECTIONS {
        let middle = (mild + strong) / 2.0;
        if fits(&of(middle)) {
            strong = middle;
        } else {
            mild = middle;
        }
    }
    // Groups of the same width change at the same share: as many of them as the budget allows keep the wider level.
    let (wide, mut chosen) = (of(mild), of(strong));
    for (group, width) in wide.into_iter().enumerate() {
        let narrow = std::mem::replace(&mut chosen[group], width);
        if !fits(&chosen) {
            chosen[group] = narrow;
        }
    }
    chosen
}

/// The level closest to a width.
fn nearest(levels: &[usize], wanted: f64) -> usize {
    let distance = |level: &usize| (*level as f64 - wanted).abs();
    levels.iter().copied().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_level_is_taken() {
        for (wanted, expected) in [(0.0, 8), (11.0, 8), (13.0, 16), (99.0, 32)] {
            assert_eq!(nearest(&[8, 16, 32], wanted), expected);
        }
    }
}
