//! The order in which channels are removed, and their scores.

use super::error::ImportanceError;
use super::statistics::{Basis, Statistics};
use crate::group::Groups;
use crate::model::Model;
use crate::profile::Criterion;
use crate::surgery::Selection;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// For every group the order in which its channels are removed, first to last. In groups spread over heads, the first
/// `k * heads` always take `k` from every head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranking(pub Vec<Vec<usize>>);

impl Ranking {
    /// The positions of a group that are kept at a width, ascending.
    pub fn keep(&self, group: usize, width: usize) -> Vec<usize> {
        let order = &self.0[group];
        let mut kept = order[order.len() - width.min(order.len())..].to_vec();
        kept.sort_unstable();
        kept
    }

    /// The channels that are kept at the given widths.
    pub fn select(&self, widths: &[usize]) -> Selection {
        Selection(widths.iter().enumerate().map(|(group, width)| self.keep(group, *width)).collect())
    }
}

/// Ranks the channels of every group; the statistics' ranks share the groups.
///
/// # Errors
/// If the statistics lack what the criterion reads, or a rank cannot be reached.
pub fn rank(
    criterion: Criterion,
    model: &Model,
    groups: &Groups,
    statistics: &Statistics,
) -> Result<Ranking, ImportanceError> {
    let basis = Basis::of(criterion, model, groups, statistics)?;
    let mine: Vec<usize> = statistics.ranks.mine(groups.groups.len()).collect();
    let orders = mine.into_par_iter().map(|id| basis.order(model, groups, id)).collect();
    Ok(Ranking(statistics.ranks.units(orders)?))
}

/// A score for every channel of every group, for one threshold over all of them: in units of the loss for `taylor`,
/// `fisher` (a sum over the channels tied together) and `reconstruction` (what its removal adds after those before it),
/// by their papers' own scale for `bn-scale` and `lamp`, and with a mean of one per group for the others, whose scales
/// differ from layer to layer.
///
/// # Errors
/// If the statistics lack what the criterion reads.
pub fn scores(
    criterion: Criterion,
    model: &Model,
    groups: &Groups,
    statistics: &Statistics,
) -> Result<Vec<Vec<f64>>, ImportanceError> {
    let basis = Basis::of(criterion, model, groups, statistics)?;
    let one = |id: usize| {
        let mut scores = basis.scores(model, groups, id);
        let own_scale = match criterion {
            Criterion::Reconstruction | Criterion::Taylor | Criterion::Fisher => true,
            Criterion::BnScale | Criterion::Lamp | Criterion::Random => true,
            Criterion::L1 | Criterion::L2 | Criterion::Fpgm | Criterion::Activation => false,
        };
        if !own_scale {
            let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
            scores.iter_mut().for_each(|score| *score /= mean.max(f64::MIN_POSITIVE));
        }
        scores
    };
    Ok((0..groups.groups.len()).into_par_iter().map(one).collect())
}
