//! Depth-first search over what bounds cannot exclude.
//!
//! Variables are decided in the reverse order of their elimination, so that the messages of an elimination bound what
//! the rest adds to any function that was eliminated. A branch is pruned when the Lagrangian says that it cannot beat
//! the best plan, or when latency, memory or their mixture says that it cannot fit.

use super::compile::Compiled;
use super::elimination::Potentials;

/// A function that bounds branches: one whose value must stay at or below a limit.
pub(super) struct Bounding<'a> {
    pub potentials: &'a Potentials,
    /// A branch is pruned when its bound exceeds this.
    pub limit: f64,
}

/// The most functions that bound at once.
pub(super) const MAX_BOUNDS: usize = 4;

/// A partial plan's value under every bounding function.
type Values = [f64; MAX_BOUNDS];

/// How the search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything was excluded or visited.
    Complete,
    /// The node limit was reached.
    Limit,
}

/// Searches. Every plan that no bound excludes goes to `visit`, which may answer a new limit for the first function.
pub(super) fn search(
    problem: &Compiled,
    bounding: &mut [Bounding],
    nodes: usize,
    visit: &mut dyn FnMut(&[usize]) -> Option<f64>,
) -> End {
    let used = MAX_BOUNDS.min(bounding.len());
    let bounding = &mut bounding[..used];
    let mut start = Values::default();
    bounding.iter().zip(&mut start).for_each(|(b, value)| *value = b.potentials.bound);
    if bounding.iter().zip(&start).any(|(b, value)| *value > b.limit) {
        return End::Complete;
    }
    let depth = problem.len();
    let mut levels = vec![0; depth];
    let mut frames: Vec<Frame> = Vec::with_capacity(depth);
    let mut left = nodes;
    let mut spare = Vec::new();
    if depth == 0 {
        visit(&levels);
        return End::Complete;
    }
    frames.push(Frame::new(problem, bounding, 0, &levels, &start, &mut spare));
    while let Some(frame) = frames.last_mut() {
        let Some((level, values)) = frame.next(bounding) else {
            frames.pop();
            continue;
        };
        if left == 0 {
            return End::Limit;
        }
        left -= 1;
        let at = frames.len() - 1;
        levels[problem.plan.order[depth - 1 - at]] = level;
        if at + 1 == depth {
            if let Some(limit) = visit(&levels)
                && let Some(first) = bounding.first_mut()
            {
                first.limit = limit;
            }
        } else {
            frames.push(Frame::new(problem, bounding, at + 1, &levels, &values, &mut spare));
        }
    }
    End::Complete
}

/// The levels that are left of one variable, the most promising last.
struct Frame {
    choices: Vec<(usize, Values)>,
}

impl Frame {
    fn new(
        problem: &Compiled,
        bounding: &[Bounding],
        at: usize,
        levels: &[usize],
        values: &Values,
        rises: &mut Vec<f64>,
    ) -> Self {
        let bucket = &problem.plan.buckets[problem.len() - 1 - at];
        let size = problem.sizes[bucket.variable];
        let mut choices: Vec<(usize, Values)> = (0..size).map(|level| (level, *values)).collect();
        for (index, bound) in bounding.iter().enumerate() {
            bound.potentials.rises(bucket, levels, rises);
            choices.iter_mut().for_each(|(level, values)| values[index] += rises[*level]);
        }
        choices.retain(|(_, values)| values.iter().zip(bounding).all(|(value, b)| *value <= b.limit));
        choices.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]));
        Self { choices }
    }

    fn next(&mut self, bounding: &[Bounding]) -> Option<(usize, Values)> {
        let next = self.choices.pop()?;
        // The limit may have fallen since; all others are worse.
        (next.1[0] <= bounding[0].limit).then_some(next)
    }
}
