//! The training loop: epochs, order, learning rates and checkpoints. What a step computes is the
//! [`Stepper`](super::stepper::Stepper)'s.
//!
//! Every step is a function of the seed and of its number alone: order and augmentation are drawn afresh for each
//! image of each epoch, so that a training that resumes from a checkpoint gives the result of an uninterrupted one.

use super::autograd::Autograd;
use super::batch::Loader;
use super::checkpoint::{self, Saved};
use super::config::{At, FitConfig, FitEvent, Terms, TrainError};
use super::identity::Identity;
use super::schedule::Schedule;
use super::stepper::{State, Stepper};
use crate::data::Dataset;
use crate::graph::Head;
use crate::model::Model;
use crate::size::ImageSize;
use candle_core::Device;
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Trains a detector or a classifier and gives back the moving average of its weights.
///
/// Where an end-to-end head has both branches, both are trained: the one-to-many branch together with all layers below the
/// head, the one-to-one branch on what these give it, and their weights move from the one to the other in the course of
/// the epochs ([`one2many_weight`](super::loss::one2many_weight)). A one-to-one branch alone trains the layers below it, too.
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
    let mut stepper = Autograd::new(model, teacher, config, device)?;
    let Saved { epochs: done, state } = start(model, kept.as_ref(), progress)?;
    stepper.restore(&state)?;
    drop(state);
    let steps = loader.batches();
    let schedule = Schedule {
        peak: config.lr,
        last: config.lr_last,
        warmup: (config.warmup * steps as f64).round() as u64,
        steps: (steps * config.epochs) as u64,
        decay: config.decay,
    };
    let (loader, pool) = (&loader, &pool);
    let mut epochs = Epochs { stepper: &mut stepper, loader, pool, schedule, count: config.epochs };
    for epoch in done..config.epochs {
        let terms = epochs.run(epoch, progress)?;
        if let Some(kept) = &kept {
            let saved = Saved { epochs: epoch + 1, state: epochs.stepper.state()? };
            match checkpoint::save(&saved, model, &kept.identity, kept.path) {
                // A full disk costs what an interruption would lose, not the training.
                Err(TrainError::File(problem)) => progress(FitEvent::NotSaved { problem: problem.to_string() }),
                saved => saved?,
            }
        }
        progress(FitEvent::Epoch { epoch, terms });
    }
    Ok(Model::new(model.graph.clone(), stepper.average()?, model.info.clone())?)
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
fn start(model: &Model, kept: Option<&Kept>, progress: &mut dyn FnMut(FitEvent)) -> Result<Saved, TrainError> {
    let saved = match kept.filter(|kept| kept.path.exists()) {
        Some(kept) => continued(model, &kept.identity, kept.path, progress)?,
        None => None,
    };
    if let Some(saved) = saved {
        progress(FitEvent::Resumed { epochs: saved.epochs });
        return Ok(saved);
    }
    Ok(Saved { epochs: 0, state: State::new(&model.weights) })
}

/// The state in a checkpoint. One that no training can use is moved out of the way; one of another training is an
/// error.
fn continued(
    model: &Model,
    identity: &Identity,
    path: &Path,
    progress: &mut dyn FnMut(FitEvent),
) -> Result<Option<Saved>, TrainError> {
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

/// Everything that the epochs of a training share.
struct Epochs<'a> {
    stepper: &'a mut dyn Stepper,
    loader: &'a Loader<'a>,
    pool: &'a rayon::ThreadPool,
    schedule: Schedule,
    /// Epochs in all.
    count: usize,
}

impl Epochs<'_> {
    /// All steps of an epoch; gives their mean loss. The loader makes batches in the pool, one ahead of the step that
    /// uses it.
    fn run(&mut self, epoch: usize, progress: &mut dyn FnMut(FitEvent)) -> Result<Terms, TrainError> {
        let (loader, pool, schedule) = (self.loader, self.pool, self.schedule);
        let (steps, epochs) = (loader.batches(), self.count);
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(1);
            scope.spawn(move || {
                let order = loader.order(epoch);
                for index in 0..steps {
                    if send.send(pool.install(|| loader.batch(&order, epoch, index))).is_err() {
                        return;
                    }
                }
            });
            let mut mean = Terms::default();
            for (step, batch) in receive.iter().enumerate() {
                let (batch, at) = (batch?, At { epoch, step, steps, epochs });
                let lr = schedule.rate((epoch * steps + step) as u64);
                let (terms, norm) = pool.install(|| self.stepper.step(&batch, at, lr))?;
                let diverged = |what, value| TrainError::Diverged { at, what, value, lr };
                if !terms.sum().is_finite() {
                    return Err(diverged("loss", terms.sum()));
                }
                if !norm.is_finite() {
                    return Err(diverged("gradient", norm));
                }
                progress(FitEvent::Step { at, terms, lr, norm });
                mean.add(&terms, 1.0 / steps as f64);
            }
            Ok(mean)
        })
    }
}
