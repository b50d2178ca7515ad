//! What a job is to do: a profile with every default filled in, in plain types.

use super::error::PipelineError;
use super::timing::Timing;
use crate::bundle::{LockedInputs, LockedTarget};
use crate::engine::Device;
use crate::graph::{Branch, Dtype};
use crate::importance::{Criterion, Pattern};
use crate::ranks::Ranks;
use crate::repair::Method;
use crate::report::Budget;
use crate::size::ImageSize;
use crate::train::optim::Rule;
use crate::train::{Recipe, Stop};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The minimum recall of classes by name, as a share of the baseline network's.
pub type MinRecall = BTreeMap<String, f64>;

/// A job with every default filled in.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name of the device profile.
    pub target: String,
    /// The model; the embedded demo without one.
    pub model: Option<PathBuf>,
    /// The dataset's YAML file; the embedded demo's drawn set without one.
    pub data: Option<PathBuf>,
    /// Size of the image; from the model's own training, else 640 pixels square, without one.
    pub imgsz: Option<ImageSize>,
    /// Sizes to choose from, the one that budgets refer to first; nothing is chosen where there are fewer than two.
    pub sizes: Vec<ImageSize>,
    /// Images per run of the network; latencies are those of the whole batch.
    pub batch: usize,
    /// The dtype that the network computes with on the device.
    pub dtype: Dtype,
    /// Branch of an end-to-end head that is deployed; the default one without one.
    pub head: Option<Branch>,
    /// Threads of the runtime on the device.
    pub threads: usize,
    /// Budgets of latency, memory, size and accuracy.
    pub budget: Budget,
    /// The minimum recall of classes.
    pub floors: MinRecall,
    /// Single weights to set to zero; none removes channels.
    pub pattern: Option<Pattern>,
    /// Widths are multiples of this.
    pub grid: usize,
    /// The least share of a group's channels that is kept.
    pub min_keep: f64,
    /// How channels are ranked.
    pub criterion: Criterion,
    /// Training images for importance and repair.
    pub calibration_images: usize,
    /// Leave out images that cannot be read, instead of ending at the first.
    pub skip_bad_images: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// How the pruned model is repaired.
    pub repair: Method,
    /// Fine-tuning.
    pub tune: Tune,
    /// What runs and trains networks here; those that ship are timed on the target.
    pub device: Device,
    /// Frames before the clock starts.
    pub warmup: usize,
    /// Frames that are timed.
    pub runs: usize,
    /// Where networks are timed while plans are made.
    pub timing: Timing,
    /// What the run is made from, to be held against a lock and entered into one; none neither locks anything nor keeps a
    /// plan for the case that the run is interrupted.
    pub locking: Option<Locking>,
    /// The ranks that share the work. The first one measures, searches and writes; only its `timing` counts.
    pub ranks: Ranks,
    /// Where the results go.
    pub out: PathBuf,
    /// Where measurements are kept for the next run.
    pub cache: PathBuf,
}

impl Job {
    /// What computes, for the keys of what is kept: figures of another kind of device differ in their last digits.
    ///
    /// # Errors
    /// If the device cannot be used.
    pub(super) fn computed_on(&self) -> Result<String, PipelineError> {
        let device = self.device;
        device.name().map_err(|source| PipelineError::Device { device, source })
    }
}

/// Fine-tuning as a user states it.
#[derive(Clone, Debug)]
pub struct Tune {
    /// Passes over the training images; 0 skips training.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// The optimizer.
    pub rule: Rule,
    /// Weight of distillation from the baseline model; 0 turns it off.
    pub distill: f64,
    /// L1 penalty on the scales of the normalisations.
    pub sparsity: f64,
    /// Whether the baseline model gets the same epochs as a control.
    pub control: bool,
    /// How images are varied, learning rates run, and epochs are chosen.
    pub recipe: Recipe,
    /// The split whose images choose between epochs, in place of a share of the training images.
    pub held_split: Option<String>,
    /// A folder for event files of TensorBoard.
    pub tensorboard: Option<PathBuf>,
    /// Ends a training early, with its state kept.
    pub stop: Stop,
}

impl Default for Tune {
    /// No training.
    fn default() -> Self {
        Self {
            epochs: 0,
            batch: 8,
            lr: 1e-3,
            rule: Rule::ADAM_W,
            distill: 1.0,
            sparsity: 0.0,
            control: false,
            recipe: Recipe::default(),
            held_split: None,
            tensorboard: None,
            stop: Stop::default(),
        }
    }
}

/// What the caller of a job knows of its inputs, and what they must be.
#[derive(Clone, Debug)]
pub struct Locking {
    /// The name of the target in the lock.
    pub target: String,
    /// The inputs; the hashes of model and data are entered by the job.
    pub inputs: LockedInputs,
    /// What is locked: inputs that differ end the job, and the plan is applied. None lets the job search.
    pub locked: Option<LockedTarget>,
    /// The lock's file, for messages, and in whose folder the paths of inputs begin.
    pub path: PathBuf,
}
