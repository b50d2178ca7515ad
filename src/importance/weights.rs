//! Scores that read the weights alone. A channel's score is the mean over the convolutions that make it, each
//! normalised to a mean of one, so that layers of different scales count alike.

use super::Criterion;
use crate::graph::Conv;
use crate::group::{Group, Groups};
use crate::model::Model;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// One score per position of the group.
pub(super) fn scores(criterion: Criterion, model: &Model, groups: &Groups, group: &Group) -> Vec<f64> {
    let mut total = vec![0.0; group.width()];
    for (id, conv) in model.graph.convs().filter(|(id, _)| group.producers.contains(id)) {
        let rows = rows(criterion, model, conv);
        let mean = rows.iter().sum::<f64>() / rows.len().max(1) as f64;
        for (channel, atom) in groups.channels[id.index()].iter().enumerate() {
            if let Some(position) = group.atoms.iter().position(|a| a == atom) {
                total[position] += rows[channel] / mean.max(f64::MIN_POSITIVE);
            }
        }
    }
    total
}

fn rows(criterion: Criterion, model: &Model, conv: &Conv) -> Vec<f64> {
    let kernel = model.tensor(&conv.weight).data();
    let rows: Vec<&[f32]> = kernel.chunks(kernel.len() / conv.c_out).collect();
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
    let norm2 = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    match (criterion, &conv.norm) {
        (Criterion::L1, _) => rows.iter().map(|row| row.iter().map(|v| f64::from(v.abs())).sum()).collect(),
        (Criterion::Fpgm, _) => rows.iter().map(|a| rows.iter().map(|b| distance(a, b)).sum()).collect(),
        (Criterion::BnScale, Some(norm)) => {
            model.tensor(&norm.keys()[0]).data().iter().map(|g| f64::from(g.abs())).collect()
        }
        _ => rows.iter().map(|row| norm2(row)).collect(),
    }
}

/// A seeded shuffle of `0..n` as scores.
pub(super) fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut scores: Vec<f64> = (0..n).map(|i| i as f64).collect();
    scores.shuffle(&mut StdRng::seed_from_u64(seed));
    scores
}
