//! The loss of detection as a part of a training's programs: behind the forward pass which cells answer for which objects,
//! in the backward pass the gradients of the outputs. Between the two the host only adds up sums of images, over all
//! ranks, from which the factors of the terms follow.

use super::error::TrainingError;
use super::forward::{Flow, Net};
use super::recorder::{Buffer, Recorder};
use crate::graph::Graph;
use crate::kernels::cuda::Launch;
use crate::kernels::cuda::training::{
    Batch, FACTORS_LEN, LossArrays, LossLevel, LossShape, TAKEN_BYTES, TERMS_LEN, Tensors,
};

/// The most levels of a head that the kernels take, and the most cells that an object chooses.
pub const MOST_LEVELS: usize = 3;
/// See [`MOST_LEVELS`].
pub const MOST_TOP: usize = 10;

/// The loss of a head that finds boxes and nothing else, as the device computes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Bins of a side; 1 where the output is the distance itself.
    pub bins: usize,
    /// Its branches, in the order of the graph's outputs: each has as many pairs of box outputs and class logits.
    pub branches: Vec<LossBranch>,
    /// The most objects of an image.
    pub objects: usize,
    /// Temperature of the teacher's distributions.
    pub temperature: f64,
    /// The least confidence of the teacher in a cell whose box it teaches.
    pub min_confidence: f32,
}

/// How cells are assigned to objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossBranch {
    /// Cells that an object chooses.
    pub top: usize,
    /// Whether it keeps one only.
    pub keeps_one: bool,
}

/// What the gradients of a branch's terms are multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// Of `1 - overlap`, weighted by the scores.
    pub boxes: f64,
    /// Of the cross-entropy of the classes.
    pub classes: f64,
    /// Of the distances from the sides, weighted by the scores.
    pub distances: f64,
    /// Of the cross-entropy with the teacher's probabilities.
    pub taught_classes: f64,
    /// Of the distances from the teacher's sides, weighted by its confidences.
    pub taught_boxes: f64,
}

impl Factors {
    /// As the device reads them, with the scale of the loss.
    pub(super) fn values(&self, loss_scale: f32) -> [f32; FACTORS_LEN] {
        let Self { boxes, classes, distances, taught_classes, taught_boxes } = *self;
        let [boxes, classes, distances, taught_classes, taught_boxes] =
            [boxes, classes, distances, taught_classes, taught_boxes].map(|factor| factor as f32);
        [boxes, classes, distances, taught_classes, taught_boxes, loss_scale, 0.0, 0.0]
    }
}

impl Factors {
    /// From the terms of a branch.
    pub(super) fn of_terms(terms: &[f32]) -> Self {
        let term = |at: usize| terms.get(at).copied().map_or(0.0, f64::from);
        Self { classes: term(0), taught_classes: term(1), boxes: term(2), distances: term(3), taught_boxes: term(4) }
    }
}

impl Detection {
    /// Whether the kernels take a graph's outputs and this assignment.
    ///
    /// # Errors
    /// Says what they do not take.
    pub(super) fn check(&self, graph: &Graph) -> Result<(), TrainingError> {
        let (outputs, branches) = (graph.outputs.len(), self.branches.len());
        let levels = outputs / (2 * branches).max(1);
        let fits = branches > 0 && outputs == 2 * branches * levels && (1..=MOST_LEVELS).contains(&levels);
        if !fits || self.bins == 0 || self.branches.iter().any(|branch| !(1..=MOST_TOP).contains(&branch.top)) {
            return Err(TrainingError::Unfit(format!(
                "the loss is not for the device: {outputs} outputs of {branches} branches, expected pairs of up to \
                 {MOST_LEVELS} levels each, of whose cells an object chooses up to {MOST_TOP}"
            )));
        }
        Ok(())
    }

    /// Values of the labels of so many images.
    pub(super) fn labels_len(&self, images: usize) -> usize {
        images * (1 + 5 * self.objects)
    }
}

/// The loss of one batch.
pub(super) struct Loss {
    tensors: Tensors,
    branches: Vec<Branch>,
    levels: usize,
}

struct Branch {
    shape: LossShape,
    arrays: LossArrays,
    levels: Vec<LossLevel>,
    /// First bytes of the parts of the terms of classes and of boxes, and how many.
    parts: [(usize, usize); 2],
}

/// Where the host puts and finds values: first bytes.
#[derive(Clone, Copy)]
pub(super) struct LossPlaces {
    pub labels: usize,
    /// `[branches][images][2]`: scores, and confidences of the teacher.
    pub sums: usize,
    /// `[branches]` of [`FACTORS_LEN`].
    pub factors: usize,
}

impl Loss {
    /// Emits the assignment. `taught` is the teacher.
    pub fn assign(
        plan: &Detection,
        size: (usize, usize),
        (net, flow): (&Net<'_>, &mut Flow),
        mut taught: Option<(&Net<'_>, Flow)>,
        rec: &mut Recorder,
        places: LossPlaces,
    ) -> Self {
        let levels = net.graph.outputs.len() / (2 * plan.branches.len().max(1));
        let mut branches = Vec::new();
        for (number, branch) in plan.branches.iter().enumerate() {
            let mut first = 0;
            let own = (0..levels).map(|level| {
                let output = 2 * (number * levels + level);
                let [boxes, classes] = pair((net, flow), rec, output);
                let taught = taught.as_mut().map(|(net, flow)| pair((net, flow), rec, output));
                let level = LossLevel { boxes, classes, taught, first };
                first += net.shapes[net.graph.outputs[output].index()].area();
                level
            });
            let own: Vec<LossLevel> = own.collect();
            let shape = LossShape {
                images: net.images,
                size,
                cells: first,
                objects: plan.objects,
                bins: plan.bins,
                top: branch.top,
                keeps_one: branch.keeps_one,
                taught: taught.is_some(),
                temperature: plan.temperature as f32,
                min_confidence: plan.min_confidence,
            };
            let branch = Branch::new(shape, own, rec, (places, number));
            rec.push(net.tensors.assign(&branch.shape, &branch.arrays, &branch.levels));
            branches.push(branch);
        }
        Self { tensors: net.tensors, branches, levels }
    }

    /// The gradient of an output of the graph, written or added to what is there.
    pub fn gradient(&self, output: usize, dx: Batch, add: bool) -> Launch {
        let branch = &self.branches[output / (2 * self.levels)];
        let at = output % (2 * self.levels);
        let (level, which) = (&branch.levels[at / 2], at % 2);
        let before = |level: &LossLevel| Tensors::loss_parts(level)[1 - which];
        let before: usize = branch.levels[..at / 2].iter().map(before).sum();
        let of = (&branch.shape, &branch.arrays);
        if which == 1 {
            self.tensors.class_loss(of, level, (dx, add), branch.parts[0].0 + 16 * before)
        } else {
            self.tensors.box_loss(of, level, (dx, add), branch.parts[1].0 + 24 * before)
        }
    }

    /// Emits the sums of all terms: of every branch [`TERMS_LEN`], from byte `terms` on.
    pub fn terms(&self, rec: &mut Recorder, terms: usize) {
        for (number, branch) in self.branches.iter().enumerate() {
            let at = terms + 4 * TERMS_LEN * number;
            for ((parts, count), columns, at) in [(branch.parts[0], 2, at), (branch.parts[1], 3, at + 8)] {
                rec.push([self.tensors.terms((parts, [count, columns]), at)]);
            }
        }
    }
}

impl Branch {
    fn new(
        shape: LossShape,
        levels: Vec<LossLevel>,
        rec: &mut Recorder,
        (places, number): (LossPlaces, usize),
    ) -> Self {
        let entries = TAKEN_BYTES * shape.entries();
        let sizes = [32 * shape.all_cells(), entries, entries, 4 * shape.all_cells(), 4 * shape.all_cells()];
        let [boxes, chosen, taken, owners, confidences] = sizes.map(|bytes| room(rec, bytes));
        let arrays = LossArrays {
            boxes,
            labels: places.labels,
            chosen,
            taken,
            owners,
            confidences,
            sums: places.sums + 8 * shape.images * number,
            factors: places.factors + 4 * FACTORS_LEN * number,
        };
        let counts = [0, 1].map(|which| levels.iter().map(|level| Tensors::loss_parts(level)[which]).sum::<usize>());
        let parts = [(counts[0], 16), (counts[1], 24)].map(|(count, bytes)| (room(rec, count * bytes), count));
        Self { shape, arrays, levels, parts }
    }
}

fn room(rec: &mut Recorder, bytes: usize) -> usize {
    let buffer: Buffer = rec.buffer(bytes);
    rec.at(buffer)
}

/// Box outputs and class logits that begin at this output of the graph.
fn pair((net, flow): (&Net<'_>, &mut Flow), rec: &mut Recorder, output: usize) -> [Batch; 2] {
    [0, 1].map(|which| net.tensor(flow, rec, net.graph.outputs[output + which].index()))
}
