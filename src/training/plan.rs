//! What a training takes, decided before its first step: its launches, and the memory to the byte.

use super::backward::Reach;
use super::error::TrainingError;
use super::layout::Layout;
use super::loss::Detection;
use super::program::{Phase, Places, Program, Recipe};
use crate::graph::{Graph, Op};
use crate::kernels::cuda::training::{StepRule, Tensors};
use crate::model::Model;
use crate::ranks::Gpus;
use std::collections::BTreeSet;
use std::sync::Arc;

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
    /// The convolutions that may round as in int8; without any there is no other [`Phase`] than the plain one.
    pub rounded: &'a BTreeSet<String>,
    /// The loss, where the device computes it.
    pub loss: Option<&'a Detection>,
    /// The GPUs of all ranks, where several share every batch: gradients are added over them.
    pub gpus: Option<&'a Arc<Gpus>>,
    /// Whether normalisations then have the statistics of the whole batch; else of this rank's images.
    pub sync_batch_norm: bool,
}

impl Setup<'_> {
    fn phases(&self) -> &'static [Phase] {
        if self.rounded.is_empty() { &[Phase::Plain] } else { &Phase::ALL }
    }
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

/// What a training keeps on the device, by place.
pub(super) struct Planned {
    pub layout: Layout,
    pub places: Places,
    /// Of every phase those of all sizes of batches.
    pub programs: Vec<Program>,
    pub memory: Memory,
}

/// The memory that a training of this graph will take.
///
/// # Errors
/// If the graph does not fit the size, or the kernels cannot train it.
pub fn plan(graph: &Graph, setup: &Setup<'_>) -> Result<Memory, TrainingError> {
    planned(graph, setup, setup.batches).map(|planned| planned.memory)
}

/// The same with all launches, for these sizes of batches.
///
/// # Errors
/// As [`plan`].
pub(super) fn planned(graph: &Graph, setup: &Setup<'_>, batches: &[usize]) -> Result<Planned, TrainingError> {
    check(graph)?;
    if let Some(teacher) = setup.teacher.filter(|t| t.graph.input_channels() != graph.input_channels()) {
        let channels = [graph, &teacher.graph].map(Graph::input_channels);
        let problem = format!("its images have {} channels, those of its teacher {}", channels[0], channels[1]);
        return Err(TrainingError::Unfit(problem));
    }
    if let Some(loss) = setup.loss {
        loss.check(graph)?;
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
    let places = Places::new(&layout, slots, setup.keep_zeros, teacher_layout.as_ref(), setup.rounded.len());
    let ranks = setup.gpus.map_or(1, |gpus| gpus.communicator().size());
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
        rounded: setup.rounded,
        loss: setup.loss,
        ranks,
        normalised: if setup.sync_batch_norm { ranks } else { 1 },
    };
    let of = |phase: &Phase| batches.iter().map(|batch| recipe.program(*batch, *phase)).collect::<Vec<_>>();
    let programs = setup.phases().iter().flat_map(of).collect::<Result<Vec<_>, _>>()?;
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

/// The largest batch below `batch` that fits so many bytes.
pub(super) fn largest(graph: &Graph, setup: &Setup<'_>, free: usize, batch: usize) -> Option<usize> {
    let fits = |batch: usize| planned(graph, setup, &[batch]).is_ok_and(|planned| planned.memory.total() <= free);
    let (mut good, mut bad) = (0, batch);
    while bad - good > 1 {
        let middle = (good + bad) / 2;
        if fits(middle) { good = middle } else { bad = middle }
    }
    (good > 0).then_some(good)
}
