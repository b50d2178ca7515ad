//! The training loop: epochs, order, learning rates, held-back images and checkpoints. What a step computes is the
//! [`Stepper`]'s.
//!
//! Every step is a function of the seed and of its number alone: order and augmentation are drawn afresh for each
//! image of each epoch, so that a training that resumes from a checkpoint gives the result of an uninterrupted one.

use super::autograd::Autograd;
use super::batch::{Batch, Loader, check_data};
use super::checkpoint::Saved;
use super::config::{At, EpochRow, FitConfig, FitEvent, PastEpoch, TrainError};
use super::course::Course;
use super::identity::Identity;
use super::int8::Int8;
use super::judge::{self, Judge};
use super::kept::{Kept, fresh, received};
use super::on_cuda::{Device, OnCuda};
use super::schedule::Schedule;
use super::stepper::Stepper;
use crate::data::Dataset;
use crate::graph::Head;
use crate::model::{Model, Weights};
use crate::quantise::Ranges;
use crate::size::ImageSize;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Trains a detector or a classifier and gives back the moving average of its weights.
///
/// Where an end-to-end head has both branches, both are trained: the one-to-many branch together with all layers below
/// the head, the one-to-one branch on what these give it, and their weights move from the one to the other in the
/// course of the epochs ([`one2many_weight`](super::loss::one2many_weight)). A one-to-one branch alone trains the
/// layers below it, too.
///
/// With a teacher, which must have the same head, the model also learns from the teacher's outputs on the same
/// images (see [`distill`](super::distill)).
///
/// With `config.hold_out`, images that are not trained on judge the averaged weights of every epoch, and the best ones
/// are given back, of such as these images cannot tell apart the last: those of `model` itself, where no epoch finds more.
///
/// With `config.int8`, the last epochs round kernels and inputs as the int8 network does, and held-back images judge that
/// network after every epoch. What is given back is in f32; [`quantise`](crate::quantise) makes it int8.
///
/// With `config.checkpoint`, the state is saved after every epoch and every `config.save_seconds`, and a training that
/// finds the file resumes from there, if it is the same one ([`Identity`](super::Identity)); on the CPU the result is
/// the same to the bit. A loss that is not finite or explodes takes the training back to the end of the last epoch,
/// with lower learning rates, at most three times.
///
/// With `config.ranks`, ranks share every batch: each computes on its images, and gradients are summed. The first rank
/// keeps the checkpoint; all give the same result. On the CPU normalisations have the statistics of the whole batch, and
/// one, two and four ranks give the same bits. On CUDA devices, of which each rank has one, they do so with
/// `config.sync_batch_norm`; else they have those of the rank's images, and running statistics are the first rank's.
///
/// # Errors
/// Settings or data that do not fit the model, images that cannot be read, a training that diverges again and again, or
/// that is stopped ([`Stop`](super::Stop)), a checkpoint of another training, and errors of the tensor backend.
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
    check_data(dataset, model)?;
    if config.label_smoothing > 0.0 && !matches!(model.graph.head, Head::Classify { .. }) {
        let problem = "is for classifiers: the class targets of a detector are soft by themselves".into();
        return Err(TrainError::Setting { setting: "label-smoothing", problem });
    }
    let pool = ThreadPoolBuilder::new().num_threads(config.threads).build()?;
    let workers = match config.workers {
        0 => None,
        count => Some(ThreadPoolBuilder::new().num_threads(count).build()?),
    };
    Identity::check_ranks(model, teacher, dataset, config)?;
    let (train, held) = judge::part(dataset, config);
    let loader = Loader::new(&train, model, config)?;
    let judge = held
        .filter(|_| config.epochs > 0)
        .map(|held| Judge::new(model, &held, (config, device.engine())))
        .transpose()?;
    let kept = Kept::of(model, teacher, dataset, config)?;
    let cpu = candle_core::Device::Cpu;
    let mut stepper: Box<dyn Stepper + '_> = match device {
        Device::Cpu => Box::new(Autograd::new(model, teacher, config, &cpu)?),
        Device::Cuda(cuda) => {
            let on_cuda = OnCuda::new(model, teacher, (config, &loader.own_sizes(), loader.most_objects()), *cuda)?;
            let (name, bytes) = on_cuda.device();
            progress(FitEvent::Device { name: name.to_owned(), bytes });
            Box::new(on_cuda)
        }
    };
    let steps = loader.batches();
    let mut training = Training {
        model,
        config,
        stepper: &mut *stepper,
        loader: &loader,
        judge: judge.as_ref(),
        int8: Int8::new(model, &train, (config, device.engine())),
        kept,
        pool: &pool,
        workers: workers.as_ref().unwrap_or(&pool),
        schedule: Schedule {
            peak: config.lr,
            last: config.lr_last,
            warmup: (config.warmup * steps as f64).round() as u64,
            steps: (steps * config.epochs) as u64,
            decay: config.decay,
        },
        course: Course::new(),
        good: fresh(model),
    };
    let weights = training.run(progress)?;
    Ok(Model::new(model.graph.clone(), weights, model.info.clone())?)
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

/// A training, and where it stands.
struct Training<'a> {
    model: &'a Model,
    config: &'a FitConfig,
    stepper: &'a mut dyn Stepper,
    loader: &'a Loader<'a>,
    judge: Option<&'a Judge<'a>>,
    int8: Option<Int8<'a>>,
    kept: Option<Kept<'a>>,
    pool: &'a ThreadPool,
    /// Prepare the images.
    workers: &'a ThreadPool,
    schedule: Schedule,
    course: Course,
    /// The end of the last epoch, to which a training that diverges goes back; and the weights that ship so far.
    good: Saved,
}

/// What the steps of an epoch took.
struct Took {
    images: usize,
    time: Duration,
}

impl Training<'_> {
    /// Trains, and gives the weights that ship.
    fn run(&mut self, progress: &mut dyn FnMut(FitEvent)) -> Result<Weights, TrainError> {
        let listening = self.config.stop.listen();
        self.begin(progress)?;
        while !self.course.is_finished(self.config) {
            match self.epoch(progress) {
                Err(error @ TrainError::Diverged { .. }) => self.roll_back(error, progress)?,
                done => done?,
            }
        }
        drop(listening);
        let (Some(_), Some(before)) = (self.judge, self.course.before) else { return self.stepper.average() };
        let Course { best, chosen, epoch: epochs, .. } = &self.course;
        progress(FitEvent::Chosen {
            epoch: chosen.map(|chosen| chosen.epoch),
            figure: chosen.map_or(before, |chosen| chosen.found),
            before,
            best: best.as_ref().map(|best| (best.epoch, best.found.figure)),
            epochs: *epochs,
        });
        Ok(self.good.best.take().unwrap_or_else(|| self.model.weights.clone()))
    }

    /// Takes up what is saved, and judges the network as it is.
    fn begin(&mut self, progress: &mut dyn FnMut(FitEvent)) -> Result<(), TrainError> {
        let (end, inside) = match &self.kept {
            Some(kept) => kept.resume(progress)?,
            None => (None, None),
        };
        let of = (self.model, &self.config.ranks);
        let (end, inside) = (received(of, self.kept.as_ref(), end)?, received(of, self.kept.as_ref(), inside)?);
        self.good = end.unwrap_or_else(|| fresh(self.model));
        let now = inside.as_ref().unwrap_or(&self.good);
        self.course = now.course.clone();
        self.stepper.restore(&now.state)?;
        let Course { epoch: epochs, step, .. } = self.course;
        if epochs + step > 0 {
            progress(FitEvent::Resumed { epochs, step, past: self.course.past.clone() });
        }
        if self.course.ranges.is_none() {
            self.course.ranges = self.ranges(0, &self.model.weights)?;
            self.good.course.ranges.clone_from(&self.course.ranges);
        }
        if self.int8.is_some() {
            progress(FitEvent::Int8 {
                epochs: self.config.int8.epochs.min(self.config.epochs),
                of: self.config.epochs,
            });
        }
        if let Some(judge) = self.judge {
            let before = match self.course.before {
                Some(known) => known,
                None => judge.judge(&self.model.weights, self.int8.as_ref().zip(self.course.ranges.as_ref()))?.figure,
            };
            (self.course.before, self.good.course.before) = (Some(before), Some(before));
            progress(FitEvent::HeldBack { images: judge.images(), metric: judge.metric(), before });
        }
        Ok(())
    }

    /// Of a training for int8 the ranges with these weights, where held-back images or the epoch of this number, from 0,
    /// need them.
    fn ranges(&self, epoch: usize, weights: &Weights) -> Result<Option<Ranges>, TrainError> {
        let rounds = self.rounds(epoch);
        self.int8.as_ref().filter(|_| rounds || self.judge.is_some()).map(|int8| int8.ranges(weights)).transpose()
    }

    /// Whether an epoch trains for int8.
    fn rounds(&self, epoch: usize) -> bool {
        self.config.int8.first(self.config.epochs).is_some_and(|first| epoch >= first)
    }

    /// The rest of an epoch.
    fn epoch(&mut self, progress: &mut dyn FnMut(FitEvent)) -> Result<(), TrainError> {
        let started = Instant::now();
        let (epoch, epochs, steps) = (self.course.epoch, self.config.epochs, self.loader.batches());
        let share = 1.0 - self.course.step as f64 / steps as f64;
        let ranges = self.course.ranges.clone().filter(|_| self.rounds(epoch)).unwrap_or_default();
        self.stepper.set_int8(&ranges)?;
        let took = self.steps(progress)?;
        let mut held = None;
        let mut best = self.good.best.take();
        if self.int8.is_some() {
            self.course.ranges = self.ranges(epoch + 1, &self.stepper.average()?)?;
        }
        if let Some(judge) = self.judge {
            let average = self.stepper.average()?;
            let judged = judge.judge(&average, self.int8.as_ref().zip(self.course.ranges.as_ref()))?;
            held = Some((judge.metric(), judged.figure));
            if self.course.judge(epoch, judged) {
                best = Some(average);
            }
        }
        let terms = std::mem::take(&mut self.course.mean);
        // That of the last step, which an interrupted run may have done.
        let lr = self.rate(At { epoch, step: steps - 1, steps, epochs });
        self.course.past.push(PastEpoch { terms, held: held.map(|(_, figure)| figure), lr });
        (self.course.epoch, self.course.step) = (epoch + 1, 0);
        self.good = Saved { course: self.course.clone(), state: self.stepper.state()?, best };
        let saved = match &mut self.kept {
            Some(kept) => kept.save(&self.good, progress)?,
            None => false,
        };
        let left = started.elapsed().as_secs_f64() * (epochs - epoch - 1) as f64;
        let row = EpochRow {
            epochs,
            held,
            lr,
            images_per_second: took.images as f64 / took.time.as_secs_f64().max(1e-9),
            seconds_left: if share > 0.0 { left / share } else { left },
        };
        progress(FitEvent::Epoch { epoch, terms, row });
        match self.agree(false)?.0 {
            Some(signal) => {
                let at = At { epoch, step: steps - 1, steps, epochs };
                Err(TrainError::Interrupted { signal, at, saved })
            }
            None => Ok(()),
        }
    }

    /// The steps of an epoch that are left. The loader makes batches one ahead of the step that uses it.
    fn steps(&mut self, progress: &mut dyn FnMut(FitEvent)) -> Result<Took, TrainError> {
        let (loader, workers, first) = (self.loader, self.workers, self.course.step);
        let (epoch, epochs, steps) = (self.course.epoch, self.config.epochs, loader.batches());
        let mut took = Took { images: 0, time: Duration::ZERO };
        let started = Instant::now();
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel(1);
            scope.spawn(move || {
                let order = loader.order(epoch);
                for index in first..steps {
                    if send.send(workers.install(|| loader.batch(&order, epoch, index))).is_err() {
                        return;
                    }
                }
            });
            for (step, batch) in (first..).zip(receive.iter()) {
                let batch = batch?;
                took.images += batch.share.images();
                self.step(&batch, At { epoch, step, steps, epochs }, progress)?;
            }
            took.time = started.elapsed();
            Ok(took)
        })
    }

    /// The learning rate of a step.
    fn rate(&self, at: At) -> f64 {
        self.schedule.rate((at.epoch * at.steps + at.step) as u64) * self.course.rate
    }

    /// One step. Saves the state where it is time to, and ends where somebody asks for it.
    fn step(&mut self, batch: &Batch, at: At, progress: &mut dyn FnMut(FitEvent)) -> Result<(), TrainError> {
        let lr = self.rate(at);
        let (pool, stepper) = (self.pool, &mut *self.stepper);
        let (terms, norm) = pool.install(|| stepper.step(batch, at, lr))?;
        let diverged = |what, value| TrainError::Diverged { at, what, value, lr };
        if !terms.sum().is_finite() || self.course.explodes(terms.sum()) {
            return Err(diverged("loss", terms.sum()));
        }
        if !norm.is_finite() {
            return Err(diverged("gradient", norm));
        }
        progress(FitEvent::Step { at, terms, lr, norm });
        self.course.mean.add(&terms, 1.0 / at.steps as f64);
        self.course.step = at.step + 1;
        let (signal, due) = self.agree(self.kept.as_ref().is_some_and(Kept::is_due))?;
        if signal.is_some() || due {
            let saved = self.save_within(progress)?;
            if let Some(signal) = signal {
                return Err(TrainError::Interrupted { signal, at, saved });
            }
        }
        Ok(())
    }

    /// The signal that asks to stop on any rank, and whether one of them is to save its state.
    fn agree(&self, due: bool) -> Result<(Option<i32>, bool), TrainError> {
        let signal = self.config.stop.requested().unwrap_or(0);
        let [signal, due] = self.config.ranks.largest([f64::from(signal), f64::from(u8::from(due))])?;
        Ok((Some(signal as i32).filter(|signal| *signal != 0), due > 0.0))
    }

    /// Saves the state within the epoch; whether that was possible.
    fn save_within(&mut self, progress: &mut dyn FnMut(FitEvent)) -> Result<bool, TrainError> {
        let Some(kept) = &mut self.kept else { return Ok(false) };
        let best = self.good.best.clone();
        let saved = Saved { course: self.course.clone(), state: self.stepper.state()?, best };
        kept.save_within(&saved, progress)
    }

    /// Goes back to the last good state after an error, or gives the error back where that was tried often enough.
    fn roll_back(&mut self, error: TrainError, progress: &mut dyn FnMut(FitEvent)) -> Result<(), TrainError> {
        if !self.course.roll_back(&self.good.course) {
            return Err(error);
        }
        self.stepper.restore(&self.good.state)?;
        let Course { epoch: epochs, rate, .. } = self.course;
        progress(FitEvent::RolledBack { problem: error.place(), epochs, rate });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
