//! What a channel is worth: a [`Ranking`] orders the channels of every group from the first to go to the last.
//!
//! Criteria that read weights alone are in `weights`; those that need gradients of the loss in `gradients`.
//! How much loss a group costs at a given width is then *measured* (`curves`), so that groups can be compared with each
//! other whatever criterion ordered their channels.

mod activations;
mod check;
mod curves;
mod elements;
mod gradients;
mod greedy;
mod reconstruction;
mod sensitivity;
mod weights;

pub use activations::{Activations, activations};
pub use curves::{Covariances, DamageError, LossCurves, Sampling, covariances, divergence, measure, outputs};
pub use elements::{Pattern, sparsify};
pub use gradients::{MaskGradients, mask_gradients};
pub use sensitivity::sensitivity;

use crate::group::Groups;
use crate::model::Model;
use crate::repair::Sensitivity;
use crate::surgery::Selection;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How channels are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Error that is left in the layers that read a channel after they were refitted without it; channels go one after
    /// the other (Optimal Brain Surgeon in blocks; Kurtic et al., "ZipLM", NeurIPS 2023). Channels that no such layer
    /// reads (queries and keys) count by their own variance, in the same units.
    #[default]
    Reconstruction,
    /// Squared per-image loss gradients of channel masks, with the interaction inside a group; channels go
    /// one after the other (Liu et al., "Group Fisher Pruning", ICML 2021).
    Fisher,
    /// Absolute first-order change of the loss (Molchanov et al., "Importance Estimation for Neural
    /// Network Pruning", CVPR 2019).
    Taylor,
    /// Sum of absolute kernel weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017).
    L1,
    /// Euclidean norm of the kernel.
    L2,
    /// Absolute batch-norm scale (Liu et al., "Network Slimming", ICCV 2017); where a layer has none while others do, the
    /// norm of its kernel.
    BnScale,
    /// Distance to the other filters of the layer (He et al., "Filter Pruning via Geometric Median", CVPR 2019).
    Fpgm,
    /// Mean absolute activation over the calibration images (after Hu et al., "Network Trimming", 2016, who count
    /// activations that are not zero; SiLU has none that are).
    Activation,
    /// Squared norm of a filter over that of all filters of its layer that are not smaller (Lee et al., "Layer-adaptive
    /// Sparsity for the Magnitude-based Pruning", ICLR 2021, for filters).
    Lamp,
    /// A seeded shuffle: the baseline that every other criterion must beat.
    Random,
}

impl Criterion {
    /// Every criterion with the name users type.
    pub const ALL: [(&'static str, Self); 10] = [
        ("reconstruction", Self::Reconstruction),
        ("fisher", Self::Fisher),
        ("taylor", Self::Taylor),
        ("l1", Self::L1),
        ("l2", Self::L2),
        ("bn-scale", Self::BnScale),
        ("fpgm", Self::Fpgm),
        ("activation", Self::Activation),
        ("lamp", Self::Lamp),
        ("random", Self::Random),
    ];

    /// The criterion of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, c)| *c)
    }

    /// The name users type.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, c)| *c == self).map_or("", |(n, _)| *n)
    }

    /// Whether it reads the mask gradients.
    pub fn needs_gradients(self) -> bool {
        matches!(self, Self::Fisher | Self::Taylor)
    }

    /// Whether it reads the second moments of the layers' inputs.
    pub fn needs_moments(self) -> bool {
        self == Self::Reconstruction
    }
}

/// For every group the order in which its channels go, first to last. In groups spread over heads, the first
/// `k * heads` always take `k` from every head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranking(pub Vec<Vec<usize>>);

impl Ranking {
    /// The positions of a group that stay at a width, ascending.
    pub fn keep(&self, group: usize, width: usize) -> Vec<usize> {
        let order = &self.0[group];
        let mut kept = order[order.len() - width.min(order.len())..].to_vec();
        kept.sort_unstable();
        kept
    }

    /// The channels that stay at the given widths.
    pub fn select(&self, widths: &[usize]) -> Selection {
        Selection(widths.iter().enumerate().map(|(group, width)| self.keep(group, *width)).collect())
    }
}

/// What the criteria read besides the weights. A criterion whose part is missing is an error ([`Missing`]): none stands in
/// for another.
#[derive(Default)]
pub struct Statistics<'a> {
    /// For [`Criterion::Fisher`] and [`Criterion::Taylor`].
    pub gradients: Option<MaskGradients>,
    /// For [`Criterion::Reconstruction`], with the ridge of the repair.
    pub covariances: Option<(Covariances, f64)>,
    /// For [`Criterion::Reconstruction`]: how much the outputs depend on each channel; all count alike without it.
    pub sensitivity: Option<&'a Sensitivity>,
    /// For [`Criterion::Activation`].
    pub activations: Option<Activations>,
    /// For [`Criterion::Random`].
    pub seed: u64,
}

/// A criterion without what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("importance `{}` needs {what}", criterion.name())]
pub struct Missing {
    /// The criterion.
    pub criterion: Criterion,
    /// What is not there.
    pub what: &'static str,
}

/// The statistics that a criterion reads, whole.
enum Basis<'a> {
    Reconstruction(reconstruction::Basis<'a>),
    Fisher(&'a MaskGradients),
    Taylor(&'a MaskGradients),
    Activation(&'a Activations),
    Random(u64),
    Weights(Criterion),
}

impl<'a> Basis<'a> {
    fn of(criterion: Criterion, model: &Model, groups: &Groups, statistics: &'a Statistics) -> Result<Self, Missing> {
        let missing = |what| Missing { criterion, what };
        let gradients = statistics.gradients.as_ref().ok_or(missing("gradients of the loss"));
        Ok(match criterion {
            Criterion::Reconstruction => {
                let (covariances, ridge) =
                    statistics.covariances.as_ref().ok_or(missing("second moments of the layers' inputs"))?;
                let (ridge, sensitivity) = (*ridge, statistics.sensitivity);
                Self::Reconstruction(reconstruction::Basis { covariances, ridge, sensitivity })
            }
            Criterion::Fisher => Self::Fisher(gradients?),
            Criterion::Taylor => Self::Taylor(gradients?),
            Criterion::Activation => Self::Activation(statistics.activations.as_ref().ok_or(missing("activations"))?),
            Criterion::Random => Self::Random(statistics.seed),
            Criterion::BnScale if !weights::has_scales(model, groups) => {
                return Err(missing("a batch normalisation behind at least one layer that can be cut"));
            }
            Criterion::L1 | Criterion::L2 | Criterion::BnScale | Criterion::Fpgm | Criterion::Lamp => {
                Self::Weights(criterion)
            }
        })
    }

    /// A score for every channel of a group.
    fn scores(&self, model: &Model, groups: &Groups, id: usize) -> Vec<f64> {
        let group = &groups.groups[id];
        match self {
            Self::Reconstruction(basis) => basis.order(model, groups, group).scores,
            Self::Fisher(gradients) => gradients.fisher(group),
            Self::Taylor(gradients) => gradients.taylor(group),
            Self::Activation(activations) => activations.of_group(groups, group),
            Self::Random(seed) => weights::random(group.width(), seed ^ ((id as u64) << 32)),
            Self::Weights(criterion) => weights::scores(*criterion, model, groups, group),
        }
    }

    /// The order in which the channels of a group go.
    fn order(&self, model: &Model, groups: &Groups, id: usize) -> Vec<usize> {
        let group = &groups.groups[id];
        match self {
            Self::Reconstruction(basis) => basis.order(model, groups, group).order,
            Self::Fisher(gradients) => greedy::fisher_order(&gradients.of_group(group), group.heads),
            _ => greedy::order(&self.scores(model, groups, id), group.heads),
        }
    }
}

/// Ranks the channels of every group.
///
/// # Errors
/// If the statistics lacks what the criterion reads.
pub fn rank(criterion: Criterion, model: &Model, groups: &Groups, statistics: &Statistics) -> Result<Ranking, Missing> {
    let basis = Basis::of(criterion, model, groups, statistics)?;
    Ok(Ranking((0..groups.groups.len()).into_par_iter().map(|id| basis.order(model, groups, id)).collect()))
}

/// A score for every channel of every group, for one threshold over all of them: in units of the loss for `taylor`,
/// `fisher` (a sum over the channels tied together) and `reconstruction` (what its removal adds in its turn), by their
/// papers' own scale for `bn-scale` and `lamp`, and with a mean of one per group for the others, whose scales differ from
/// layer to layer.
///
/// # Errors
/// As [`rank`].
pub fn scores(
    criterion: Criterion,
    model: &Model,
    groups: &Groups,
    statistics: &Statistics,
) -> Result<Vec<Vec<f64>>, Missing> {
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
