//! All launches of a step for one size of a batch, over one planned arena.

use super::backward::{Backward, Reach, Source};
use super::exchange::{Exchange, Exchanges, buckets};
use super::forward::{Flow, Net, Normalised};
use super::layout::{Layout, Part};
use super::loss::{Detection, Loss, LossPlaces};
use super::recorder::{Buffer, Gather, Recorder};
use crate::graph::{Graph, GraphError};
use crate::kernels::cuda::training::{
    CONTROL_LEN, FACTORS_LEN, RESULTS_LEN, STEPS_LEN, StepArrays, StepRule, TERMS_LEN, Tensors, square_parts,
};
use crate::kernels::cuda::{Launch, Transfers};
use std::collections::BTreeSet;

/// What a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// As the network is. Normalisations have the statistics of the batch.
    Plain,
    /// Layers round their inputs and kernels as in int8.
    Rounding,
    /// The same, and normalisations have their running statistics, which stay.
    Settled,
}

impl Phase {
    /// In the order of the programs.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Rounding, Self::Settled];
}

/// First bytes of what stays from step to step, and how long all of it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    pub parameters: usize,
    pub gradients: usize,
    pub slots: [usize; 2],
    pub averages: usize,
    pub masks: Option<usize>,
    pub teacher: usize,
    pub control: usize,
    pub results: usize,
    /// The weight of a batch's statistics in the running ones.
    pub momentum: usize,
    /// The steps of the inputs of the layers that may round.
    pub steps: usize,
    pub end: usize,
}

impl Places {
    /// For an optimizer with so many slots, and so many layers that may round.
    pub fn new(layout: &Layout, slots: usize, masks: bool, teacher: Option<&Layout>, rounded: usize) -> Self {
        let mut end = 0;
        let mut take = |values: usize| {
            let at = end;
            end += (4 * values).next_multiple_of(256);
            at
        };
        let (all, trained) = (layout.len(), layout.trained());
        let (parameters, averages, gradients) = (take(all), take(all), take(trained));
        let slots = [0, 1].map(|slot| if slot < slots { take(trained) } else { gradients });
        let masks = masks.then(|| take(layout.part(Part::Kernels).1));
        let teacher = take(teacher.map_or(0, Layout::len));
        let (control, results) = (take(CONTROL_LEN), take(RESULTS_LEN));
        let (momentum, steps) = (take(1), take(rounded * STEPS_LEN));
        Self { parameters, gradients, slots, averages, masks, teacher, control, results, momentum, steps, end }
    }
}

/// What a step computes, whatever the size of its batch.
pub(super) struct Recipe<'a> {
    pub graph: &'a Graph,
    pub reach: &'a Reach,
    pub teacher: Option<&'a Graph>,
    pub size: (usize, usize),
    pub layout: &'a Layout,
    pub teacher_layout: Option<&'a Layout>,
    pub places: Places,
    pub tensors: Tensors,
    pub rule: StepRule,
    pub weight_decay: f32,
    pub sparsity: f32,
    /// The layers that may round.
    pub rounded: &'a BTreeSet<String>,
    /// The loss, where the device computes it.
    pub loss: Option<&'a Detection>,
    /// How many ranks share a batch, and of how many of them normalisations have the statistics: of all, or of this
    /// one.
    pub ranks: usize,
    pub normalised: usize,
}

/// A pass of a step: launches between two copies.
#[derive(Debug)]
pub(super) struct Pass {
    pub launches: Vec<Launch>,
    pub transfers: Transfers,
    /// What ranks exchange between the launches.
    pub exchanges: Exchanges,
}

/// The launches of a step.
#[derive(Debug)]
pub(super) struct Program {
    /// From images to outputs; from control and gradients of the outputs to gradients of the parameters; from control
    /// and these to new parameters and results.
    pub passes: [Pass; 3],
    /// Shapes `[n, c, h, w]` of the outputs, those of the teacher behind those of the network.
    pub outputs: Vec<[usize; 4]>,
    /// Bytes of all memory.
    pub bytes: usize,
}

/// What the host copies: a place in the arena, and how many values.
type Copied = (Buffer, usize);

/// What all launches of a step need beside them.
struct Emitted {
    /// Images, and labels behind them.
    images: Copied,
    /// What the forward pass answers.
    results: Copied,
    /// What the backward pass reads.
    gradients: Copied,
    /// What it answers, if anything.
    terms: Option<Copied>,
    /// Shapes of the outputs that are answered.
    outputs: Vec<[usize; 4]>,
    /// Launches up to the end of the forward pass, and of the backward pass.
    forward: usize,
    backward: usize,
}

/// A forward pass whose outputs are on the device.
struct Passed<'a> {
    net: Net<'a>,
    flow: Flow,
    taught: Option<Net<'a>>,
    images: Copied,
}

impl Recipe<'_> {
    /// The program of a phase for batches of so many images.
    ///
    /// # Errors
    /// If a graph does not fit the size.
    pub fn program(&self, images: usize, phase: Phase) -> Result<Program, GraphError> {
        let arena = self.places.end;
        let mut first = Recorder::first(arena);
        self.emit(&mut first, images, phase)?;
        let (mut rec, len) = first.second();
        let emitted = self.emit(&mut rec, images, phase)?;
        let at = |(buffer, len): Copied| (rec.at(buffer) / 4, len);
        let results = (self.places.results / 4, RESULTS_LEN);
        let control = (self.places.control / 4, CONTROL_LEN);
        let value = |buffer: Buffer| rec.at(buffer) / 4;
        let gather = |(before, Gather { from, to, len }): &(usize, Gather)| {
            (*before, Exchange::Gather { from: value(*from), to: value(*to), len: *len })
        };
        let gathers: Exchanges = rec.gathers.iter().map(gather).collect();
        let of = |first: usize, end: usize| {
            let within = gathers.iter().filter(|(before, _)| (first..end).contains(before));
            within.map(|(before, exchange)| (before - first, exchange.clone())).collect::<Exchanges>()
        };
        let (forward, backward) = (emitted.forward, emitted.backward);
        let gathers = [of(0, forward), of(forward, backward)];
        let forward_copies = Transfers { input: at(emitted.images), results: at(emitted.results) };
        let backward_copies = Transfers { input: at(emitted.gradients), results: emitted.terms.map_or(results, at) };
        let outputs = emitted.outputs;
        let update = rec.launches.split_off(backward);
        let backward = rec.launches.split_off(forward);
        let [in_forward, in_backward] = gathers;
        let in_backward = self.with_gradients(in_backward, &backward);
        let pass = |launches, transfers, exchanges| Pass { launches, transfers, exchanges };
        let passes = [
            pass(rec.launches, forward_copies, in_forward),
            pass(backward, backward_copies, in_backward),
            pass(update, Transfers { input: control, results }, Vec::new()),
        ];
        Ok(Program { passes, outputs, bytes: arena + len })
    }

    /// What ranks exchange in the backward pass beside these. Where normalisations do not have the statistics of all
    /// ranks, their running ones are those of rank 0.
    fn with_gradients(&self, exchanges: Exchanges, backward: &[Launch]) -> Exchanges {
        if self.ranks == 1 {
            return exchanges;
        }
        let mut all = buckets(self.layout, self.places.gradients, backward);
        all.extend(exchanges);
        // A bucket comes before what is brought together before the same launch.
        all.sort_by_key(|(before, _)| *before);
        let (first, len) = self.layout.part(Part::Fixed);
        if self.normalised == 1 && len > 0 {
            all.push((backward.len(), Exchange::Broadcast((self.places.parameters / 4 + first, len))));
        }
        all
    }

    /// Emits all launches.
    fn emit(&self, rec: &mut Recorder, images: usize, phase: Phase) -> Result<Emitted, GraphError> {
        let values = images * self.graph.input_channels() * self.size.0 * self.size.1;
        let values = values + self.loss.map_or(0, |loss| loss.labels_len(images));
        let planes = rec.buffer(4 * values);
        rec.copies(planes);
        let normalised = match phase {
            Phase::Settled => Normalised::Running,
            _ => Normalised::Batch { ranks: self.normalised, momentum: self.places.momentum },
        };
        let mut net = self.net(self.graph, (self.layout, self.places.parameters), images, normalised)?;
        if phase != Phase::Plain {
            net.rounded = self.steps();
        }
        let flow = net.forward(rec, Ok(planes));
        let taught = match (self.teacher, self.teacher_layout) {
            (Some(graph), Some(layout)) => {
                Some(self.net(graph, (layout, self.places.teacher), images, Normalised::Running)?)
            }
            _ => None,
        };
        let passed = Passed { net, flow, taught, images: (planes, values) };
        let emitted = match self.loss {
            Some(loss) => self.with_loss(loss, passed, rec),
            None => self.without_loss(passed, rec),
        };
        self.update(rec);
        Ok(emitted)
    }

    /// The host computes the loss: the outputs are copied to it, and their gradients from it.
    fn without_loss(&self, passed: Passed<'_>, rec: &mut Recorder) -> Emitted {
        let Passed { net, mut flow, taught, images } = passed;
        let mut shapes = shapes(&net);
        shapes.extend(taught.iter().flat_map(|net| self::shapes(net)));
        let lens = |shapes: &[[usize; 4]]| shapes.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>();
        let outputs = rec.buffer(4 * lens(&shapes));
        let mut at = 0;
        export(&net, &mut flow, rec, outputs, &mut at);
        if let (Some(net), Some(image)) = (&taught, flow.roots[0]) {
            let mut flow = net.forward(rec, Err(image));
            export(net, &mut flow, rec, outputs, &mut at);
        }
        rec.copies(outputs);
        let forward = rec.launches.len();
        let own = &shapes[..self.graph.outputs.len()];
        let gradients = (rec.buffer(4 * CONTROL_LEN + 4 * lens(own)), CONTROL_LEN + lens(own));
        rec.copies(gradients.0);
        let control = rec.at(gradients.0);
        let mut behind = control + 4 * CONTROL_LEN;
        let mut places = Vec::new();
        for shape in own {
            places.push(behind);
            behind += 4 * shape.iter().product::<usize>();
        }
        let source = Source::Host(&places, Some(control));
        Backward::new((&net, self.reach), (&mut flow, rec), self.places.gradients, source).run();
        let (results, backward) = ((outputs, lens(&shapes)), rec.launches.len());
        Emitted { images, results, gradients, terms: None, outputs: shapes, forward, backward }
    }

    /// The device computes the loss, and the host the factors of its terms.
    fn with_loss(&self, plan: &Detection, passed: Passed<'_>, rec: &mut Recorder) -> Emitted {
        let Passed { net, mut flow, taught, images } = passed;
        let (branches, len) = (plan.branches.len(), plan.labels_len(net.images));
        // The images' memory is free again when the pass has read them.
        let labels = rec.buffer(4 * len);
        let behind = rec.at(images.0) + 4 * (images.1 - len);
        rec.push([net.tensors.add_up((behind, 1), (rec.at(labels), false), len as i64)]);
        let results = (rec.buffer(8 * net.images * branches), 2 * net.images * branches);
        let gradients = (rec.buffer(4 * FACTORS_LEN * branches), FACTORS_LEN * branches);
        let places = LossPlaces { labels: rec.at(labels), sums: rec.at(results.0), factors: rec.at(gradients.0) };
        let taught = taught.as_ref().zip(flow.roots[0]).map(|(net, image)| (net, net.forward(rec, Err(image))));
        let loss = Loss::assign(plan, self.size, (&net, &mut flow), taught, rec, places);
        rec.copies(results.0);
        let forward = rec.launches.len();
        rec.copies(gradients.0);
        let source = Source::Loss(&loss);
        Backward::new((&net, self.reach), (&mut flow, rec), self.places.gradients, source).run();
        let terms = (rec.buffer(4 * TERMS_LEN * branches), TERMS_LEN * branches);
        loss.terms(rec, rec.at(terms.0));
        rec.copies(terms.0);
        let backward = rec.launches.len();
        Emitted { images, results, gradients, terms: Some(terms), outputs: Vec::new(), forward, backward }
    }

    fn net<'a>(
        &self,
        graph: &'a Graph,
        layout: (&'a Layout, usize),
        images: usize,
        normalised: Normalised,
    ) -> Result<Net<'a>, GraphError> {
        Net::new(graph, self.size, images, layout, (self.tensors, normalised))
    }

    /// By node the first byte of the steps of its input, of the layers that may round.
    fn steps(&self) -> Vec<Option<usize>> {
        let place = |name: &String| self.rounded.iter().position(|other| other == name);
        let of = |place: usize| self.places.steps + 4 * STEPS_LEN * place;
        self.graph.nodes.iter().map(|node| place(&node.name).map(of)).collect()
    }

    fn update(&self, rec: &mut Recorder) {
        let Places { parameters, gradients, slots, averages, masks, control, results, .. } = self.places;
        let arrays = StepArrays { values: parameters, gradients, slots, averages, masks: None, control, results };
        let trained = self.layout.trained();
        let parts = rec.buffer(4 * square_parts(trained));
        rec.push(self.tensors.gradient_norm(gradients, trained, rec.at(parts), &arrays));
        let parts = [
            (Part::Kernels, self.rule, self.weight_decay, 0.0),
            (Part::Sparse, self.rule, 0.0, self.sparsity),
            (Part::Vectors, self.rule, 0.0, 0.0),
            (Part::Fixed, StepRule::Fixed, 0.0, 0.0),
        ];
        for (part, rule, decay, shrink) in parts {
            let (first, len) = self.layout.part(part);
            if len == 0 {
                continue;
            }
            let at = |array: usize| array + 4 * first;
            let arrays = StepArrays {
                values: at(parameters),
                gradients: at(gradients),
                slots: slots.map(at),
                averages: at(averages),
                masks: masks.filter(|_| part == Part::Kernels),
                ..arrays
            };
            rec.push([self.tensors.step(rule, (decay, shrink), len, &arrays)]);
        }
    }
}

/// Shapes `[n, c, h, w]` of the outputs of a network.
pub(super) fn shapes(net: &Net<'_>) -> Vec<[usize; 4]> {
    let shape = |id: &crate::graph::NodeId| net.shapes[id.index()];
    net.graph.outputs.iter().map(shape).map(|shape| [net.images, shape.c, shape.h, shape.w]).collect()
}

/// Writes the outputs of a network as planes to `outputs`, `at` bytes from its start.
pub(super) fn export(net: &Net<'_>, flow: &mut Flow, rec: &mut Recorder, outputs: Buffer, at: &mut usize) {
    for id in &net.graph.outputs {
        let tensor = net.tensor(flow, rec, id.index());
        rec.push([net.tensors.export(tensor, rec.at(outputs) + *at)]);
        *at += 4 * net.images * net.shapes[id.index()].len();
    }
}
