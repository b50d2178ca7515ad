//! How much is lost when one group alone is cut to a width: measured, not predicted.
//!
//! A group is cut, the convolutions that read it are refitted by least squares (as the repair will do), and
//! the outputs are compared with those of the baseline network on calibration images. Between the measured
//! widths the loss is interpolated on logarithmic scales.

use super::Ranking;
use crate::engine::{Engine, EngineError, Options};
use crate::graph::{Boxes, Head, Op};
use crate::group::{Group, Groups};
use crate::model::Model;
use crate::repair::{Calibration, Covariance, Walk, apply};
use crate::surgery::{Selection, SurgeryError, cut};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// A measurement that failed.
#[derive(Debug, Error)]
pub enum DamageError {
    /// A network could not be run.
    #[error("importance: {0}")]
    Engine(#[from] EngineError),
    /// A group could not be cut.
    #[error("importance: {0}")]
    Surgery(#[from] SurgeryError),
}

/// Which widths are measured.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Kept shares of a group's width, descending.
    pub shares: Vec<f64>,
    /// Widths are multiples of this where the group is wider.
    pub grid: usize,
    /// Number of calibration images the outputs are compared on.
    pub images: usize,
}

/// Measured loss over width, for every group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossCurves(pub Vec<BTreeMap<usize, f64>>);

impl LossCurves {
    /// The loss of a group at a width, between measured points by a power law in the number of removed channels.
    pub fn loss(&self, group: usize, width: usize, full: usize) -> f64 {
        let curve = &self.0[group];
        if width >= full {
            return 0.0;
        }
        let removed = |w: usize| (full - w) as f64;
        let at = removed(width);
        // Neighbours by number of removed channels: fewer (wider) and more (narrower).
        let wider = curve.range(width..full).next();
        let narrower = curve.range(..=width).next_back();
        let power = |(w, l): (usize, f64), exponent: f64| l * (at / removed(w)).powf(exponent);
        match (wider, narrower) {
            (Some((w, l)), _) if *w == width => *l,
            (Some((w0, l0)), Some((w1, l1))) => {
                let (l0, l1) = (l0.max(1e-12), l1.max(1e-12));
                let slope = (l1 / l0).ln() / (removed(*w1) / removed(*w0)).ln();
                power((*w0, l0), slope)
            }
            (None, Some((w, l))) => power((*w, *l), 1.5),
            (Some((w, l)), None) => power((*w, *l), 2.0),
            (None, None) => 0.0,
        }
    }
}

/// Measures every group at the sampled widths.
///
/// # Errors
/// If a network cannot be cut or run.
pub fn measure(
    model: &Model,
    groups: &Groups,
    ranking: &Ranking,
    covariances: &Covariances,
    calibration: &Calibration,
    sampling: &Sampling,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<LossCurves, DamageError> {
    // Spread over all of them: neighbours may be mirror images of each other.
    let apart = calibration.images.len() / sampling.images.max(1);
    let images = calibration.images.iter().step_by(apart.max(1)).take(sampling.images).cloned().collect::<Vec<_>>();
    let images = &images[..];
    let size = (calibration.height, calibration.width);
    let reference = outputs(model, images, size)?;
    let all = groups.groups.iter().enumerate();
    let jobs: Vec<(usize, usize)> =
        all.flat_map(|(id, group)| sampling.widths(group).into_iter().map(move |width| (id, width))).collect();
    let mut curves = LossCurves(vec![BTreeMap::new(); groups.groups.len()]);
    for (done, (group, width)) in jobs.iter().enumerate() {
        let mut selection = Selection::all(groups);
        selection.0[*group] = ranking.keep(*group, *width);
        let mut smaller = cut(model, groups, &selection)?;
        refit(model, &mut smaller, groups, &selection, *group, covariances, calibration.ridge);
        let found = outputs(&smaller, images, size)?;
        let loss = reference.iter().zip(&found).map(|(a, b)| divergence(&model.graph.head, a, b)).sum::<f64>();
        curves.0[*group].insert(*width, loss / images.len().max(1) as f64);
        progress(done + 1, jobs.len());
    }
    Ok(curves)
}

impl Sampling {
    /// The sampled widths of a group, descending: on the grid, legal for its heads, narrower than the whole.
    pub fn widths(&self, group: &Group) -> Vec<usize> {
        let unit = if group.width() > self.grid { self.grid.max(1) } else { 1 };
        let unit = unit.next_multiple_of(group.heads);
        let mut widths: Vec<usize> =
            self.shares.iter().map(|s| ((s * group.width() as f64) as usize / unit * unit).max(unit)).collect();
        widths.retain(|w| *w < group.width());
        widths.extend(group.removable.then_some(0));
        widths.dedup();
        widths
    }
}

/// Refits the dense convolutions that read the group.
fn refit(
    model: &Model,
    smaller: &mut Model,
    groups: &Groups,
    selection: &Selection,
    group: usize,
    covariances: &Covariances,
    ridge: f64,
) {
    let mut gone = vec![false; groups.group_of.len()];
    let atoms = &groups.groups[group].atoms;
    atoms.iter().for_each(|a| gone[a.index()] = true);
    selection.0[group].iter().for_each(|p| gone[atoms[*p].index()] = false);
    for consumer in &groups.groups[group].consumers {
        // A layer that read nothing else vanished with the group.
        let Some(partner) = smaller.graph.find(&model.graph.node(*consumer).name) else { continue };
        let (Op::Conv(conv), Op::Conv(cut_conv)) = (&model.graph.node(*consumer).op, &smaller.graph.node(partner).op)
        else {
            continue;
        };
        let input = model.graph.node(*consumer).inputs[0];
        let of_input = &groups.channels[input.index()];
        let columns: Vec<usize> = (0..of_input.len()).filter(|c| !gone[of_input[*c].index()]).collect();
        let out = &groups.channels[consumer.index()];
        let rows: Vec<usize> = (0..out.len()).filter(|c| !gone[out[*c].index()]).collect();
        let kernel = model.tensor(&conv.weight).select(0, &rows);
        let fit = covariances.get(&consumer.0).and_then(|covariance| covariance.compensate(&kernel, &columns, ridge));
        let cut_conv = cut_conv.clone();
        // Without a solution the plain cut stands: a worse figure, never a wrong one.
        if let Some(fit) = fit {
            apply(smaller, &cut_conv, &fit);
        }
    }
}

/// Second moments of the inputs of every dense convolution, by node number.
pub type Covariances = BTreeMap<u32, Covariance>;

/// Collects the moments over the calibration images.
///
/// # Errors
/// If a layer cannot be run.
pub fn covariances(model: &Model, calibration: &Calibration) -> Result<Covariances, EngineError> {
    let mut walk = Walk::new(&model.graph, calibration);
    let mut covariances = BTreeMap::new();
    for id in model.graph.ids() {
        let node = model.graph.node(id);
        if let Op::Conv(conv) = &node.op
            && !conv.is_depthwise()
        {
            let seed = calibration.seed ^ u64::from(id.0);
            covariances.insert(
                id.0,
                Covariance::of(conv, walk.inputs(node.inputs[0]), seed, calibration.position_weights(id)),
            );
        }
        walk.step(model, id)?;
    }
    Ok(covariances)
}

/// All outputs of a model for every image.
///
/// # Errors
/// If the model cannot be run at this size.
pub fn outputs(
    model: &Model,
    images: &[Vec<f32>],
    (height, width): (usize, usize),
) -> Result<Vec<Vec<Vec<f32>>>, EngineError> {
    let share = images.len().div_ceil(rayon::current_num_threads().max(1)).max(1);
    let parts: Result<Vec<_>, EngineError> = images
        .par_chunks(share)
        .map(|part| {
            let mut engine = Engine::new(model, height, width, &Options { threads: 1, ..Options::default() })?;
            let all =
                |engine: &Engine| (0..model.graph.outputs.len()).map(|i| engine.output(i).to_vec()).collect::<Vec<_>>();
            part.iter().map(|image| engine.run(image).map(|()| all(&engine))).collect::<Result<Vec<_>, _>>()
        })
        .collect();
    Ok(parts?.into_iter().flatten().collect())
}

/// How far outputs are from those of a reference, in nats per confident prediction of the reference; 0 when equal.
///
/// Classes: the divergence of Bernoulli distributions, over all cells. Boxes: the divergence of the side distributions, weighted
/// with the reference's confidence in the cell; what other tasks add to the boxes does not count. A classifier: the
/// divergence of its class distributions.
pub fn divergence(head: &Head, reference: &[Vec<f32>], found: &[Vec<f32>]) -> f64 {
    match head.boxes() {
        None => softmax_divergence(reference[0].iter().copied(), found[0].iter().copied()),
        Some(Boxes { nc, reg_max, strides }) => {
            let (mut total, mut confidence) = (0.0, 0.0);
            for level in 0..strides.len() {
                let (boxes, classes) = (2 * level, 2 * level + 1);
                let area = reference[classes].len() / nc;
                for cell in 0..area {
                    let logits = |of: &[Vec<f32>], class: usize| f64::from(of[classes][class * area + cell]);
                    let best = (0..nc).map(|c| logits(reference, c)).fold(f64::MIN, f64::max);
                    total += (0..nc).map(|c| bernoulli_divergence(logits(reference, c), logits(found, c))).sum::<f64>();
                    let weight = 1.0 / (1.0 + (-best).exp());
                    confidence += weight;
                    if weight < 0.01 {
                        continue;
                    }
                    for side in 0..4 {
                        let (a, b) = (&reference[boxes], &found[boxes]);
                        let at = |bin: usize| (side * reg_max + bin) * area + cell;
                        let bins = 0..reg_max;
                        let sides = softmax_divergence(bins.clone().map(|i| a[at(i)]), bins.map(|i| b[at(i)]));
                        total += weight * sides / 4.0;
                    }
                }
            }
            total / confidence.max(1.0)
        }
    }
}

fn bernoulli_divergence(reference: f64, found: f64) -> f64 {
    // Below the threshold of any detection on both sides the difference cannot matter.
    if reference < -12.0 && found < -12.0 {
        return 0.0;
    }
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let p = 1.0 / (1.0 + (-reference).exp());
    ((softplus(found) - p * found) - (softplus(reference) - p * reference)).max(0.0)
}

fn softmax_divergence(reference: impl Iterator<Item = f32> + Clone, found: impl Iterator<Item = f32> + Clone) -> f64 {
    let log_total = |values: &mut dyn Iterator<Item = f32>| {
        let values: Vec<f64> = values.map(f64::from).collect();
        let top = values.iter().copied().fold(f64::MIN, f64::max);
        top + values.iter().map(|v| (v - top).exp()).sum::<f64>().ln()
    };
    let (a, b) = (log_total(&mut reference.clone()), log_total(&mut found.clone()));
    let term = |(r, f): (f32, f32)| {
        let (r, f) = (f64::from(r) - a, f64::from(f) - b);
        r.exp() * (r - f)
    };
    reference.zip(found).map(term).sum::<f64>().max(0.0)
}
