//! Settings of a training, the progress it reports, and its errors.

use super::distill::Distillation;
use super::loss::LossError;
use super::optim::Rule;
use super::schedule::Decay;
use super::stop::Stop;
use super::terms::Terms;
use super::variation::Augment;
use crate::data::{DataError, Dataset};
use crate::engine::EngineError;
use crate::eval::{EvalError, Metric};
use crate::graph::Graph;
use crate::model::{FileError, ModelError};
use crate::quantise::Exceptions;
use crate::ranks::{RankError, Ranks};
use crate::size::{ImageSize, MAX_SIDE};
use crate::training::TrainingError;
use crate::vision::ImageError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
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
    /// Probability that an image of these epochs is a mosaic.
    pub mosaic: f64,
    /// So many of the network's first modules keep their weights ([`frozen`](Self::frozen)). Their running statistics
    /// move.
    pub freeze: usize,
    /// Share of a classifier's target that all classes get in equal parts (Szegedy et al., 2016).
    pub label_smoothing: f64,
    /// Whether normalisations have the statistics of the whole batch where several ranks with a GPU each share it; else
    /// those of the rank's images. On CPUs, and on one GPU, they always have those of the whole batch.
    pub sync_batch_norm: bool,
    /// Images that choose between the epochs, and are not trained on.
    pub hold_out: HoldOut,
    /// Epochs without a better figure on the held-back images after which training ends; 0 waits for all.
    pub patience: usize,
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
    /// Epochs that train for int8.
    pub int8: Int8Epochs,
    /// Decides everything that is drawn: order, augmentation.
    pub seed: u64,
    /// Threads; 0 takes one per core.
    pub threads: usize,
    /// Threads that prepare images beside these; 0 lets the same threads do it.
    pub workers: usize,
    /// Decoded images are kept in memory up to this many bytes; `usize::MAX` takes half of what is free.
    pub cache_bytes: usize,
    /// Whether weights of kernels that are zero at the start remain zero.
    pub keep_zeros: bool,
    /// The content of the data, where it is known already: what [`Dataset::content`](crate::data::Dataset::content)
    /// says.
    pub content: Option<String>,
    /// Written after every epoch and continued from where it is there. A file beside it, `NAME.step`, has the state
    /// within an epoch.
    pub checkpoint: Option<PathBuf>,
    /// Seconds between states within an epoch.
    pub save_seconds: f64,
    /// Ends the training after the step that runs, with its state saved.
    pub stop: Stop,
    /// Who shares the work: each rank computes on its share of every batch. The first one writes the checkpoint.
    pub ranks: Ranks,
}

/// Images that choose between the epochs. What ships is never worse on them than the network before training.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HoldOut {
    /// None: the last epoch ships.
    #[default]
    None,
    /// A share of the training images, drawn by the seed.
    Share(f64),
    /// A split of their own.
    Split {
        /// Its images.
        data: Arc<Dataset>,
        /// What [`Dataset::content`] says of them.
        content: String,
    },
}

/// Epochs that train for int8: kernels and inputs of the layers are rounded as in the int8 network. Running statistics
/// of normalisations are taken anew in the first half of the steps, and stay in the second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Int8Epochs {
    /// How many, the last ones; 0 trains for f32 alone. With any, held-back images judge the int8 network after every
    /// epoch, and `patience` counts from the first of them on.
    pub epochs: usize,
    /// Whether ranges lie around zero ([`symmetric`](crate::quantise::symmetric)).
    pub zero_centred: bool,
    /// Layers that stay out of int8, and what they compute in there.
    pub except: Exceptions,
}

impl Int8Epochs {
    /// The first of them, from 0, of so many epochs; none where there are none.
    pub(super) fn first(&self, epochs: usize) -> Option<usize> {
        (self.epochs > 0).then(|| epochs.saturating_sub(self.epochs))
    }
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
            mosaic: 1.0,
            freeze: 0,
            label_smoothing: 0.0,
            sync_batch_norm: false,
            hold_out: HoldOut::None,
            patience: 0,
            sparsity: 0.0,
            distill: 1.0,
            distillation: Distillation::default(),
            int8: Int8Epochs::default(),
            seed: 0,
            threads: 0,
            workers: 0,
            cache_bytes: usize::MAX,
            keep_zeros: false,
            content: None,
            checkpoint: None,
            save_seconds: 60.0,
            stop: Stop::default(),
            ranks: Ranks::default(),
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
            ("mosaic", self.mosaic, 1.0),
            ("label_smoothing", self.label_smoothing, 1.0),
        ];
        for (setting, value, most) in limits {
            if !(0.0..=most).contains(&value) {
                return fail(setting, format!("is {value}, expected 0 to {most}"));
            }
        }
        match self.hold_out {
            HoldOut::Share(share) if !(share > 0.0 && share < 1.0) => {
                fail("hold_out", format!("is {share}, expected more than 0 and less than 1"))
            }
            _ => Ok(()),
        }
    }

    /// Keys of the parameters that keep their values: those of the first [`freeze`](Self::freeze) modules in execution
    /// order, `model.0`, `model.1` of a YOLO, `conv1`, `layer1` of a ResNet.
    ///
    /// # Errors
    /// If no module would be left to train.
    pub fn frozen(&self, graph: &Graph) -> Result<BTreeSet<String>, TrainError> {
        let mut modules: Vec<String> = Vec::new();
        let mut frozen = BTreeSet::new();
        for key in graph.params().into_iter().map(|param| param.key) {
            let parts = if key.starts_with("model.") { 2 } else { 1 };
            let module = key.split('.').take(parts).collect::<Vec<_>>().join(".");
            let place = modules.iter().position(|known| *known == module).unwrap_or_else(|| {
                modules.push(module);
                modules.len() - 1
            });
            if place < self.freeze {
                frozen.insert(key);
            }
        }
        if self.freeze >= modules.len() && self.freeze > 0 {
            let problem = format!("is {}, expected less than the network's {} modules", self.freeze, modules.len());
            return Err(TrainError::Setting { setting: "freeze", problem });
        }
        Ok(frozen)
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

/// What [`fit`](super::fit) reports while it works.
#[derive(Clone, Debug, PartialEq)]
pub enum FitEvent {
    /// A checkpoint was found; so much is done.
    Resumed {
        /// Epochs done.
        epochs: usize,
        /// Steps done of the epoch after these.
        step: usize,
        /// What the epochs done had brought.
        past: Vec<PastEpoch>,
    },
    /// A checkpoint was found that cannot be used; training starts anew.
    SetAside {
        /// What is wrong with it.
        problem: String,
        /// Where it is now.
        aside: PathBuf,
    },
    /// A CUDA device trains.
    Device {
        /// Its name.
        name: String,
        /// Bytes of its memory that the training takes.
        bytes: usize,
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
    /// The last epochs train for int8, and held-back images judge in int8.
    Int8 {
        /// How many of them.
        epochs: usize,
        /// Of all.
        of: usize,
    },
    /// Images are held back, and were looked at before the first step.
    HeldBack {
        /// How many.
        images: usize,
        /// What is compared.
        metric: Metric,
        /// The figure of the network before training.
        before: f64,
    },
    /// The training diverged; it goes on from its last good state with lower learning rates.
    RolledBack {
        /// Where, and what happened.
        problem: String,
        /// Finished epochs of the state.
        epochs: usize,
        /// Factor on the learning rates from now on.
        rate: f64,
    },
    /// An epoch is done, and saved if there is a checkpoint that can be written.
    Epoch {
        /// Which, from 0.
        epoch: usize,
        /// Mean loss of its steps.
        terms: Terms,
        /// What else is known of it.
        row: EpochRow,
    },
    /// Held-back images have chosen what ships.
    Chosen {
        /// The epoch, from 0; none where the network before training found as much.
        epoch: Option<usize>,
        /// What it finds on the held-back images.
        figure: f64,
        /// What the network before training finds.
        before: f64,
        /// The epoch that found most, and what; none where no epoch ships.
        best: Option<(usize, f64)>,
        /// Epochs that were trained.
        epochs: usize,
    },
}

/// A finished epoch, as a checkpoint keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastEpoch {
    /// Mean loss of its steps.
    pub terms: Terms,
    /// What its averaged weights find on the held-back images.
    pub held: Option<f64>,
    /// Learning rate of its last step.
    pub lr: f64,
}

/// What an epoch brought, beside its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EpochRow {
    /// Epochs in all.
    pub epochs: usize,
    /// What its averaged weights find on the held-back images, and which figure that is.
    pub held: Option<(Metric, f64)>,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Training images per second.
    pub images_per_second: f64,
    /// Seconds that the epochs after it may take.
    pub seconds_left: f64,
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
    /// The loss or its gradient is not a number any more, or the loss has exploded; going back and training slower did
    /// not help.
    #[error(
        "training diverged at step {} of epoch {}: the {what} is {value} at learning rate {lr:.2e}; going back to a good \
         state and training slower did not help: try a lower learning rate (`lr`) or a longer `warmup`",
        at.step + 1, at.epoch + 1
    )]
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
    /// The engine cannot run the network, to see what int8 layers read.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Somebody asked the training to stop.
    #[error("training was stopped by {} at step {} of epoch {}; {}", signal_name(*signal), at.step + 1, at.epoch + 1,
        if *saved { "the same command goes on from there" } else { "its state is not kept" })]
    Interrupted {
        /// The signal.
        signal: i32,
        /// The last step that was done.
        at: At,
        /// Whether the state was saved.
        saved: bool,
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
    /// Held-back images that cannot judge the model.
    #[error("held-back images: {0}")]
    Evaluation(#[from] EvalError),
    /// An image that cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Labels that do not fit the model.
    #[error(transparent)]
    Loss(#[from] LossError),
    /// The other ranks cannot be reached.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// A checkpoint that cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Weights that do not fit their graph, or are not finite.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A CUDA device that cannot train, or failed.
    #[error(transparent)]
    Cuda(TrainingError),
    /// The tensor backend.
    #[error("tensor backend: {0}")]
    Backend(#[from] candle_core::Error),
    /// Threads could not be started.
    #[error("cannot start worker threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl From<TrainingError> for TrainError {
    fn from(error: TrainingError) -> Self {
        match error {
            TrainingError::Ranks(error) => Self::Ranks(error),
            error => Self::Cuda(error),
        }
    }
}

impl TrainError {
    /// Where a training diverged, and how; any other error in full.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Diverged { at, what, value, lr } => {
                format!(
                    "step {} of epoch {}: the {what} is {value:.3e} at learning rate {lr:.1e}",
                    at.step + 1,
                    at.epoch + 1
                )
            }
            other => other.to_string(),
        }
    }
}

/// The name of a signal, for messages.
fn signal_name(signal: i32) -> String {
    match signal {
        2 => "SIGINT".into(),
        15 => "SIGTERM".into(),
        other => format!("signal {other}"),
    }
}
