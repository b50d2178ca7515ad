//! Settings of a training, the progress it reports, and its errors.

use super::augment::Augment;
use super::distill::Distillation;
use super::loss::LossError;
use super::optim::Rule;
use super::schedule::Decay;
use crate::data::DataError;
use crate::model::{FileError, ModelError};
use crate::size::{ImageSize, MAX_SIDE};
use crate::vision::ImageError;
use std::path::PathBuf;
use thiserror::Error;

/// Settings of a training. The default fine-tunes a pruned detector.
#[derive(Clone, Debug, PartialEq)]
pub struct FitConfig {
    /// Passes over the data; 0 gives the model back as it is.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Size of the input; both sides are multiples of the largest stride.
    pub imgsz: ImageSize,
    /// Highest learning rate.
    pub lr: f64,
    /// The last learning rate as a fraction of the highest.
    pub lr_last: f64,
    /// How the learning rate decays.
    pub decay: Decay,
    /// Epochs in which the learning rate rises from zero.
    pub warmup: f64,
    /// The optimizer.
    pub optimizer: Rule,
    /// Decay of kernels.
    pub weight_decay: f64,
    /// Upper bound of the moving average's decay per step.
    pub ema_decay: f64,
    /// Gradients with a larger norm are scaled down to it.
    pub clip: f64,
    /// How images are varied.
    pub augment: Augment,
    /// Epochs with mosaics, from the first on.
    pub mosaic_until: usize,
    /// L1 penalty on the scales of the normalisations, which brings those of channels that matter little to zero (Liu
    /// et al., "Network Slimming", ICCV 2017): every step moves them toward zero by this share of the learning rate,
    /// and stops there, whatever the optimizer does (a proximal step). Before another normalisation nothing holds a
    /// layer's scales up but that training ends: the sum of all learning rates times this should stay around 1. With
    /// AdamW, whose steps are of the size of the learning rate, 1 is as strong as any gradient.
    pub sparsity: f64,
    /// Factor on the distillation terms, where there is a teacher.
    pub distill: f64,
    /// The distillation terms.
    pub distillation: Distillation,
    /// Decides everything that is drawn: order, augmentation.
    pub seed: u64,
    /// Threads; 0 takes one per core.
    pub threads: usize,
    /// Decoded images are kept in memory up to this many bytes.
    pub cache_bytes: usize,
    /// Whether weights of kernels that are zero at the start remain zero.
    pub keep_zeros: bool,
    /// The content of the data, where it is known already: what [`Dataset::content`](crate::data::Dataset::content)
    /// says.
    pub content: Option<String>,
    /// Written after every epoch and continued from where it is there.
    pub checkpoint: Option<PathBuf>,
}

impl Default for FitConfig {
    fn default() -> Self {
        Self {
            epochs: 6,
            batch: 8,
            imgsz: ImageSize::square(320),
            lr: 1e-3,
            lr_last: 0.05,
            decay: Decay::Cosine,
            warmup: 0.5,
            optimizer: Rule::ADAM_W,
            weight_decay: 5e-4,
            ema_decay: 0.98,
            clip: 10.0,
            augment: Augment::default(),
            mosaic_until: 0,
            sparsity: 0.0,
            distill: 1.0,
            distillation: Distillation::default(),
            seed: 0,
            threads: 0,
            cache_bytes: 1 << 30,
            keep_zeros: false,
            content: None,
            checkpoint: None,
        }
    }
}

impl FitConfig {
    pub(super) fn check(&self, stride: usize) -> Result<(), TrainError> {
        let fail = |setting: &'static str, problem: String| Err(TrainError::Setting { setting, problem });
        let stride = stride.max(1);
        if self.batch == 0 {
            return fail("batch", "is 0, expected at least 1".into());
        }
        if !self.imgsz.all(|side| (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(stride)) {
            return fail("imgsz", format!("is {}, expected multiples of {stride} up to {MAX_SIDE}", self.imgsz));
        }
        let limits = [
            ("lr", self.lr, 1e3),
            ("lr_last", self.lr_last, 1.0),
            ("warmup", self.warmup, 1e6),
            ("weight_decay", self.weight_decay, 1e3),
            ("ema_decay", self.ema_decay, 1.0),
            ("clip", self.clip, f64::MAX),
            ("distill", self.distill, 1e6),
            ("sparsity", self.sparsity, 1e6),
        ];
        for (setting, value, most) in limits {
            if !(0.0..=most).contains(&value) {
                return fail(setting, format!("is {value}, expected 0 to {most}"));
            }
        }
        Ok(())
    }
}

/// A place in a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Step within the epoch, from 0.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Epochs in all.
    pub epochs: usize,
}

/// Terms of a loss, per image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// Box term of the detection loss.
    pub box_: f64,
    /// Class term.
    pub cls: f64,
    /// Distribution focal term.
    pub dfl: f64,
    /// What masks, keypoints or angles add.
    pub task: f64,
    /// Both distillation terms.
    pub distill: f64,
}

impl Terms {
    pub(super) fn add(&mut self, other: &Self, factor: f64) {
        self.box_ += factor * other.box_;
        self.cls += factor * other.cls;
        self.dfl += factor * other.dfl;
        self.task += factor * other.task;
        self.distill += factor * other.distill;
    }

    /// All terms together.
    pub fn sum(&self) -> f64 {
        self.box_ + self.cls + self.dfl + self.task + self.distill
    }
}

/// What [`fit`](super::fit) reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum FitEvent {
    /// A checkpoint was found; this many epochs are done.
    Resumed {
        /// Epochs done.
        epochs: usize,
    },
    /// A checkpoint was found that cannot be used; training starts anew.
    SetAside {
        /// What is wrong with it.
        problem: String,
        /// Where it is now.
        aside: PathBuf,
    },
    /// A step is done.
    Step {
        /// Which.
        at: At,
        /// Its loss.
        terms: Terms,
        /// Its learning rate.
        lr: f64,
        /// Norm of its gradient before clipping.
        norm: f64,
    },
    /// The checkpoint cannot be written; training continues without it.
    NotSaved {
        /// The file, and why.
        problem: String,
    },
    /// An epoch is done, and saved if there is a checkpoint that can be written.
    Epoch {
        /// Which, from 0.
        epoch: usize,
        /// Mean loss of its steps.
        terms: Terms,
    },
}

/// A training that could not start or go on.
#[derive(Debug, Error)]
pub enum TrainError {
    /// A setting that cannot be used.
    #[error("training setting `{setting}` {problem}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value and what was expected.
        problem: String,
    },
    /// The model cannot be trained on this data.
    #[error("cannot train this model: {0}")]
    Unfit(String),
    /// The loss or its gradient is not a number any more.
    #[error("training diverged at step {} of epoch {}: the {what} is {value} at learning rate {lr:.2e}; try a lower learning rate (`lr`), a longer warm-up or a smaller `clip`", at.step + 1, at.epoch + 1)]
    Diverged {
        /// Where.
        at: At,
        /// The quantity.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Learning rate of the step.
        lr: f64,
    },
    /// A checkpoint that no training can continue.
    #[error("{path}: {problem}; remove the file to start over")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A checkpoint that another training wrote.
    #[error("{path}: was left by another training ({differences}); remove the file to start over")]
    OtherTraining {
        /// The file.
        path: PathBuf,
        /// What that training has and this one has not.
        differences: String,
    },
    /// A picture whose content a checkpoint depends on cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image that cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Labels that do not fit the model.
    #[error(transparent)]
    Loss(#[from] LossError),
    /// A checkpoint that cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Weights that do not fit their graph, or are not finite.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tensor backend.
    #[error("tensor backend: {0}")]
    Backend(#[from] candle_core::Error),
    /// Threads could not be started.
    #[error("cannot start worker threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}
