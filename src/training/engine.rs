//! A network that is trained on a CUDA device.

use super::backward::Reach;
use super::layout::{Layout, Part};
use super::program::{Places, Program, Recipe};
use crate::graph::{Graph, GraphError, Op};
use crate::kernels::cuda::training::{CONTROL_LEN, Control, RESULTS_LEN, StepRule, Tensors};
use crate::kernels::cuda::{CudaError, Device, Frame};
use crate::model::{Model, Tensor, Weights};
use crate::ranks::{Gpus, RankError};
use std::collections::BTreeSet;
use thiserror::Error;

/// A training that cannot run on a CUDA device.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// The graph does not fit the size of the images.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The device, or its driver.
    #[error("CUDA: {0}")]
    Cuda(#[from] CudaError),
    /// The memory of the device.
    #[error("a step of {batch} images needs {} MiB of GPU memory, {} MiB are free; {}", bytes >> 20, free >> 20, advice(*fits))]
    Memory {
        /// Images of a step.
        batch: usize,
        /// Bytes needed.
        bytes: usize,
        /// Bytes that are free.
        free: usize,
        /// The most images that would fit.
        fits: Option<usize>,
    },
    /// A network that the kernels cannot train.
    #[error("{0}")]
    Unfit(String),
    /// Images or gradients of the wrong length.
    #[error("the {what} of a step have {found} values, expected {expected}")]
    Length {
        /// What.
        what: &'static str,
        /// Values given.
        found: usize,
        /// What was expected.
        expected: String,
    },
}

fn advice(fits: Option<usize>) -> String {
    match fits {
        Some(1) => "a batch of 1 would fit".into(),
        Some(batch) => format!("batches of up to {batch} images would fit"),
        None => "not even one image would fit".into(),
    }
}

/// How a network is trained.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// Height and width of the images.
    pub size: (usize, usize),
    /// The sizes of batches that occur.
    pub batches: &'a [usize],
    /// Whether tensors are in f16.
    pub mixed: bool,
    /// The optimizer.
    pub rule: StepRule,
    /// Weight decay of kernels.
    pub weight_decay: f64,
    /// L1 penalty on the scales of normalisations, as a share of the learning rate.
    pub sparsity: f64,
    /// Whether weights of kernels that are zero at the start remain zero.
    pub keep_zeros: bool,
    /// Parameters that keep their values.
    pub frozen: &'a BTreeSet<String>,
    /// A network whose outputs for the same images are computed as well.
    pub teacher: Option<&'a Model>,
}

/// Bytes of GPU memory that a training takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, gradients, slots, averages and masks.
    pub parameters: usize,
    /// Tensors, of the largest batch.
    pub tensors: usize,
}

impl Memory {
    /// All bytes.
    pub fn total(&self) -> usize {
        self.parameters + self.tensors
    }
}

/// An output of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// `[n, c, h, w]`.
    pub shape: [usize; 4],
    /// Its values, in the order of the shape.
    pub values: Vec<f32>,
}

/// What a training keeps on the device, by place.
struct Planned {
    layout: Layout,
    places: Places,
    programs: Vec<Program>,
    memory: Memory,
}

/// The memory that a training of this graph will take.
///
/// # Errors
/// If the graph does not fit the size, or the kernels cannot train it.
pub fn plan(graph: &Graph, setup: &Setup<'_>) -> Result<Memory, TrainingError> {
    planned(graph, setup, setup.batches).map(|planned| planned.memory)
}

fn planned(graph: &Graph, setup: &Setup<'_>, batches: &[usize]) -> Result<Planned, TrainingError> {
    check(graph)?;
    if let Some(teacher) = setup.teacher.filter(|t| t.graph.input_channels() != graph.input_channels()) {
        let channels = [graph, &teacher.graph].map(Graph::input_channels);
        let problem = format!("its images have {} channels, those of its teacher {}", channels[0], channels[1]);
        return Err(TrainingError::Unfit(problem));
    }
    let reach = Reach::of(graph, setup.frozen);
    let trained = |node: usize| reach.reached[node] && reach.needed[node];
    let layout = Layout::new(graph, &|node, key| trained(node) && !setup.frozen.contains(key), setup.sparsity > 0.0);
    let teacher = setup.teacher.map(|teacher| &teacher.graph);
    let teacher_layout = teacher.map(|graph| Layout::new(graph, &|_, _| false, false));
    let slots = match setup.rule {
        StepRule::AdamW { .. } => 2,
        StepRule::Sgd { .. } => 1,
        StepRule::Fixed => 0,
    };
    let places = Places::new(&layout, slots, setup.keep_zeros, teacher_layout.as_ref());
    let recipe = Recipe {
        graph,
        reach: &reach,
        teacher,
        size: setup.size,
        layout: &layout,
        teacher_layout: teacher_layout.as_ref(),
        places,
        tensors: Tensors { f16: setup.mixed },
        rule: setup.rule,
        weight_decay: setup.weight_decay as f32,
        sparsity: setup.sparsity as f32,
    };
    let programs = batches.iter().map(|batch| recipe.program(*batch)).collect::<Result<Vec<_>, _>>()?;
    let bytes = programs.iter().map(|program| program.bytes).max().unwrap_or(places.end);
    let memory = Memory { parameters: places.end, tensors: bytes - places.end };
    Ok(Planned { layout, places, programs, memory })
}

/// Refuses layers that there are no kernels for.
pub(super) fn check(graph: &Graph) -> Result<(), TrainingError> {
    let unfit = |problem: String| Err(TrainingError::Unfit(problem));
    for node in &graph.nodes {
        match &node.op {
            Op::Conv(conv) if conv.groups > 1 && !conv.is_depthwise() => {
                return unfit(format!("layer `{}` has {} groups, expected 1 or one a channel", node.name, conv.groups));
            }
            Op::MaxPool { kernel, .. } if *kernel > 255 => {
                return unfit(format!("layer `{}` has windows of {kernel}, expected at most 255", node.name));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A network on a CUDA device, with the state of its optimizer and the moving average of its weights.
pub struct TrainingEngine {
    device: Device,
    planned: Planned,
    batches: Vec<usize>,
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
        let parts = |program: &'_ Program| [&program.forward[..], &program.backward, &program.update].concat();
        let all = planned.programs.iter().flat_map(parts);
        if !all.into_iter().all(|launch| launch.in_bounds(bytes)) {
            return Err(CudaError::TooLarge.into());
        }
        device.reserve(bytes.div_ceil(4))?;
        let frames: Vec<Frame<'_>> = planned.programs.iter().flat_map(frames).collect();
        device.record_frames(&frames)?;
        let mut engine =
            Self { device, planned, batches: setup.batches.to_vec(), outputs: model.graph.outputs.len(), current: 0 };
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
        let count = |p: &Program| [p.forward.len(), p.backward.len(), p.update.len()];
        self.planned.programs.get(batch).map_or([0; 3], count)
    }

    /// The outputs for images `[n, channels, height, width]`, in training mode, and those of the teacher. The running
    /// statistics move.
    ///
    /// # Errors
    /// If there are not as many images as a batch has, or the device fails.
    pub fn forward(&mut self, images: &[f32]) -> Result<(Vec<Output>, Vec<Output>), TrainingError> {
        let lens: Vec<usize> = self.planned.programs.iter().map(|program| program.transfers[0].input.1).collect();
        let Some(current) = lens.iter().position(|len| *len == images.len()) else {
            let (found, expected) = (images.len(), format!("one of {lens:?} (batches of {:?})", self.batches));
            return Err(TrainingError::Length { what: "images", found, expected });
        };
        self.current = current;
        self.device.frame_input_mut(3 * current).copy_from_slice(images);
        self.device.run_frame(3 * current)?;
        let mut results = self.device.frame_results(3 * current);
        let mut outputs: Vec<Output> = Vec::new();
        for shape in &self.planned.programs[current].outputs {
            let (own, behind) = results.split_at(shape.iter().product());
            outputs.push(Output { shape: *shape, values: own.to_vec() });
            results = behind;
        }
        let taught = outputs.split_off(self.outputs);
        Ok((outputs, taught))
    }

    /// The backward pass of the last forward pass: gradients of the outputs in their order and layout, which are multiplied
    /// by `loss_scale` on the way. What the forward pass left is gone then.
    ///
    /// # Errors
    /// If the gradients are not those of the outputs, or the device fails.
    pub fn backward(&mut self, gradients: &[Vec<f32>], loss_scale: f32) -> Result<(), TrainingError> {
        let frame = 3 * self.current + 1;
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
        Ok(self.device.run_frame(frame)?)
    }

    /// The step that follows from the gradients. Gives their norm before clipping; where it is not finite, nothing has
    /// changed.
    ///
    /// # Errors
    /// Those of the device.
    pub fn update(&mut self, control: &Control) -> Result<f64, TrainingError> {
        let frame = 3 * self.current + 2;
        self.device.frame_input_mut(frame).copy_from_slice(&control.values());
        self.device.run_frame(frame)?;
        let mut results = [0.0; RESULTS_LEN];
        results.copy_from_slice(self.device.frame_results(frame));
        let [norm, is_finite] = results;
        Ok(if is_finite == 0.0 { f64::NAN } else { norm.into() })
    }

    /// Adds the gradients of the last backward pass over the GPUs of all ranks, and takes the running statistics of rank 0:
    /// all ranks then go on from the same.
    ///
    /// # Errors
    /// If a rank cannot be reached, or the device fails.
    pub fn share(&mut self, gpus: &Gpus) -> Result<(), RankError> {
        let Planned { places, layout, .. } = &self.planned;
        gpus.sum(&self.device, places.gradients / 4, layout.trained())?;
        let (first, len) = layout.part(Part::Fixed);
        if len == 0 { Ok(()) } else { gpus.broadcast(&self.device, places.parameters / 4 + first, len) }
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

/// The three graphs of a step.
fn frames(program: &Program) -> [Frame<'_>; 3] {
    let [forward, backward, update] = program.transfers;
    [
        Frame { transfers: forward, launches: program.forward.iter().collect() },
        Frame { transfers: backward, launches: program.backward.iter().collect() },
        Frame { transfers: update, launches: program.update.iter().collect() },
    ]
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

/// The largest batch below `batch` that fits so many bytes.
fn largest(graph: &Graph, setup: &Setup<'_>, free: usize, batch: usize) -> Option<usize> {
    let fits = |batch: usize| planned(graph, setup, &[batch]).is_ok_and(|planned| planned.memory.total() <= free);
    let (mut good, mut bad) = (0, batch);
    while bad - good > 1 {
        let middle = (good + bad) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good)
}
