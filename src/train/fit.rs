//! The training loop.
//!
//! Every step is a function of the seed and of its number alone: order and augmentation are drawn afresh for each
//! image of each epoch, so that a training that resumes from a checkpoint gives the result of an uninterrupted one.

use super::batch::{Batch, Loader};
use super::checkpoint::{self, State};
use super::config::{At, FitConfig, FitEvent, Terms, TrainError};
use super::identity::Identity;
use super::loss;
use super::objective::{Outputs, objective};
use super::optim::{self, Optimizer, clip_scale, grad_norm};
use super::schedule::{Ema, Schedule};
use crate::backend::{Mode, Net};
use crate::data::Dataset;
use crate::graph::Head;
use crate::model::Model;
use crate::size::ImageSize;
use candle_core::{Device, Tensor, Var};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Trains a detector or a classifier and gives back the moving average of its weights.
///
/// Where an end-to-end head has both branches, both are trained: the one-to-many branch together with all layers below the
/// head, the one-to-one branch on what these give it, and their weights move from the one to the other in the course of
/// the epochs ([`loss::one2many_weight`]). A one-to-one branch alone trains the layers below it, too.
///
/// With a teacher, which must have the same head, the model also learns from the teacher's outputs on the same
/// images (see [`distill`](super::distill)). With `config.checkpoint`, the state is saved after every epoch, and a training that
/// finds the file resumes from there, if it is the same one ([`Identity`]); on the CPU the result is the same to the
/// bit.
///
/// # Errors
/// Settings or data that do not fit the model, images that cannot be read, a loss that is not finite any more, a
/// checkpoint of another training, and errors of the tensor backend.
pub fn fit(
    model: &Model,
    teacher: Option<&Model>,
    dataset: &Dataset,
    config: &FitConfig,
    device: &Device,
    progress: &mut dyn FnMut(FitEvent),
) -> Result<Model, TrainError> {
    config.check(model.graph.stride())?;
    check_models(model, teacher, config.imgsz)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(config.threads).build()?;
    let loader = Loader::new(dataset, model, config)?;
    let kept = Kept::of(model, teacher, dataset, config)?;
    let mut state = start(model, kept.as_ref(), progress)?;
    let first = Model::new(model.graph.clone(), state.raw.clone(), model.info.clone())?;
    let mut trainer = Trainer::new(&first, teacher, config, loader.batches(), device)?;
    trainer.optimizer.restore(state.steps, &state.slots, device)?;
    trainer.ema.weights.clone_from(&state.average);
    trainer.ema.updates = state.updates;
    for epoch in state.epochs..config.epochs {
        let terms = trainer.epoch(epoch, &pool, &loader, progress)?;
        state.epochs = epoch + 1;
        if let Some(kept) = &kept {
            trainer.write(&mut state)?;
            match checkpoint::save(&state, model, &kept.identity, kept.path) {
                // A full disk costs what an interruption would lose, not the training.
                Err(TrainError::File(problem)) => progress(FitEvent::NotSaved { problem: problem.to_string() }),
                saved => saved?,
            }
        }
        progress(FitEvent::Epoch { epoch, terms });
    }
    Ok(Model::new(model.graph.clone(), trainer.ema.weights, model.info.clone())?)
}

/// The checkpoint of a training.
struct Kept<'a> {
    path: &'a Path,
    /// Which training it belongs to.
    identity: Identity,
}

impl<'a> Kept<'a> {
    /// The checkpoint that the settings ask for.
    fn of(
        model: &Model,
        teacher: Option<&Model>,
        dataset: &Dataset,
        config: &'a FitConfig,
    ) -> Result<Option<Self>, TrainError> {
        let Some(path) = &config.checkpoint else { return Ok(None) };
        let data = config.content.clone().map_or_else(|| dataset.content(), Ok)?;
        Ok(Some(Self { path, identity: Identity::of(model, teacher, &data, config) }))
    }
}

/// The state that a training starts from: that of its checkpoint, or the model's own weights.
fn start(model: &Model, kept: Option<&Kept>, progress: &mut dyn FnMut(FitEvent)) -> Result<State, TrainError> {
    let saved = match kept.filter(|kept| kept.path.exists()) {
        Some(kept) => continued(model, &kept.identity, kept.path, progress)?,
        None => None,
    };
    if let Some(state) = saved {
        progress(FitEvent::Resumed { epochs: state.epochs });
        return Ok(state);
    }
    Ok(State {
        epochs: 0,
        raw: model.weights.clone(),
        average: model.weights.clone(),
        updates: 0,
        slots: Default::default(),
        steps: 0,
    })
}

/// The state in a checkpoint. One that no training can use is moved out of the way; one of another training is an
/// error.
fn continued(
    model: &Model,
    identity: &Identity,
    path: &Path,
    progress: &mut dyn FnMut(FitEvent),
) -> Result<Option<State>, TrainError> {
    match checkpoint::load(model, identity, path) {
        Err(TrainError::Checkpoint { path, problem }) => match checkpoint::set_aside(&path) {
            Ok(aside) => {
                progress(FitEvent::SetAside { problem, aside });
                Ok(None)
            }
            Err(_) => Err(TrainError::Checkpoint { path, problem }),
        },
        other => other.map(Some),
    }
}

fn check_models(model: &Model, teacher: Option<&Model>, size: ImageSize) -> Result<(), TrainError> {
    let unfit = |problem: String| Err(TrainError::Unfit(problem));
    let graph = &model.graph;
    if matches!(graph.head, Head::Classify { .. }) {
        let shapes = graph.shapes(size.height, size.width).map_err(|e| TrainError::Unfit(e.to_string()))?;
        let sides = graph.outputs.first().map_or((0, 0), |id| (shapes[id.index()].h, shapes[id.index()].w));
        if sides != (1, 1) {
            return unfit(format!("at {size} px its output is {} x {} instead of one answer", sides.0, sides.1));
        }
    }
    match teacher {
        Some(teacher) if teacher.graph.head != model.graph.head => {
            Err(TrainError::Unfit("its teacher has another head".into()))
        }
        _ => Ok(()),
    }
}

/// The parts that a step changes.
struct Trainer<'a> {
    head: &'a Head,
    net: Net,
    teacher: Option<Net>,
    optimizer: Optimizer,
    /// The scales of the normalisations, where they shall become sparse.
    scales: Vec<Var>,
    /// By key of a kernel: 0 where it must remain zero, 1 elsewhere.
    masks: BTreeMap<String, Tensor>,
    ema: Ema,
    schedule: Schedule,
    config: &'a FitConfig,
    device: &'a Device,
}

impl<'a> Trainer<'a> {
    fn new(
        model: &'a Model,
        teacher: Option<&Model>,
        config: &'a FitConfig,
        batches: usize,
        device: &'a Device,
    ) -> Result<Self, TrainError> {
        let teacher = teacher.filter(|_| config.distill > 0.0);
        let net = Net::new(model, device)?;
        let mut scales = Vec::new();
        if config.sparsity > 0.0 {
            let norms = model.graph.convs().filter_map(|(_, conv)| conv.norm.as_ref());
            let keys: HashSet<String> = norms.map(|norm| norm.keys()[0].clone()).collect();
            scales.extend(net.params().iter().filter(|(key, _)| keys.contains(key)).map(|(_, var)| var.clone()));
        }
        Ok(Self {
            head: &model.graph.head,
            net,
            scales,
            teacher: teacher.map(|teacher| Net::new(teacher, device).map(Net::frozen)).transpose()?,
            optimizer: Optimizer::new(config.optimizer, config.weight_decay),
            masks: if config.keep_zeros { masks(model, device)? } else { BTreeMap::new() },
            ema: Ema::new(model.weights.clone(), config.ema_decay),
            schedule: Schedule {
                peak: config.lr,
                last: config.lr_last,
                warmup: (config.warmup * batches as f64).round() as u64,
                steps: (batches * config.epochs) as u64,
                decay: config.decay,
            },
            config,
            device,
        })
    }

    /// All steps of an epoch; gives their mean loss. `loader` makes batches in `pool`, one ahead of the step that uses
    /// it.
    fn epoch(
        &mut self,
        epoch: usize,
        pool: &rayon::ThreadPool,
        loader: &Loader,
        progress: &mut dyn FnMut(FitEvent),
    ) -> Result<Terms, TrainError> {
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(1);
            scope.spawn(move || {
                for index in 0..loader.batches() {
                    if send.send(pool.install(|| loader.batch(epoch, index))).is_err() {
                        return;
                    }
                }
            });
            let mut mean = Terms::default();
            let epochs = self.config.epochs;
            let at = |step| At { epoch, step, steps: loader.batches(), epochs };
            for (step, batch) in receive.iter().enumerate() {
                let batch = batch?;
                let (terms, lr, norm) = pool.install(|| self.step(&batch, at(step)))?;
                progress(FitEvent::Step { at: at(step), terms, lr, norm });
                mean.add(&terms, 1.0 / loader.batches() as f64);
            }
            Ok(mean)
        })
    }

    /// Writes all that a training needs to go on into `state`, but for the number of epochs.
    fn write(&self, state: &mut State) -> Result<(), TrainError> {
        state.raw = self.net.to_model()?.weights;
        state.average.clone_from(&self.ema.weights);
        state.updates = self.ema.updates;
        state.steps = self.optimizer.steps();
        state.slots = self.optimizer.state()?;
        Ok(())
    }

    /// One step; gives its loss, learning rate and gradient norm.
    fn step(&mut self, batch: &Batch, at: At) -> Result<(Terms, f64, f64), TrainError> {
        let lr = self.schedule.rate((at.epoch * at.steps + at.step) as u64);
        let size = self.config.imgsz;
        let channels = batch.images.len() / (batch.size * size.area()).max(1);
        let shape = (batch.size, channels, size.height, size.width);
        let images = Tensor::from_slice(&batch.images, shape, self.device)?;
        let outputs = self.net.forward(&images, Mode::Train)?;
        let taught = self.teacher.as_ref().map(|teacher| Outputs::read(&teacher.forward(&images, Mode::Eval)?));
        let weight = loss::one2many_weight(at.epoch, at.epochs);
        let (values, taught) = (Outputs::read(&outputs)?, taught.transpose()?);
        let (terms, grads) = objective(self.head, (&values, taught.as_ref()), &batch.labels, (self.config, weight))?;
        let diverged = |what, value| TrainError::Diverged { at, what, value, lr };
        if !terms.sum().is_finite() {
            return Err(diverged("loss", terms.sum()));
        }
        // The gradient of `sum(output * gradient)` is what the chain rule passes down from the loss.
        let mut sum = Tensor::zeros((), candle_core::DType::F32, self.device)?;
        for (output, grad) in outputs.iter().zip(&grads) {
            let grad = Tensor::from_slice(grad, output.shape(), self.device)?;
            sum = (sum + (output * grad)?.sum_all()?)?;
        }
        let grads = sum.backward()?;
        let params = self.net.params();
        let norm = grad_norm(params, &grads)?;
        if !norm.is_finite() {
            return Err(diverged("gradient", norm));
        }
        self.optimizer.step(params, &grads, lr, clip_scale(norm, self.config.clip))?;
        for scale in &self.scales {
            optim::shrink(scale, lr * self.config.sparsity)?;
        }
        for (key, var) in params {
            if let Some(mask) = self.masks.get(key) {
                var.set(&(var.as_detached_tensor() * mask)?)?;
            }
        }
        self.ema.update(&self.net.to_model()?.weights);
        Ok((terms, lr, norm))
    }
}

/// Masks of all kernels that have zeros.
fn masks(model: &Model, device: &Device) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let kernels = model.weights.iter().filter(|(_, t)| t.shape().len() > 1 && t.data().contains(&0.0));
    let mask = |(key, tensor): (&String, &crate::model::Tensor)| {
        let values: Vec<f32> = tensor.data().iter().map(|v| if *v == 0.0 { 0.0 } else { 1.0 }).collect();
        Ok((key.clone(), Tensor::from_vec(values, tensor.shape(), device)?))
    };
    kernels.map(mask).collect()
}
