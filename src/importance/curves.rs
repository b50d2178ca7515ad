//! Loss increase when one group alone is pruned to a width: measured, not predicted.
//!
//! A group is pruned, the convolutions that read it are refitted by least squares (as the repair will do), and
//! the outputs are compared with those of the baseline network on calibration images (KL divergence). Between the
//! measured widths the loss is interpolated as a power of how many channels are removed for each that is kept: measured on
//! YOLO11n and two datasets, that power is close to one (half of all groups within 0.8 and 1.3).

use super::covariances::Covariances;
use super::error::ImportanceError;
use super::ranking::Ranking;
use super::suffix::Suffix;
use crate::engine::Device;
use crate::graph::{NodeId, Op};
use crate::group::{Group, Groups};
use crate::model::Model;
use crate::quantise::{Images, kl_divergence, outputs, outputs_from};
use crate::ranks::Ranks;
use crate::repair::{Calibration, Walk, apply};
use crate::surgery::{Selection, cut};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Which widths are measured.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// Kept shares of a group's width, descending.
    pub shares: Vec<f64>,
    /// Widths are multiples of this where the group is wider.
    pub grid: usize,
    /// Number of calibration images the outputs are compared on.
    pub images: usize,
    /// What runs the networks that are compared. The baseline network's way to the layers of a group is the CPU's.
    pub device: Device,
}

/// Measured loss over width, for every group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossCurves(pub Vec<BTreeMap<usize, f64>>);

impl LossCurves {
    /// The loss of a group at a width: between measured ones a power of [`odds`], beyond them in proportion to these.
    pub fn loss(&self, group: usize, width: usize, full: usize) -> f64 {
        let curve = &self.0[group];
        if width >= full {
            return 0.0;
        }
        let at = odds(width, full);
        let wider = curve.range(width..full).next();
        let narrower = curve.range(..=width).next_back();
        match (wider, narrower) {
            (Some((w, loss)), _) if *w == width => *loss,
            (Some((w0, l0)), Some((w1, l1))) => {
                let (o0, o1) = (odds(*w0, full), odds(*w1, full));
                let (l0, l1) = (l0.max(1e-12), l1.max(1e-12));
                l0 * (at / o0).powf((l1 / l0).ln() / (o1 / o0).ln())
            }
            (Some((w, loss)), None) | (None, Some((w, loss))) => loss * at / odds(*w, full),
            (None, None) => 0.0,
        }
    }
}

/// How many channels are removed for each that is kept, of `full` at a width below that. Half a channel more is kept, so
/// that none is no infinity.
fn odds(width: usize, full: usize) -> f64 {
    (full - width) as f64 / (width as f64 + 0.5)
}

/// Measures every group at the sampled widths.
///
/// What a group does not change is computed once: the baseline network walks through the images layer by layer, and as
/// soon as all that a group's layers read is there, the rest of the network ([`Suffix`]) runs from these tensors on,
/// for every width. It holds the tensors that live at one time for [`Sampling::images`] images.
///
/// The calibration's ranks share the widths of all groups: each walks through all images, and all have all losses.
/// `progress` gets how many networks this rank has run, and how many are its own.
///
/// # Errors
/// If a network cannot be pruned or run, or a rank cannot be reached.
pub fn measure(
    model: &Model,
    groups: &Groups,
    ranking: &Ranking,
    covariances: &Covariances,
    calibration: &Calibration,
    sampling: &Sampling,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<LossCurves, ImportanceError> {
    // Spread over all of them: neighbours may be mirror images of each other.
    let apart = calibration.images.len() / sampling.images.max(1);
    let images = calibration.images.iter().step_by(apart.max(1)).take(sampling.images).cloned().collect::<Vec<_>>();
    let size = (calibration.height, calibration.width);
    let suffixes: Vec<Suffix> = (0..groups.groups.len()).map(|group| Suffix::of(&model.graph, groups, group)).collect();
    let every = Calibration { images: &images, ranks: Ranks::default(), ..calibration.clone() };
    let mut walk = Walk::new(&model.graph, &every);
    for suffix in &suffixes {
        suffix.given.iter().for_each(|id| walk.hold(*id, suffix.ready()));
    }
    let reference = outputs(model, &Images { images: &images, size, device: sampling.device })?;
    let (ridge, reference, device) = (calibration.ridge, &reference[..], sampling.device);
    let trial = Trial { model, groups, ranking, covariances, ridge, reference, size, device };
    // The units of work in the order in which the walk comes by.
    let ranks = &calibration.ranks;
    let ready = |group: usize| suffixes[group].ready();
    let mut order: Vec<usize> = (0..suffixes.len()).collect();
    order.sort_by_key(|group| ready(*group));
    let widths = |group: usize| sampling.widths(&groups.groups[group]).into_iter().map(move |width| (group, width));
    let units: Vec<(usize, usize)> = order.into_iter().flat_map(widths).collect();
    let mine: Vec<(usize, usize)> = ranks.mine(units.len()).map(|unit| units[unit]).collect();
    let (mut losses, mut rest) = (Vec::with_capacity(mine.len()), &mine[..]);
    let last = mine.last().map(|(group, _)| ready(*group));
    for id in model.graph.ids().take_while(|id| Some(*id) <= last) {
        walk.step(model, id)?;
        let (here, later) = rest.split_at(rest.partition_point(|(group, _)| ready(*group) <= id));
        rest = later;
        for widths in here.chunk_by(|a, b| a.0 == b.0) {
            let loss = |unit: &(usize, usize)| trial.loss(&walk, &suffixes[unit.0], *unit);
            for loss in widths.par_iter().map(loss).collect::<Result<Vec<f64>, ImportanceError>>()? {
                losses.push(loss);
                progress(losses.len(), mine.len());
            }
        }
    }
    let mut curves = LossCurves(vec![BTreeMap::new(); groups.groups.len()]);
    for ((group, width), loss) in units.iter().zip(ranks.units_f64(&losses)?) {
        curves.0[*group].insert(*width, loss);
    }
    Ok(curves)
}

/// One group pruned at a time, and compared with the baseline network.
struct Trial<'a> {
    model: &'a Model,
    groups: &'a Groups,
    ranking: &'a Ranking,
    covariances: &'a Covariances,
    ridge: f64,
    /// By image the outputs of the baseline network.
    reference: &'a [Vec<Vec<f32>>],
    size: (usize, usize),
    device: Device,
}

impl Trial<'_> {
    /// The loss of a group at a width, where the walk holds all that its suffix is given.
    fn loss(&self, walk: &Walk, suffix: &Suffix, (group, width): (usize, usize)) -> Result<f64, ImportanceError> {
        let Self { model, groups, reference, size, .. } = *self;
        let mut selection = Selection::all(groups);
        selection.0[group] = self.ranking.keep(group, width);
        let mut smaller = cut(model, groups, &selection)?;
        refit(model, &mut smaller, groups, &selection, group, self.covariances, self.ridge);
        // A layer that only a removed group read is not there any more.
        let partner = |id: &NodeId| Some((smaller.graph.find(&model.graph.node(*id).name)?, walk.inputs(*id).images));
        let (given, tensors): (Vec<NodeId>, Vec<&[Vec<f32>]>) = suffix.given.iter().filter_map(partner).unzip();
        smaller.graph.outputs = suffix.outputs.iter().map(|at| smaller.graph.outputs[*at]).collect();
        let input = |image: usize| match tensors[..] {
            [one] => Cow::Borrowed(&one[image][..]),
            _ => Cow::Owned(tensors.iter().map(|of| &of[image][..]).collect::<Vec<_>>().concat()),
        };
        let found = outputs_from(&smaller, (self.device, &given), reference.len(), size, &input)?;
        let loss = |(reference, found): (&Vec<Vec<f32>>, Vec<Vec<f32>>)| {
            let mut all = reference.clone();
            suffix.outputs.iter().zip(found).for_each(|(at, output)| all[*at] = output);
            kl_divergence(&model.graph.head, size, reference, &all)
        };
        // The order of the sum does not depend on the threads.
        let losses: Vec<f64> = reference.par_iter().zip(found).map(loss).collect();
        Ok(losses.iter().sum::<f64>() / reference.len().max(1) as f64)
    }
}

impl Sampling {
    /// Shares of a group's width at which a job measures its loss.
    pub const SHARES: [f64; 2] = [0.75, 0.25];

    /// Images that a job compares outputs on for these losses.
    pub const IMAGES: usize = 16;

    /// As a job measures on the CPU, widths on a grid.
    pub fn of_job(grid: usize) -> Self {
        Self { shares: Self::SHARES.to_vec(), grid, images: Self::IMAGES, device: Device::Cpu }
    }

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
    let mut removed = vec![false; groups.group_of.len()];
    let atoms = &groups.groups[group].atoms;
    atoms.iter().for_each(|a| removed[a.index()] = true);
    selection.0[group].iter().for_each(|p| removed[atoms[*p].index()] = false);
    for consumer in &groups.groups[group].consumers {
        // A layer that read nothing else was removed with the group.
        let Some(partner) = smaller.graph.find(&model.graph.node(*consumer).name) else { continue };
        let (Op::Conv(conv), Op::Conv(pruned_conv)) =
            (&model.graph.node(*consumer).op, &smaller.graph.node(partner).op)
        else {
            continue;
        };
        let input = model.graph.node(*consumer).inputs[0];
        let of_input = &groups.channels[input.index()];
        let columns: Vec<usize> = (0..of_input.len()).filter(|c| !removed[of_input[*c].index()]).collect();
        let out = &groups.channels[consumer.index()];
        let rows: Vec<usize> = (0..out.len()).filter(|c| !removed[out[*c].index()]).collect();
        let kernel = model.tensor(&conv.weight).select(0, &rows);
        let fit = covariances.get(&consumer.0).and_then(|covariance| covariance.compensate(&kernel, &columns, ridge));
        let pruned_conv = pruned_conv.clone();
        // Without a solution the weights stay as surgery left them: a worse figure, never a wrong one.
        if let Some(fit) = fit {
            apply(smaller, &pruned_conv, &fit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_go_through_what_was_measured_and_beyond_it_with_the_odds() {
        let curves =
            LossCurves(vec![BTreeMap::from([(48, 0.1), (16, 0.9)]), BTreeMap::new(), BTreeMap::from([(0, 2.0)])]);
        let loss = |width| curves.loss(0, width, 64);
        assert_eq!((loss(64), loss(48), loss(16), curves.loss(1, 3, 8)), (0.0, 0.1, 0.9, 0.0));
        // Between them a power of the odds, that is a straight line of logarithms.
        let power = (0.9f64 / 0.1).ln() / (odds(16, 64) / odds(48, 64)).ln();
        assert!((loss(32) - 0.1 * (odds(32, 64) / odds(48, 64)).powf(power)).abs() < 1e-12);
        // Beyond them in proportion: the widest less one costs what one of 64 is, none at all is no infinity.
        assert!((loss(63) - 0.1 * odds(63, 64) / odds(48, 64)).abs() < 1e-12);
        assert!(loss(0) > loss(8) && loss(0).is_finite() && (1..64).all(|width| loss(width) <= loss(width - 1)));
        assert_eq!(curves.loss(2, 0, 8), 2.0);
        assert!(curves.loss(2, 1, 8) < 1.0);
    }
}
