//! What is to be done, and what is told while it is done.

use super::floors::Floors;
use crate::graph::Dtype;
use crate::importance::{Criterion, Pattern};
use crate::latency::Speed;
use crate::repair::Method;
use crate::report::Asked;
use crate::session::Session;
use crate::train::optim::Rule;
use std::path::PathBuf;
use std::sync::Arc;

/// A job with every default filled in.
#[derive(Clone, Debug)]
pub struct Job {
    /// Name of the device profile.
    pub target: String,
    /// The model; the embedded demo without one.
    pub model: Option<PathBuf>,
    /// The dataset's YAML file; the embedded demo's drawn set without one.
    pub data: Option<PathBuf>,
    /// Side of the square image; from the model's own training, else 640, without one.
    pub imgsz: Option<usize>,
    /// Sides to choose from, the one that budgets refer to first; nothing is chosen where there are fewer than two.
    pub sizes: Vec<usize>,
    /// The numbers that the network computes with on the device.
    pub dtype: Dtype,
    /// Threads of the runtime on the device.
    pub threads: usize,
    /// Budgets and floors.
    pub budget: Asked,
    /// The least recall of classes by name, as a share of the baseline network's.
    pub floors: Floors,
    /// Single weights to set to zero; none cuts channels.
    pub pattern: Option<Pattern>,
    /// Widths are multiples of this.
    pub grid: usize,
    /// The least share of a group's channels that stays.
    pub min_keep: f64,
    /// How channels are ranked.
    pub criterion: Criterion,
    /// Training images for importance and repair.
    pub calibration_images: usize,
    /// Leave out images that cannot be read, instead of ending at the first.
    pub skip_bad_images: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// How the cut model is repaired.
    pub repair: Method,
    /// Fine-tuning.
    pub tune: Tune,
    /// Whether training shall run on a CUDA device where there is one.
    pub cuda: bool,
    /// Runs before, and runs on, the clock.
    pub warmup: usize,
    /// Runs on the clock.
    pub runs: usize,
    /// Where networks are timed while plans are made.
    pub timing: Timing,
    /// Where the results go.
    pub out: PathBuf,
    /// Where measurements are kept for the next run.
    pub cache: PathBuf,
}

/// Where networks are timed.
#[derive(Clone, Debug, Default)]
pub enum Timing {
    /// On this machine.
    #[default]
    Here,
    /// On a device.
    Device(Arc<Session>),
    /// By a benchmark command of the user, which gives whole frames; the figures of a processor say how layers share
    /// them.
    Command(Vec<String>, Speed),
    /// Nowhere: two figures of the device's processor stand in.
    Estimate(Speed),
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
    /// How steps follow from gradients.
    pub rule: Rule,
    /// Weight of distillation from the baseline model; 0 turns it off.
    pub distill: f64,
    /// L1 penalty on the scales of the normalisations.
    pub sparsity: f64,
    /// Whether the baseline model gets the same epochs as a control.
    pub control: bool,
}

/// What happens, for a terminal or a log.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stage begins: a verb and what it works on.
    Stage(&'static str, String),
    /// Part of the stage is done.
    Progress(usize, usize),
    /// Something worth a line.
    Note(String),
}

/// Receives events.
pub type Listener<'a> = &'a mut dyn FnMut(Event);
