//! The importance criteria that a profile or a flag may choose. What they compute is in `importance`.

use serde::{Deserialize, Serialize};

/// How channels are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Criterion {
    /// Error that is left in the layers that read a channel after they were refitted without it; channels are removed one
    /// after the other (Optimal Brain Surgeon in blocks; Kurtic et al., "ZipLM", NeurIPS 2023). Channels that no such layer
    /// reads (queries and keys) count by their own variance, in the same units.
    #[default]
    Reconstruction,
    /// Squared per-image loss gradients of channel masks, with the interaction inside a group; channels are
    /// removed one after the other (Liu et al., "Group Fisher Pruning", ICML 2021).
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

    /// The names alone, in the same order.
    pub const NAMES: [&'static str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::ALL[at].0;
            at += 1;
        }
        names
    };

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

    /// Whether it reads the input covariances of the layers.
    pub fn needs_moments(self) -> bool {
        self == Self::Reconstruction
    }
}
