//! Flags of the command line on top of a profile.

use super::{Mib, Millis, Profile, Ratio, Strategy};
use crate::graph::Dtype;
use std::path::PathBuf;

/// Values that replace those of a profile. A latency budget of either kind replaces both kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Replaces `[model] path`.
    pub model: Option<PathBuf>,
    /// Replaces `[data] path`.
    pub data: Option<PathBuf>,
    /// Replaces `[model] imgsz`, be it one or several.
    pub imgsz: Option<usize>,
    /// Replaces `[model] dtype`.
    pub dtype: Option<Dtype>,
    /// Replaces `[budget] latency-ms`.
    pub latency: Option<Millis>,
    /// Replaces `[budget] latency-ratio`.
    pub latency_ratio: Option<Ratio>,
    /// Replaces `[budget] memory-mib`.
    pub memory: Option<Mib>,
    /// Replaces `[budget] params`.
    pub params: Option<usize>,
    /// Replaces `[budget] file-mib`.
    pub file: Option<Mib>,
    /// Join `[budget] floors`, and replace those of the same classes.
    pub floors: Vec<(String, Ratio)>,
    /// Replaces `[finetune] epochs`.
    pub epochs: Option<usize>,
    /// Replaces `[search] strategy`.
    pub strategy: Option<Strategy>,
    /// Replaces `[search] importance`: one of [`IMPORTANCE`](super::IMPORTANCE).
    pub importance: Option<String>,
    /// Replaces `[search] calibration-images`.
    pub calibration_images: Option<usize>,
    /// Replaces `[device] threads`.
    pub threads: Option<usize>,
    /// Replaces `[search] seed`.
    pub seed: Option<u64>,
}

impl Overrides {
    /// The profile with these values in place of its own.
    pub fn apply(self, mut profile: Profile) -> Profile {
        if self.latency.is_some() || self.latency_ratio.is_some() {
            profile.budget.latency = self.latency;
            profile.budget.latency_ratio = self.latency_ratio;
        }
        profile.budget.memory = self.memory.or(profile.budget.memory);
        profile.budget.params = self.params.or(profile.budget.params);
        profile.budget.file = self.file.or(profile.budget.file);
        profile.budget.floors.extend(self.floors);
        profile.model.path = self.model.or(profile.model.path);
        if let Some(side) = self.imgsz {
            (profile.model.imgsz, profile.model.sizes) = (Some(side), vec![side]);
        }
        profile.model.dtype = self.dtype.unwrap_or(profile.model.dtype);
        profile.data = self.data.or(profile.data);
        profile.finetune.epochs = self.epochs.unwrap_or(profile.finetune.epochs);
        profile.search.strategy = self.strategy.unwrap_or(profile.search.strategy);
        profile.search.importance = self.importance.unwrap_or(profile.search.importance);
        profile.search.calibration_images = self.calibration_images.unwrap_or(profile.search.calibration_images);
        profile.search.seed = self.seed.unwrap_or(profile.search.seed);
        profile.device.threads = self.threads.unwrap_or(profile.device.threads);
        profile
    }
}
