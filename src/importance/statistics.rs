//! What the criteria read besides the weights, and the one place that turns a criterion into scores and an order.

use super::activations::Activations;
use super::covariances::Covariances;
use super::error::Missing;
use super::gradients::MaskGradients;
use super::weights::{self, Norm};
use super::{greedy, reconstruction};
use crate::group::Groups;
use crate::model::Model;
use crate::profile::Criterion;
use crate::ranks::Ranks;
use crate::repair::Sensitivity;

/// What the criteria read besides the weights. A criterion whose part is missing is an error ([`Missing`]): none stands
/// in for another.
#[derive(Default)]
pub struct Statistics<'a> {
    /// For [`Criterion::Fisher`] and [`Criterion::Taylor`].
    pub gradients: Option<MaskGradients>,
    /// For [`Criterion::Reconstruction`], with the ridge of the repair.
    pub covariances: Option<(Covariances, f64)>,
    /// For [`Criterion::Reconstruction`]: how much the outputs depend on each channel; without it all channels have the
    /// same weight.
    pub sensitivity: Option<&'a Sensitivity>,
    /// For [`Criterion::Activation`].
    pub activations: Option<Activations>,
    /// For [`Criterion::Random`].
    pub seed: u64,
    /// The ranks that share the groups.
    pub ranks: Ranks,
}

/// A criterion together with all that it reads.
pub(super) enum Basis<'a> {
    Reconstruction(reconstruction::Basis<'a>),
    Fisher(&'a MaskGradients),
    Taylor(&'a MaskGradients),
    Activation(&'a Activations),
    Random(u64),
    Weights(Norm),
}

impl<'a> Basis<'a> {
    pub fn of(
        criterion: Criterion,
        model: &Model,
        groups: &Groups,
        statistics: &'a Statistics,
    ) -> Result<Self, Missing> {
        let missing = |what| Missing { criterion, what };
        let gradients = statistics.gradients.as_ref().ok_or(missing("gradients of the loss"));
        Ok(match criterion {
            Criterion::Reconstruction => {
                let (covariances, ridge) = statistics
                    .covariances
                    .as_ref()
                    .ok_or(missing("input covariances (second moments of the layers' inputs)"))?;
                let (ridge, sensitivity) = (*ridge, statistics.sensitivity);
                Self::Reconstruction(reconstruction::Basis { covariances, ridge, sensitivity })
            }
            Criterion::Fisher => Self::Fisher(gradients?),
            Criterion::Taylor => Self::Taylor(gradients?),
            Criterion::Activation => Self::Activation(statistics.activations.as_ref().ok_or(missing("activations"))?),
            Criterion::Random => Self::Random(statistics.seed),
            Criterion::BnScale if !weights::has_scales(model, groups) => {
                return Err(missing("a batch normalisation behind at least one layer that can be pruned"));
            }
            Criterion::BnScale => Self::Weights(Norm::BnScale),
            Criterion::L1 => Self::Weights(Norm::L1),
            Criterion::L2 => Self::Weights(Norm::L2),
            Criterion::Fpgm => Self::Weights(Norm::Fpgm),
            Criterion::Lamp => Self::Weights(Norm::Lamp),
        })
    }

    /// A score for every channel of a group.
    pub fn scores(&self, model: &Model, groups: &Groups, id: usize) -> Vec<f64> {
        let group = &groups.groups[id];
        match self {
            Self::Reconstruction(basis) => basis.order(model, groups, group).scores,
            Self::Fisher(gradients) => gradients.fisher(group),
            Self::Taylor(gradients) => gradients.taylor(group),
            Self::Activation(activations) => activations.of_group(groups, group),
            Self::Random(seed) => weights::random(group.width(), seed ^ ((id as u64) << 32)),
            Self::Weights(norm) => weights::scores(*norm, model, groups, group),
        }
    }

    /// The order in which the channels of a group are removed.
    pub fn order(&self, model: &Model, groups: &Groups, id: usize) -> Vec<usize> {
        let group = &groups.groups[id];
        match self {
            Self::Reconstruction(basis) => basis.order(model, groups, group).order,
            Self::Fisher(gradients) => greedy::fisher_order(&gradients.of_group(group), group.heads),
            _ => greedy::order(&self.scores(model, groups, id), group.heads),
        }
    }
}
