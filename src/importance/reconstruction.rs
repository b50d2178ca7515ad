//! Ranks channels by the error that their removal leaves in the layers that read them, after refitting.
//!
//! Removing a channel from the input of a linear layer and refitting the remaining weights by least squares raises the
//! squared error of its output by `w_c (H^-1_cc)^-1 w_c^T`, where `H` is the second moment of the inputs (Optimal Brain
//! Surgeon, Hassibi & Stork 1992; in blocks of a channel, Kurtic et al., "ZipLM", NeurIPS 2023). Channels are
//! removed one after the other, each step seeing the refitted weights of the step before. Errors of different outputs
//! and layers are made comparable by the scale of the batch normalisation behind them and, where it is known, by how
//! much the network's outputs depend on them.

use super::covariances::Covariances;
use super::greedy;
use crate::graph::{Conv, NodeId, Op};
use crate::group::{Group, Groups};
use crate::model::Model;
use crate::repair::{Covariance, Sensitivity};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// One layer that reads the group, while channels are removed.
///
/// The inverse is never updated as a whole. What a removal subtracts from it is the product of a strip with its own
/// transpose, so that the strips together are a pivoted Cholesky factor: a step reads the columns of one channel, and
/// costs look at the blocks on the diagonal, which are kept up to date.
struct Reader {
    /// `[d, d]` inverse second moment of the inputs, before any removal.
    inverse: Mat<f64>,
    /// Columns `[d]` whose outer products the removals subtract from the inverse.
    strips: Vec<f64>,
    /// `[m, d]` weights, each output scaled to comparable units.
    weights: Mat<f64>,
    /// For every position of the group the columns of its channel in this layer's input.
    columns: Vec<Vec<usize>>,
    /// For every position the block of the inverse at its columns.
    blocks: Vec<Vec<f64>>,
}

impl Reader {
    fn new(
        model: &Model,
        groups: &Groups,
        group: &Group,
        (conv, scales): (&Conv, &[f64]),
        input: usize,
        covariance: &Covariance,
        ridge: f64,
    ) -> Option<Self> {
        let taps = conv.kernel * conv.kernel;
        let d = conv.c_in * taps;
        let kernel = model.tensor(&conv.weight).data();
        let weights = Mat::from_fn(conv.c_out, d, |j, i| f64::from(kernel[j * d + i]) * scales[j]);
        let mut at = BTreeMap::<_, Vec<usize>>::new();
        for (channel, atom) in groups.channels[input].iter().enumerate() {
            at.entry(*atom).or_default().extend(channel * taps..(channel + 1) * taps);
        }
        let columns: Vec<Vec<usize>> = group.atoms.iter().map(|atom| at.remove(atom).unwrap_or_default()).collect();
        let inverse = covariance.inverse(ridge)?;
        let block = |own: &Vec<usize>| own.iter().flat_map(|i| own.iter().map(|j| inverse[(*i, *j)])).collect();
        let blocks = columns.iter().map(block).collect();
        Some(Self { inverse, strips: Vec::new(), weights, columns, blocks })
    }

    /// The factor of a position's block, and the weights of its columns solved by it; none where it has no factor.
    fn solved(&self, position: usize) -> Option<(Vec<f64>, Vec<Vec<f64>>)> {
        let columns = &self.columns[position];
        let factor = cholesky(&self.blocks[position], columns.len())?;
        let rows = columns.iter().map(|column| self.weights.col_as_slice(*column).to_vec()).collect();
        let solved = forward(&factor, rows);
        Some((factor, solved))
    }

    /// Error of the outputs when the channel at a position is removed now.
    fn cost(&self, position: usize) -> f64 {
        let Some((_, rows)) = self.solved(position) else { return f64::INFINITY };
        rows.iter().map(|row| row.iter().map(|v| v * v).sum::<f64>()).sum()
    }

    /// Takes the channel out and refits what is left. `left` are the other positions that are still there.
    fn remove(&mut self, position: usize, left: &[Vec<usize>]) {
        let Some((factor, rows)) = self.solved(position) else { return };
        let (d, own) = (self.inverse.nrows(), &self.columns[position]);
        let width = own.len();
        if width == 0 {
            return;
        }
        // The channel's columns of the inverse as it is now.
        let mut now = Mat::from_fn(d, width, |i, j| self.inverse[(i, own[j])]);
        if !self.strips.is_empty() {
            let strips = MatRef::from_column_major_slice(&self.strips, d, self.strips.len() / d);
            let mine = Mat::from_fn(strips.ncols(), width, |i, j| strips[(own[j], i)]);
            matmul(now.as_mut(), Accum::Add, strips, mine.as_ref(), -1.0, Par::Seq);
        }
        let strip = forward(&factor, (0..width).map(|j| now.col_as_slice(j).to_vec()).collect());
        let steps = Mat::from_fn(self.weights.nrows(), width, |i, j| rows[j][i]);
        let along = Mat::from_fn(width, d, |i, j| strip[i][j]);
        matmul(self.weights.as_mut(), Accum::Add, steps.as_ref(), along.as_ref(), -1.0, Par::Seq);
        for position in left.iter().flatten() {
            let columns = &self.columns[*position];
            let block = &mut self.blocks[*position];
            for (at, (i, j)) in columns.iter().flat_map(|i| columns.iter().map(move |j| (i, j))).enumerate() {
                block[at] -= strip.iter().map(|strip| strip[*i] * strip[*j]).sum::<f64>();
            }
        }
        strip.iter().for_each(|strip| self.strips.extend(strip));
    }
}

/// The lower Cholesky factor of a symmetric matrix `[n, n]`, row after row; none where it is not positive definite.
fn cholesky(matrix: &[f64], n: usize) -> Option<Vec<f64>> {
    let mut factor = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| factor[i * n + k] * factor[j * n + k]).sum();
            let rest = matrix[i * n + j] - known;
            factor[i * n + j] = match i == j {
                true if rest > 0.0 => rest.sqrt(),
                true => return None,
                false => rest / factor[j * n + j],
            };
        }
    }
    Some(factor)
}

/// Solves `factor x = rows` for a lower factor.
fn forward(factor: &[f64], mut rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = rows.len();
    for i in 0..n {
        let (solved, rest) = rows.split_at_mut(i);
        let row = &mut rest[0];
        for (k, solved) in solved.iter().enumerate() {
            let factor = factor[i * n + k];
            row.iter_mut().zip(solved).for_each(|(v, s)| *v -= factor * s);
        }
        let pivot = factor[i * n + i];
        row.iter_mut().for_each(|v| *v /= pivot);
    }
    rows
}

/// Factor of every output from the convolution to the activation.
pub(super) fn scales(model: &Model, conv: &Conv) -> Vec<f64> {
    let Some(norm) = &conv.norm else { return vec![1.0; conv.c_out] };
    let [scale, _, _, var] = norm.keys().map(|key| model.tensor(&key).data());
    scale.iter().zip(var).map(|(g, v)| f64::from(g.abs()) / f64::from(v + norm.eps).sqrt()).collect()
}

/// What the criterion reads besides the weights.
#[derive(Clone, Copy)]
pub(super) struct Basis<'a> {
    pub covariances: &'a Covariances,
    pub ridge: f64,
    pub sensitivity: Option<&'a Sensitivity>,
}

/// The order in which the channels of a group are removed, and a score for every channel by its position: the error
/// that its removal adds after those before it, never less than that of one removed earlier.
pub(super) struct Order {
    pub order: Vec<usize>,
    pub scores: Vec<f64>,
}

impl Basis<'_> {
    /// Takes the channels of a group out one after the other. Where no dense layer reads them, those go first whose own
    /// variance counts least.
    pub(super) fn order(&self, model: &Model, groups: &Groups, group: &Group) -> Order {
        let reader = |id: &NodeId| {
            let node = model.graph.node(*id);
            let Op::Conv(conv) = &node.op else { return None };
            let (input, covariance) = (node.inputs[0].index(), self.covariances.get(&id.0)?);
            Reader::new(model, groups, group, (conv, &self.scales(model, *id, conv)), input, covariance, self.ridge)
        };
        let mut readers: Vec<Reader> = group.consumers.iter().filter_map(reader).collect();
        if readers.is_empty() {
            let scores = self.variances(model, groups, group);
            return Order { order: greedy::order(&scores, group.heads), scores };
        }
        let size = group.width() / group.heads;
        let mut left: Vec<Vec<usize>> = (0..group.heads).map(|h| (h * size..(h + 1) * size).collect()).collect();
        let mut found = Order { order: Vec::with_capacity(group.width()), scores: vec![0.0; group.width()] };
        let mut most = 0.0f64;
        for _ in 0..size {
            for head in 0..left.len() {
                let cost = |position: &usize| readers.iter().map(|reader| reader.cost(*position)).sum::<f64>();
                let costs: Vec<f64> = left[head].par_iter().map(cost).collect();
                let least = costs.into_iter().enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
                let Some((at, cost)) = least else { continue };
                let position = left[head].remove(at);
                readers.par_iter_mut().for_each(|reader| reader.remove(position, &left));
                most = most.max(cost);
                found.scores[position] = most;
                found.order.push(position);
            }
        }
        found
    }

    /// Factor of every output of a layer to units in which errors of different layers can be compared.
    fn scales(&self, model: &Model, id: NodeId, conv: &Conv) -> Vec<f64> {
        let mut scales = scales(model, conv);
        let energies = self.sensitivity.and_then(|e| e.channels.get(&id.0)).filter(|c| c.len() == conv.c_out);
        scales.iter_mut().zip(energies.into_iter().flatten()).for_each(|(scale, energy)| *scale *= energy.sqrt());
        scales
    }

    /// The variance of what every channel says, added up over the layers that make it, in the units of errors.
    fn variances(&self, model: &Model, groups: &Groups, group: &Group) -> Vec<f64> {
        let mut scores = vec![0.0; group.width()];
        for id in &group.producers {
            let Op::Conv(conv) = &model.graph.node(*id).op else { continue };
            let Some(covariance) = self.covariances.get(&id.0) else { continue };
            let kernel = model.tensor(&conv.weight).data();
            let rows = kernel.chunks(kernel.len() / conv.c_out.max(1));
            let scaled =
                rows.zip(self.scales(model, *id, conv)).map(|(row, scale)| covariance.spread(row) * scale * scale);
            for (atom, score) in groups.channels[id.index()].iter().zip(scaled) {
                if let Ok(position) = group.atoms.binary_search(atom) {
                    scores[position] += score;
                }
            }
        }
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use faer::Side;
    use faer::linalg::solvers::DenseSolveCore;
    use faer::prelude::Solve;

    #[test]
    fn the_costs_of_removals_add_up_to_the_error_without_all_of_them() {
        let (d, m) = (14, 5);
        let value = |i: usize, j: usize| ((i * 37 + j * 101 + 17 * i * j) % 97) as f64 / 48.5 - 1.0;
        let samples = Mat::from_fn(60, d, value);
        let moment = Mat::from_fn(d, d, |i, j| f64::from(u8::from(i == j)) * 0.5) + samples.transpose() * &samples;
        let inverse = moment.llt(Side::Lower).unwrap().inverse();
        let weights = Mat::from_fn(m, d, |j, i| value(j + 3, i + 5));
        // Channels of two, three and no columns.
        let columns: Vec<Vec<usize>> = vec![vec![0, 1], vec![2, 3, 4], vec![], vec![5, 9], vec![6, 7], vec![8, 13]];
        let block = |own: &Vec<usize>| own.iter().flat_map(|i| own.iter().map(|j| inverse[(*i, *j)])).collect();
        let blocks = columns.iter().map(block).collect();
        let mut reader =
            Reader { inverse: inverse.clone(), strips: Vec::new(), weights: weights.clone(), columns, blocks };
        let mut left: Vec<usize> = (0..reader.columns.len()).collect();
        let (mut gone, mut total) = (Vec::new(), 0.0);
        for position in [3, 0, 2, 5, 1] {
            left.retain(|other| *other != position);
            total += reader.cost(position);
            reader.remove(position, &[left.clone()]);
            gone.extend(reader.columns[position].clone());
            // Optimal Brain Surgeon for all of them at once.
            let own = Mat::from_fn(gone.len(), gone.len(), |i, j| inverse[(gone[i], gone[j])]);
            let rows = Mat::from_fn(gone.len(), m, |i, j| weights[(j, gone[i])]);
            let solved = own.llt(Side::Lower).unwrap().solve(&rows);
            let error: f64 = (0..m).map(|j| (0..gone.len()).map(|i| rows[(i, j)] * solved[(i, j)]).sum::<f64>()).sum();
            assert!((total / error - 1.0).abs() < 1e-9, "without {gone:?}: {total}, expected {error}");
        }
        // What is not positive definite cannot be removed, and costs more than anything.
        reader.blocks[4][0] = -1.0;
        assert_eq!(reader.cost(4), f64::INFINITY);
    }
}
