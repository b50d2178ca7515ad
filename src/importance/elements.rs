//! Unstructured sparsity: sets single weights to zero. The shapes of the network do not change, its file shrinks.
//!
//! The score of a weight is the loss increase without it, to second order and one by one (Optimal Brain Damage, LeCun
//! et al., 1990): its square times the variance of its input, in the scale of the batch normalisation behind it, times
//! the sensitivity of the outputs to its channel. The same score per row is that of Sun et al., "A Simple and Effective
//! Pruning Approach for Large Language Models" (ICLR 2024).

use super::covariances::Covariances;
use super::reconstruction::scales;
use crate::graph::Op;
use crate::model::Model;
use crate::repair::Sensitivity;

/// Which weights are set to zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// This share of all weights of dense convolutions, wherever they are.
    Unstructured(f64),
    /// Of every four consecutive input channels, at each place of the kernel, two.
    TwoOfFour,
}

/// The model with the weights of the lowest scores set to zero. Depthwise convolutions, and under
/// [`Pattern::TwoOfFour`] layers whose input channels are no multiple of four, do not change.
pub fn sparsify(
    model: &Model,
    covariances: &Covariances,
    sensitivity: Option<&Sensitivity>,
    pattern: Pattern,
) -> Model {
    let mut scored: Vec<(String, Vec<f64>, [usize; 4])> = Vec::new();
    for (id, conv) in model.graph.convs() {
        let (Op::Conv(_), Some(covariance)) = (&model.graph.node(id).op, covariances.get(&id.0)) else { continue };
        let variances = covariance.variances();
        let energies = sensitivity.and_then(|e| e.channels.get(&id.0)).filter(|c| c.len() == conv.c_out);
        let scales = scales(model, conv);
        let rows = model.tensor(&conv.weight).data().chunks(variances.len().max(1)).enumerate();
        let scores = rows.flat_map(|(row, weights)| {
            let scale = scales[row] * scales[row] * energies.map_or(1.0, |e| e[row]);
            let one = move |(w, v): (&f32, &f64)| scale * f64::from(*w).powi(2) * v;
            weights.iter().zip(&variances).map(one).collect::<Vec<_>>()
        });
        scored.push((conv.weight.clone(), scores.collect(), conv.weight_shape()));
    }
    let threshold = match pattern {
        Pattern::Unstructured(share) => {
            let mut all: Vec<f64> = scored.iter().flat_map(|(_, scores, _)| scores).copied().collect();
            let count = (share.clamp(0.0, 1.0) * all.len() as f64) as usize;
            if count == 0 {
                return model.clone();
            }
            *all.select_nth_unstable_by(count - 1, f64::total_cmp).1
        }
        Pattern::TwoOfFour => 0.0,
    };
    let mut sparse = model.clone();
    for (key, scores, [_, c_in, k, _]) in scored {
        let Some(tensor) = sparse.weights.get_mut(&key) else { continue };
        match pattern {
            Pattern::Unstructured(_) => {
                let zeroed = tensor.data_mut().iter_mut().zip(&scores).filter(|(_, score)| **score <= threshold);
                zeroed.for_each(|(weight, _)| *weight = 0.0);
            }
            Pattern::TwoOfFour if c_in % 4 == 0 => {
                let taps = k * k;
                for row in 0..scores.len() / (c_in * taps) {
                    for (four, tap) in (0..c_in / 4).flat_map(|four| (0..taps).map(move |tap| (four, tap))) {
                        let mut at: Vec<usize> = (0..4).map(|i| (row * c_in + 4 * four + i) * taps + tap).collect();
                        at.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
                        at[..2].iter().for_each(|i| tensor.data_mut()[*i] = 0.0);
                    }
                }
            }
            Pattern::TwoOfFour => {}
        }
    }
    sparse
}
