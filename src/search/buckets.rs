//! How to eliminate variable after variable: their order, and which tables are summed when a variable is eliminated
//! (buckets, and mini-buckets where one table would grow too large).

use super::table::{Table, strides};

/// How to eliminate: made once, used for all multipliers.
pub(super) struct Plan {
    /// Variables in the order of their elimination.
    pub order: Vec<usize>,
    /// What is summed when a variable is eliminated, in that order.
    pub buckets: Vec<Bucket>,
    /// Entries of each message.
    pub messages: Vec<usize>,
    /// Whether no table had to be split, so that the minimum is exact.
    pub exact: bool,
}

/// All that one variable takes part in when it is eliminated.
pub(super) struct Bucket {
    pub variable: usize,
    pub minis: Vec<Mini>,
}

/// Parts that are summed before the variable is minimised out, and the message that results.
pub(super) struct Mini {
    /// Variables of the message, the first eliminated last.
    pub scope: Vec<usize>,
    pub strides: Vec<usize>,
    /// Sizes of the message's axes, and the variable's own at the end.
    pub sizes: Vec<usize>,
    pub parts: Vec<Part>,
    pub out: usize,
    /// The variable that is eliminated.
    pub own: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Source {
    Unary,
    Table(usize),
    Message(usize),
}

/// A function and the variables it depends on.
type Scoped = (Source, Vec<usize>);

pub(super) struct Part {
    pub source: Source,
    /// Strides over the axes of the mini-bucket; 0 where the part does not depend on the axis.
    pub strides: Vec<usize>,
}

/// Min-fill order; among equals the least table, then the first variable.
pub(super) fn order(scopes: &[&[usize]], sizes: &[usize]) -> Vec<usize> {
    let count = sizes.len();
    let mut near = vec![vec![false; count]; count];
    for scope in scopes {
        for a in *scope {
            scope.iter().filter(|b| *b != a).for_each(|b| near[*a][*b] = true);
        }
    }
    let mut left: Vec<usize> = (0..count).collect();
    let mut order = Vec::with_capacity(count);
    while !left.is_empty() {
        let neighbours = |v: usize| left.iter().copied().filter(|w| near[v][*w]).collect::<Vec<_>>();
        let price = |v: usize| {
            let around = neighbours(v);
            let pairs = around.iter().enumerate().flat_map(|(i, a)| around[..i].iter().map(move |b| (*a, *b)));
            let fill = pairs.filter(|(a, b)| !near[*a][*b]).count();
            let table = around.iter().map(|w| (sizes[*w] as f64).ln()).sum::<f64>() + (sizes[v] as f64).ln();
            (fill, table)
        };
        let priced = left.iter().map(|v| (price(*v), *v));
        let Some((_, next)) = priced.min_by(|(a, v), (b, w)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(v.cmp(w)))
        else {
            break;
        };
        let around = neighbours(next);
        for a in &around {
            around.iter().filter(|b| *b != a).for_each(|b| near[*a][*b] = true);
        }
        left.retain(|v| *v != next);
        order.push(next);
    }
    order
}

impl Plan {
    /// Assigns tables and messages to variables. `position` is the inverse of `order`.
    pub fn new(order: Vec<usize>, position: Vec<usize>, tables: &[Table], sizes: &[usize], max_table: usize) -> Self {
        let mut waiting: Vec<Vec<Scoped>> = vec![Vec::new(); sizes.len()];
        for (index, table) in tables.iter().enumerate() {
            if let Some(first) = table.scope.last() {
                waiting[*first].push((Source::Table(index), table.scope.clone()));
            }
        }
        let mut plan = Self { buckets: Vec::new(), messages: Vec::new(), exact: true, order };
        for variable in plan.order.clone() {
            // The largest first, each into the first mini-bucket it fits.
            let mut parts = std::mem::take(&mut waiting[variable]);
            parts.sort_by_key(|(_, scope)| std::cmp::Reverse(scope.len()));
            parts.push((Source::Unary, vec![variable]));
            let mut groups: Vec<(Vec<usize>, Vec<Scoped>)> = Vec::new();
            for (source, scope) in parts {
                let union = |held: &[usize]| {
                    let mut all: Vec<usize> = held.iter().chain(&scope).copied().collect();
                    all.sort_unstable_by_key(|v| std::cmp::Reverse(position[*v]));
                    all.dedup();
                    all
                };
                let fits = |held: &[usize]| {
                    let all = union(held);
                    let entries = all.iter().try_fold(1usize, |n, v| n.checked_mul(sizes[*v]));
                    all.len() == held.len() || entries.is_some_and(|n| n <= max_table)
                };
                match groups.iter_mut().find(|(held, _)| fits(held)) {
                    Some((held, members)) => {
                        *held = union(held);
                        members.push((source, scope));
                    }
                    None => groups.push((union(&[]), vec![(source, scope)])),
                }
            }
            plan.exact &= groups.len() <= 1;
            let mut minis = Vec::new();
            for (axes, members) in groups {
                let part = |(source, scope): Scoped| {
                    let own = strides(&scope, sizes);
                    let stride = |axis: &usize| scope.iter().position(|v| v == axis).map_or(0, |at| own[at]);
                    Part { source, strides: axes.iter().map(stride).collect() }
                };
                let parts: Vec<Part> = members.into_iter().map(part).collect();
                let axis_sizes: Vec<usize> = axes.iter().map(|v| sizes[*v]).collect();
                let scope = axes[..axes.len() - 1].to_vec();
                let out = plan.messages.len();
                plan.messages.push(scope.iter().map(|v| sizes[*v]).product());
                if let Some(next) = scope.last() {
                    waiting[*next].push((Source::Message(out), scope.clone()));
                }
                minis.push(Mini {
                    strides: strides(&scope, sizes),
                    scope,
                    sizes: axis_sizes,
                    parts,
                    out,
                    own: variable,
                });
            }
            plan.buckets.push(Bucket { variable, minis });
        }
        plan
    }
}
