//! A network that is trained on a CUDA device.

use super::error::TrainingError;
use super::exchange;
use super::layout::{Layout, Part};
use super::loss::Factors;
use super::plan::{Memory, Planned, Setup, largest, planned};
use super::program::{Pass, Phase, Program};
use crate::kernels::InputSteps;
use crate::kernels::cuda::training::{CONTROL_LEN, Control, RESULTS_LEN, TERMS_LEN, device_steps};
use crate::kernels::cuda::{CudaError, Device, Frame};
use crate::model::{Model, Tensor, Weights};
use crate::ranks::Gpus;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Weight of a batch's statistics in the running ones, where nobody says otherwise.
const MOMENTUM: f32 = 0.03;

/// The passes of a program.
const FORWARD: usize = 0;
const BACKWARD: usize = 1;
const UPDATE: usize = 2;

/// An output of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// `[n, c, h, w]`.
    pub shape: [usize; 4],
    /// Its values, in the order of the shape.
    pub values: Vec<f32>,
}

/// A network on a CUDA device, with the state of its optimizer and the moving average of its weights.
pub struct TrainingEngine {
    /// Those of all ranks, where there are several; left before the device is.
    gpus: Option<Arc<Gpus>>,
    device: Device,
    planned: Planned,
    batches: Vec<usize>,
    /// The layers that may round.
    rounded: BTreeSet<String>,
    /// The weight of a batch's statistics in the running ones.
    momentum: f32,
    /// Values of an image, and of the outputs of the network, without its teacher's.
    outputs: usize,
    /// Number of the program of the last forward pass.
    current: usize,
}

impl TrainingEngine {
    /// Puts a model on a device: its weights, averages that are the same, slots of zeros.
    ///
    /// # Errors
    /// If the kernels cannot train it, it does not fit the memory (with the batch that would), or the device fails.
    pub fn new(mut device: Device, model: &Model, setup: &Setup<'_>) -> Result<Self, TrainingError> {
        let planned = planned(&model.graph, setup, setup.batches)?;
        let (bytes, free) = (planned.memory.total(), device.free_memory()?);
        let batch = setup.batches.iter().copied().max().unwrap_or(0);
        if bytes > free {
            return Err(TrainingError::Memory { batch, bytes, free, fits: largest(&model.graph, setup, free, batch) });
        }
        let passes = || planned.programs.iter().flat_map(|program| &program.passes);
        if !passes().flat_map(|pass| &pass.launches).all(|launch| launch.in_bounds(bytes)) {
            return Err(CudaError::TooLarge.into());
        }
        device.reserve(bytes.div_ceil(4))?;
        if setup.gpus.is_some() {
            device.open_side()?;
        }
        device.record_frames(&passes().map(frame).collect::<Vec<_>>())?;
        let (gpus, batches, rounded) = (setup.gpus.cloned(), setup.batches.to_vec(), setup.rounded.clone());
        let (outputs, momentum) = (model.graph.outputs.len(), f32::NAN);
        let mut engine = Self { gpus, device, planned, batches, rounded, momentum, outputs, current: 0 };
        engine.set_momentum(MOMENTUM)?;
        engine.set_steps(&BTreeMap::new())?;
        engine.restore(&model.weights, &model.weights, &Weights::new())?;
        let Planned { places, layout, .. } = &engine.planned;
        let zeros = vec![0.0; layout.trained()];
        engine.device.upload(places.gradients / 4, &zeros)?;
        if let Some(masks) = places.masks {
            let values = layout.pack(&zero_masks(&model.weights));
            engine.device.upload(masks / 4, &values[..layout.part(Part::Kernels).1])?;
        }
        if let Some(teacher) = setup.teacher {
            let layout = Layout::new(&teacher.graph, &|_, _| false, false);
            engine.device.upload(places.teacher / 4, &layout.pack(&teacher.weights))?;
        }
        Ok(engine)
    }

    /// Bytes of GPU memory in use.
    pub fn memory(&self) -> Memory {
        self.planned.memory
    }

    /// Name of the device.
    pub fn device_name(&self) -> &str {
        self.device.name()
    }

    /// Launches of a step of the batch of this number: forward, backward, update.
    pub fn launches(&self, batch: usize) -> [usize; 3] {
        let count = |program: &Program| program.passes.each_ref().map(|pass| pass.launches.len());
        self.planned.programs.get(batch).map_or([0; 3], count)
    }

    /// The weight of the next batches' statistics in the running ones; 0.03 where nobody says otherwise.
    ///
    /// # Errors
    /// Those of the device.
    pub fn set_momentum(&mut self, momentum: f32) -> Result<(), TrainingError> {
        if self.momentum != momentum {
            self.device.enter()?;
            self.device.upload(self.planned.places.momentum / 4, &[momentum])?;
            self.momentum = momentum;
        }
        Ok(())
    }

    /// The steps of the inputs of the layers that round; layers without any compute as they are.
    ///
    /// # Errors
    /// A layer that the training was not set up to round, and those of the device.
    pub fn set_steps(&mut self, steps: &BTreeMap<String, InputSteps>) -> Result<(), TrainingError> {
        if let Some(layer) = steps.keys().find(|layer| !self.rounded.contains(*layer)) {
            return Err(TrainingError::Unfit(format!("layer `{layer}` does not round in this training")));
        }
        let values: Vec<f32> = self.rounded.iter().flat_map(|layer| device_steps(steps.get(layer).copied())).collect();
        self.device.enter()?;
        Ok(self.device.upload(self.planned.places.steps / 4, &values)?)
    }

    /// The outputs for images `[n, channels, height, width]`, in training mode, and those of the teacher. The running
    /// statistics move.
    ///
    /// # Errors
    /// If there are not as many images as a batch has, the phase is not one of this training, a rank cannot be reached, or
    /// the device fails.
    pub fn forward(&mut self, images: &[f32], phase: Phase) -> Result<(Vec<Output>, Vec<Output>), TrainingError> {
        self.pass(&[images], phase)?;
        let current = self.current;
        let mut results = self.device.frame_results(3 * current + FORWARD);
        let mut outputs: Vec<Output> = Vec::new();
        for shape in &self.planned.programs[current].outputs {
            let (own, behind) = results.split_at(shape.iter().product());
            outputs.push(Output { shape: *shape, values: own.to_vec() });
            results = behind;
        }
        let taught = outputs.split_off(self.outputs);
        Ok((outputs, taught))
    }

    /// The same up to the sums of the loss that the device computes: of every branch by image the sum of the scores, and of
    /// the teacher's confidences. `labels` are as many values of every image: how many objects, and of each its class,
    /// centre and size as shares of the image.
    ///
    /// # Errors
    /// As [`TrainingEngine::forward`].
    pub fn assign(
        &mut self,
        images: &[f32],
        labels: &[f32],
        phase: Phase,
    ) -> Result<Vec<Vec<[f32; 2]>>, TrainingError> {
        self.pass(&[images, labels], phase)?;
        let sums = self.device.frame_results(3 * self.current + FORWARD).chunks_exact(2).map(|sums| [sums[0], sums[1]]);
        let sums: Vec<[f32; 2]> = sums.collect();
        let images = self.batches[self.current % self.batches.len()];
        Ok(sums.chunks(images.max(1)).map(<[_]>::to_vec).collect())
    }

    /// The backward pass of the last [`TrainingEngine::assign`], by the factors of every branch, which are multiplied by
    /// `loss_scale`. Gives the terms of every branch without their factors. What the forward pass left is gone then.
    ///
    /// # Errors
    /// If there are not as many factors as branches, or the device fails.
    pub fn descend(&mut self, factors: &[Factors], loss_scale: f32) -> Result<Vec<Factors>, TrainingError> {
        let frame = 3 * self.current + BACKWARD;
        let given: Vec<f32> = factors.iter().flat_map(|factors| factors.values(loss_scale)).collect();
        let input = self.device.frame_input_mut(frame);
        if input.len() != given.len() {
            let expected = input.len().to_string();
            return Err(TrainingError::Length { what: "factors", found: given.len(), expected });
        }
        input.copy_from_slice(&given);
        self.run(BACKWARD)?;
        Ok(self.device.frame_results(frame).chunks_exact(TERMS_LEN).map(Factors::of_terms).collect())
    }

    /// Runs the forward pass of a batch, given in parts.
    fn pass(&mut self, parts: &[&[f32]], phase: Phase) -> Result<(), TrainingError> {
        let programs = self.planned.programs.iter().take(self.batches.len());
        let lens: Vec<usize> = programs.map(|program| program.passes[FORWARD].transfers.input.1).collect();
        let found = parts.iter().map(|part| part.len()).sum::<usize>();
        let Some(batch) = lens.iter().position(|len| *len == found) else {
            let expected = format!("one of {lens:?} (batches of {:?})", self.batches);
            return Err(TrainingError::Length { what: "images", found, expected });
        };
        let current = phase as usize * self.batches.len() + batch;
        if current >= self.planned.programs.len() {
            return Err(TrainingError::Unfit("no layer rounds in this training".into()));
        }
        self.current = current;
        let mut input = self.device.frame_input_mut(3 * current + FORWARD);
        for part in parts {
            let (own, behind) = input.split_at_mut(part.len());
            own.copy_from_slice(part);
            input = behind;
        }
        self.run(FORWARD)
    }

    /// The backward pass of the last forward pass: gradients of the outputs in their order and layout, which are multiplied
    /// by `loss_scale` on the way. What the forward pass left is gone then. Of several ranks all get the sums of their
    /// gradients, and the same running statistics.
    ///
    /// # Errors
    /// If the gradients are not those of the outputs, a rank cannot be reached, or the device fails.
    pub fn backward(&mut self, gradients: &[Vec<f32>], loss_scale: f32) -> Result<(), TrainingError> {
        let frame = 3 * self.current + BACKWARD;
        let found = gradients.iter().map(Vec::len).sum::<usize>();
        let (head, planes) = self.device.frame_input_mut(frame).split_at_mut(CONTROL_LEN);
        if planes.len() != found {
            return Err(TrainingError::Length { what: "gradients", found, expected: planes.len().to_string() });
        }
        head.copy_from_slice(&Control { loss_scale, ..Control::default() }.values());
        let mut behind = planes;
        for gradient in gradients {
            let (own, rest) = behind.split_at_mut(gradient.len());
            own.copy_from_slice(gradient);
            behind = rest;
        }
        self.run(BACKWARD)
    }

    /// Runs a pass of the current program.
    fn run(&mut self, pass: usize) -> Result<(), TrainingError> {
        let frame = 3 * self.current + pass;
        let exchanges = &self.planned.programs[self.current].passes[pass].exchanges;
        match self.gpus.as_deref().filter(|_| !exchanges.is_empty()) {
            Some(gpus) => Ok(exchange::run(&mut self.device, frame, gpus, exchanges)?),
            None => Ok(self.device.run_frame(frame)?),
        }
    }

    /// The step that follows from the gradients. Gives their norm before clipping; where it is not finite, nothing has
    /// changed.
    ///
    /// # Errors
    /// Those of the device.
    pub fn update(&mut self, control: &Control) -> Result<f64, TrainingError> {
        let frame = 3 * self.current + UPDATE;
        self.device.frame_input_mut(frame).copy_from_slice(&control.values());
        self.run(UPDATE)?;
        let mut results = [0.0; RESULTS_LEN];
        results.copy_from_slice(self.device.frame_results(frame));
        let [norm, is_finite] = results;
        Ok(if is_finite == 0.0 { f64::NAN } else { norm.into() })
    }

    /// The gradients of the last backward pass times the scale of its loss, all parameters in one run, whose order depends
    /// on the network and what is trained of it alone.
    ///
    /// # Errors
    /// Those of the device.
    pub fn flat_gradients(&self) -> Result<Vec<f32>, TrainingError> {
        self.device.enter()?;
        let mut values = vec![0.0; self.planned.layout.trained()];
        self.device.download(self.planned.places.gradients / 4, &mut values)?;
        Ok(values)
    }

    /// Puts such gradients in place of those of the last backward pass.
    ///
    /// # Errors
    /// If there are not as many, or the device fails.
    pub fn set_flat_gradients(&mut self, gradients: &[f32]) -> Result<(), TrainingError> {
        let (found, expected) = (gradients.len(), self.planned.layout.trained());
        if found != expected {
            return Err(TrainingError::Length { what: "gradients", found, expected: expected.to_string() });
        }
        self.device.enter()?;
        Ok(self.device.upload(self.planned.places.gradients / 4, gradients)?)
    }

    /// Gradients of the last backward pass, by parameter, times the scale of its loss.
    ///
    /// # Errors
    /// Those of the device.
    pub fn gradients(&self) -> Result<Weights, TrainingError> {
        self.read(self.planned.places.gradients, self.planned.layout.trained())
    }

    /// The weights, running statistics included.
    ///
    /// # Errors
    /// Those of the device.
    pub fn weights(&self) -> Result<Weights, TrainingError> {
        self.read(self.planned.places.parameters, self.planned.layout.len())
    }

    /// Their moving averages.
    ///
    /// # Errors
    /// Those of the device.
    pub fn averages(&self) -> Result<Weights, TrainingError> {
        self.read(self.planned.places.averages, self.planned.layout.len())
    }

    /// The slots of the optimizer by parameter: `names` of as many slots as it has, as `{name}/{key}`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn slots(&self, names: &[&str]) -> Result<Weights, TrainingError> {
        let mut all = Weights::new();
        for (name, at) in names.iter().zip(self.planned.places.slots) {
            let slot = self.read(at, self.planned.layout.trained())?;
            all.extend(slot.into_iter().map(|(key, tensor)| (format!("{name}/{key}"), tensor)));
        }
        Ok(all)
    }

    /// Takes up weights, averages and slots (`{name}/{key}`; those of [`TrainingEngine::slots`] in the order of the names,
    /// which is alphabetical); slots that are missing are zero.
    ///
    /// # Errors
    /// Those of the device.
    pub fn restore(&mut self, weights: &Weights, averages: &Weights, slots: &Weights) -> Result<(), TrainingError> {
        let Planned { places, layout, .. } = &self.planned;
        self.device.enter()?;
        self.device.upload(places.parameters / 4, &layout.pack(weights))?;
        self.device.upload(places.averages / 4, &layout.pack(averages))?;
        let mut names: Vec<&str> = slots.keys().filter_map(|key| key.split_once('/').map(|(name, _)| name)).collect();
        names.sort_unstable();
        names.dedup();
        for (number, at) in places.slots.into_iter().enumerate().filter(|(_, at)| *at != places.gradients) {
            let own: Weights = match names.get(number) {
                Some(name) => slots.iter().filter_map(|(key, tensor)| slot_of(name, key, tensor)).collect(),
                None => Weights::new(),
            };
            self.device.upload(at / 4, &layout.pack(&own)[..layout.trained()])?;
        }
        Ok(())
    }

    fn read(&self, at: usize, len: usize) -> Result<Weights, TrainingError> {
        self.device.enter()?;
        let mut values = vec![0.0; len];
        self.device.download(at / 4, &mut values)?;
        Ok(self.planned.layout.unpack(&values))
    }
}

fn slot_of(name: &str, key: &str, tensor: &Tensor) -> Option<(String, Tensor)> {
    let own = key.strip_prefix(name)?.strip_prefix('/')?;
    Some((own.to_owned(), tensor.clone()))
}

/// The frame of a pass, and where it is cut.
fn frame(pass: &Pass) -> (Frame<'_>, Vec<usize>) {
    let Pass { launches, transfers, exchanges } = pass;
    let cuts = exchange::cuts(exchanges, launches.len());
    (Frame { transfers: *transfers, launches: launches.iter().collect() }, cuts)
}

/// 0 where a kernel is zero, 1 elsewhere.
fn zero_masks(weights: &Weights) -> Weights {
    let mask = |tensor: &Tensor| {
        let values = tensor.data().iter().map(|value| if *value == 0.0 { 0.0 } else { 1.0 }).collect();
        Tensor::new(tensor.shape(), values)
    };
    weights
        .iter()
        .filter(|(_, tensor)| tensor.shape().len() > 1)
        .map(|(key, tensor)| (key.clone(), mask(tensor)))
        .collect()
}
