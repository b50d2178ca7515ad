//! Training steps on a CUDA device: passes, optimizer and the loss of detection there ([`crate::training`]), other losses on
//! the host.
//!
//! In mixed precision the gradients of the outputs are multiplied by a scale, so that those of the tensors between do not
//! vanish in f16. A step whose gradient overflows is computed again with half the scale; after many good ones the scale
//! grows (Micikevicius et al., "Mixed Precision Training", 2018).
//!
//! Ranks compute each on its images, and the engine adds their gradients in its backward pass, as PyTorch's
//! DistributedDataParallel does (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel
//! Training", 2020), but for the loss, whose divisors are those of the whole batch. Normalisations have the
//! statistics of the rank's images, and running statistics are those of rank 0; with [`FitConfig::sync_batch_norm`]
//! both are those of the whole batch.

use super::batch::Batch;
use super::config::{At, FitConfig, TrainError};
use super::int8::Statistics;
use super::loss::one2many_weight;
use super::objective::{Outputs, objective};
use super::optim::Rule;
use super::schedule::Ema;
use super::stepper::{State, Stepper};
use super::terms::Terms;
use crate::engine::{self, open_cuda, open_nccl};
use crate::kernels::InputSteps;
use crate::model::{Model, Weights};
use crate::quantise::{Ranges, int8_layers};
use crate::training::{Control, Detection, Output, Phase, Setup, StepRule, TrainingEngine, TrainingError};
use std::collections::BTreeSet;

/// The first scale of the loss in mixed precision, and the largest.
const FIRST_SCALE: f32 = 1024.0;
const LARGEST_SCALE: f32 = 65536.0;

/// Good steps after which it doubles.
const PATIENCE: u32 = 500;

/// What computes the steps of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// A CUDA device.
    Cuda(Cuda),
}

impl Device {
    /// A device that trains with tensors in f16 (`mixed`, on a CUDA device only) or f32.
    pub fn of(device: engine::Device, mixed: bool) -> Self {
        match device {
            engine::Device::Cpu => Self::Cpu,
            engine::Device::Cuda(ordinal) => Self::Cuda(Cuda { ordinal, mixed }),
        }
    }

    /// The same device for networks that only run.
    pub fn engine(self) -> engine::Device {
        match self {
            Self::Cpu => engine::Device::Cpu,
            Self::Cuda(Cuda { ordinal, .. }) => engine::Device::Cuda(ordinal),
        }
    }
}

/// A CUDA device by its number, and how it trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cuda {
    /// Number of the device, from 0.
    pub ordinal: u32,
    /// Whether tensors are in f16; else in f32.
    pub mixed: bool,
}

/// A network, its teacher and its optimizer on a CUDA device.
pub(super) struct OnCuda<'a> {
    model: &'a Model,
    config: &'a FitConfig,
    engine: TrainingEngine,
    /// The loss, where the device computes it.
    loss: Option<Detection>,
    /// The decay of the moving average, whose weights are on the device.
    ema: Ema,
    steps: u64,
    mixed: bool,
    scale: f32,
    /// Steps since the scale changed.
    good: u32,
    /// Whether the last backward pass found gradients.
    found: bool,
    /// The gradients in one slice, where somebody has asked for them.
    flat: Option<Vec<f32>>,
}

impl<'a> OnCuda<'a> {
    /// Begins at the weights of a model, for batches of which this rank has these sizes, whose images show so many objects
    /// at most.
    pub fn new(
        model: &'a Model,
        teacher: Option<&Model>,
        (config, batches, objects): (&'a FitConfig, &[usize], usize),
        cuda: Cuda,
    ) -> Result<Self, TrainError> {
        let loss = loss::plan(&model.graph.head, config, objects);
        Self::with(model, teacher, (config, batches, loss), cuda)
    }

    /// The same with this loss on the device, or the host's.
    fn with(
        model: &'a Model,
        teacher: Option<&Model>,
        (config, batches, loss): (&'a FitConfig, &[usize], Option<Detection>),
        cuda: Cuda,
    ) -> Result<Self, TrainError> {
        let frozen = config.frozen(&model.graph)?;
        let rounded = match config.int8.first(config.epochs) {
            Some(_) => int8_layers(model).iter().map(|id| model.graph.node(*id).name.clone()).collect(),
            None => BTreeSet::new(),
        };
        let device = open_cuda(cuda.ordinal).map_err(TrainingError::from)?;
        let gpus = (config.ranks.size() > 1).then(|| config.ranks.gpus(&device, open_nccl)).transpose()?;
        let setup = Setup {
            rounded: &rounded,
            loss: loss.as_ref(),
            size: (config.imgsz.height, config.imgsz.width),
            batches,
            mixed: cuda.mixed,
            rule: match config.optimizer {
                Rule::Sgd { momentum, nesterov } => StepRule::Sgd { momentum: momentum as f32, nesterov },
                Rule::AdamW { betas, eps } => StepRule::AdamW { betas: betas.map(|beta| beta as f32), eps: eps as f32 },
            },
            weight_decay: config.weight_decay,
            sparsity: config.sparsity,
            keep_zeros: config.keep_zeros,
            frozen: &frozen,
            teacher: teacher.filter(|_| config.distill > 0.0),
            gpus: gpus.as_ref(),
            sync_batch_norm: config.sync_batch_norm,
        };
        let scale = if cuda.mixed { FIRST_SCALE } else { 1.0 };
        let engine = TrainingEngine::new(device, model, &setup)?;
        let ema = Ema::new(Weights::new(), config.ema_decay);
        let (mixed, steps, good, found, flat) = (cuda.mixed, 0, 0, false, None);
        Ok(Self { model, config, engine, loss, ema, steps, mixed, scale, good, found, flat })
    }

    /// The device's name, and the bytes of its memory that the training takes.
    pub fn device(&self) -> (&str, usize) {
        (self.engine.device_name(), self.engine.memory().total())
    }

    /// What the forward pass of a step computes.
    fn phase(&mut self, at: At) -> Result<Phase, TrainError> {
        let Statistics { momentum, rounds, settled, anew } = self.config.int8.statistics(at);
        if anew {
            self.ema.updates = 0;
        }
        self.engine.set_momentum(momentum as f32)?;
        Ok(match (rounds, settled) {
            (false, _) => Phase::Plain,
            (true, false) => Phase::Rounding,
            (true, true) => Phase::Settled,
        })
    }

    /// The terms of a batch by the host's loss, and the backward pass.
    fn by_host(&mut self, batch: &Batch, at: At) -> Result<Terms, TrainError> {
        let phase = self.phase(at)?;
        let (outputs, taught) = self.engine.forward(&batch.images, phase)?;
        let read = |outputs: Vec<Output>| Outputs::of(outputs.into_iter().map(|o| (o.shape, o.values)).collect());
        let taught = (!taught.is_empty()).then(|| read(taught));
        let weight = one2many_weight(at.epoch, at.epochs);
        let head = &self.model.graph.head;
        let (values, share) = (read(outputs), Some(&batch.share));
        let (terms, grads) = objective(head, (&values, taught.as_ref()), &batch.labels, (self.config, weight), share)?;
        let terms = terms.over(batch.share.ranks())?;
        if terms.sum().is_finite() {
            self.engine.backward(&grads, self.scale)?;
            self.found = true;
        }
        Ok(terms)
    }

    /// The same by the device's loss.
    fn by_device(&mut self, plan: &Detection, batch: &Batch, at: At) -> Result<Terms, TrainError> {
        let phase = self.phase(at)?;
        let head = &self.model.graph.head;
        let labels = loss::labels(head, plan, batch)?;
        let sums = self.engine.assign(&batch.images, &labels, phase)?;
        let weights = loss::weights(plan, one2many_weight(at.epoch, at.epochs));
        let scales = loss::scales(&sums, &weights, (self.config, &batch.share))?;
        let factors: Vec<_> = scales.iter().map(loss::Scales::factors).collect();
        let found = self.engine.descend(&factors, self.scale)?;
        let mut terms = Terms::default();
        scales.iter().zip(&found).for_each(|(scales, found)| terms.add(&scales.terms(found), 1.0));
        let terms = terms.over(batch.share.ranks())?;
        self.found = terms.sum().is_finite();
        Ok(terms)
    }

    fn control(&self, lr: f64, scale: f32) -> Control {
        let t = (self.steps + 1) as f64;
        let (first, second) = match self.config.optimizer {
            Rule::AdamW { betas: [b1, b2], .. } => (1.0 / (1.0 - b1.powf(t)), 1.0 / (1.0 - b2.powf(t)).sqrt()),
            Rule::Sgd { .. } => (1.0, 1.0),
        };
        Control {
            rate: lr as f32,
            first_correction: first as f32,
            second_correction: second as f32,
            ema_share: 1.0 - self.ema.keep(self.ema.updates + 1),
            unscale: 1.0 / scale,
            clip: self.config.clip.min(f64::from(f32::MAX)) as f32,
            loss_scale: scale,
        }
    }

    /// The update of the gradients, which were multiplied by `scale`.
    fn updated(&mut self, lr: f64, scale: f32) -> Result<f64, TrainError> {
        let norm = self.engine.update(&self.control(lr, scale))?;
        if norm.is_finite() {
            (self.steps, self.ema.updates) = (self.steps + 1, self.ema.updates + 1);
        }
        Ok(norm)
    }
}

impl Stepper for OnCuda<'_> {
    fn backward(&mut self, batch: &Batch, at: At) -> Result<Terms, TrainError> {
        (self.flat, self.found) = (None, false);
        match self.loss.clone() {
            Some(plan) => self.by_device(&plan, batch, at),
            None => self.by_host(batch, at),
        }
    }

    fn gradients(&mut self) -> Result<&mut [f32], TrainError> {
        if self.flat.is_none() {
            let mut flat = self.engine.flat_gradients()?;
            let factor = if self.found { 1.0 / self.scale } else { f32::NAN };
            flat.iter_mut().for_each(|gradient| *gradient *= factor);
            self.flat = Some(flat);
        }
        Ok(self.flat.as_deref_mut().unwrap_or_default())
    }

    fn update(&mut self, lr: f64) -> Result<f64, TrainError> {
        if !std::mem::take(&mut self.found) {
            return Ok(f64::NAN);
        }
        let Some(flat) = self.flat.take() else { return self.updated(lr, self.scale) };
        self.engine.set_flat_gradients(&flat)?;
        self.updated(lr, 1.0)
    }

    fn step(&mut self, batch: &Batch, at: At, lr: f64) -> Result<(Terms, f64), TrainError> {
        loop {
            let terms = self.backward(batch, at)?;
            let tried = self.found;
            let norm = self.update(lr)?;
            if norm.is_finite() || !self.mixed || !tried || self.scale <= 1.0 {
                self.good += 1;
                if self.mixed && self.good >= PATIENCE {
                    (self.good, self.scale) = (0, (2.0 * self.scale).min(LARGEST_SCALE));
                }
                return Ok((terms, norm));
            }
            (self.good, self.scale) = (0, self.scale / 2.0);
        }
    }

    fn set_int8(&mut self, ranges: &Ranges) -> Result<(), TrainError> {
        let steps = ranges.iter().map(|(layer, range)| (layer.clone(), InputSteps::of(*range))).collect();
        Ok(self.engine.set_steps(&steps)?)
    }

    fn state(&self) -> Result<State, TrainError> {
        Ok(State {
            raw: self.engine.weights()?,
            average: self.engine.averages()?,
            updates: self.ema.updates,
            slots: self.engine.slots(self.config.optimizer.slots())?,
            steps: self.steps,
        })
    }

    fn restore(&mut self, state: &State) -> Result<(), TrainError> {
        self.engine.restore(&state.raw, &state.average, &state.slots)?;
        (self.steps, self.ema.updates) = (state.steps, state.updates);
        (self.found, self.flat) = (false, None);
        Ok(())
    }

    fn average(&self) -> Result<Weights, TrainError> {
        Ok(self.engine.averages()?)
    }
}

mod loss;
#[cfg(test)]
mod tests;
