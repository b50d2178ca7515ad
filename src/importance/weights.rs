//! Scores that read the weights alone. A channel's score adds up over the convolutions that make it, each normalised to
//! a mean of one where its scale differs from layer to layer.

use crate::graph::{Conv, NodeId};
use crate::group::{Group, Groups};
use crate::model::Model;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// The criteria that read the weights alone; [`crate::profile::Criterion`] explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norm {
    L1,
    L2,
    BnScale,
    Fpgm,
    Lamp,
}

/// One score per position of the group.
pub(super) fn scores(norm: Norm, model: &Model, groups: &Groups, group: &Group) -> Vec<f64> {
    let mut total = vec![0.0; group.width()];
    for (id, conv) in model.graph.convs().filter(|(id, _)| group.producers.contains(id)) {
        let rows = rows(norm, model, conv);
        let own_scale = matches!(norm, Norm::Lamp | Norm::BnScale);
        let mean = if own_scale { 1.0 } else { rows.iter().sum::<f64>() / rows.len().max(1) as f64 };
        for (channel, atom) in groups.channels[id.index()].iter().enumerate() {
            if let Some(position) = group.atoms.iter().position(|a| a == atom) {
                total[position] += rows[channel] / mean.max(f64::MIN_POSITIVE);
            }
        }
    }
    total
}

/// Whether any layer whose output channels can be pruned has a batch normalisation.
pub(super) fn has_scales(model: &Model, groups: &Groups) -> bool {
    let makes = |id: &NodeId| groups.groups.iter().any(|group| group.producers.contains(id));
    model.graph.convs().any(|(id, conv)| conv.norm.is_some() && makes(&id))
}

fn rows(norm: Norm, model: &Model, conv: &Conv) -> Vec<f64> {
    let kernel = model.tensor(&conv.weight).data();
    let rows: Vec<&[f32]> = kernel.chunks(kernel.len() / conv.c_out).collect();
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
    let norm2 = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    match (norm, &conv.norm) {
        (Norm::L1, _) => rows.iter().map(|row| row.iter().map(|v| f64::from(v.abs())).sum()).collect(),
        (Norm::Lamp, _) => lamp(&rows.iter().map(|row| norm2(row).powi(2)).collect::<Vec<_>>()),
        (Norm::Fpgm, _) => rows.iter().map(|a| rows.iter().map(|b| distance(a, b)).sum()).collect(),
        (Norm::BnScale, Some(batch_norm)) => {
            model.tensor(&batch_norm.keys()[0]).data().iter().map(|g| f64::from(g.abs())).collect()
        }
        (Norm::L2, _) | (Norm::BnScale, None) => rows.iter().map(|row| norm2(row)).collect(),
    }
}

/// Each value over the sum of all that are not smaller; of equal ones each counts itself and those after it.
fn lamp(squares: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..squares.len()).collect();
    order.sort_by(|a, b| squares[*a].total_cmp(&squares[*b]));
    let mut scores = vec![0.0; squares.len()];
    let mut rest = 0.0;
    for at in order.into_iter().rev() {
        rest += squares[at];
        scores[at] = squares[at] / rest.max(f64::MIN_POSITIVE);
    }
    scores
}

/// A seeded shuffle of `0..n` as scores.
pub(super) fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut scores: Vec<f64> = (0..n).map(|i| i as f64).collect();
    scores.shuffle(&mut StdRng::seed_from_u64(seed));
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lamp_scores_count_what_is_not_smaller() {
        let scores = lamp(&[4.0, 1.0, 3.0]);
        for (found, expected) in scores.iter().zip([1.0, 1.0 / 8.0, 3.0 / 7.0]) {
            assert!((found - expected).abs() < 1e-12, "{scores:?}");
        }
    }
}
