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
use faer::linalg::solvers::Llt;
use faer::prelude::Solve;
use faer::{Accum, Mat, Par, Side};
use std::collections::BTreeMap;

/// One layer that reads the group, while channels are removed.
struct Reader {
    /// `[d, d]` inverse second moment of the inputs.
    inverse: Mat<f64>,
    /// `[d, m]` weights, each output scaled to comparable units.
    weights: Mat<f64>,
    /// For every position of the group the columns of its channel in this layer's input.
    columns: Vec<Vec<usize>>,
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
        let weights = Mat::from_fn(d, conv.c_out, |i, j| f64::from(kernel[j * d + i]) * scales[j]);
        let mut at = BTreeMap::<_, Vec<usize>>::new();
        for (channel, atom) in groups.channels[input].iter().enumerate() {
            at.entry(*atom).or_default().extend(channel * taps..(channel + 1) * taps);
        }
        let columns = group.atoms.iter().map(|atom| at.remove(atom).unwrap_or_default()).collect();
        Some(Self { inverse: covariance.inverse(ridge)?, weights, columns })
    }

    /// Error of the outputs when the channel at a position is removed now.
    fn cost(&self, position: usize) -> f64 {
        let columns = &self.columns[position];
        let Some(factor) = self.block(columns) else { return f64::INFINITY };
        let m = self.weights.ncols();
        let rows = Mat::from_fn(columns.len(), m, |i, j| self.weights[(columns[i], j)]);
        let solved = factor.solve(&rows);
        (0..m).map(|j| (0..columns.len()).map(|i| rows[(i, j)] * solved[(i, j)]).sum::<f64>()).sum()
    }

    fn block(&self, columns: &[usize]) -> Option<Llt<f64>> {
        Mat::from_fn(columns.len(), columns.len(), |i, j| self.inverse[(columns[i], columns[j])]).llt(Side::Lower).ok()
    }

    /// Takes the channel out and refits what is left.
    fn remove(&mut self, position: usize) {
        let columns = self.columns[position].clone();
        let Some(factor) = self.block(&columns) else { return };
        let (d, m) = (self.inverse.nrows(), self.weights.ncols());
        let strip = Mat::from_fn(columns.len(), d, |i, j| self.inverse[(columns[i], j)]);
        let rows = Mat::from_fn(columns.len(), m, |i, j| self.weights[(columns[i], j)]);
        let (step_w, step_h) = (factor.solve(&rows), factor.solve(&strip));
        matmul(self.weights.as_mut(), Accum::Add, strip.transpose(), step_w.as_ref(), -1.0, Par::Seq);
        matmul(self.inverse.as_mut(), Accum::Add, strip.transpose(), step_h.as_ref(), -1.0, Par::Seq);
        // Removed columns must not come back through rounding.
        for c in columns {
            for i in 0..d {
                (self.inverse[(c, i)], self.inverse[(i, c)]) = (0.0, 0.0);
            }
            self.inverse[(c, c)] = 1.0;
            (0..m).for_each(|j| self.weights[(c, j)] = 0.0);
        }
    }
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
            for head in &mut left {
                let cost = |position: &usize| readers.iter().map(|reader| reader.cost(*position)).sum::<f64>();
                let costs = head.iter().map(cost).enumerate();
                let Some((at, cost)) = costs.min_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
                let position = head.remove(at);
                readers.iter_mut().for_each(|reader| reader.remove(position));
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
