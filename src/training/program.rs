//! All launches of a step for one size of a batch, over one planned arena.

use super::backward::{Backward, Reach};
use super::exchange::{Exchange, Exchanges, buckets};
use super::forward::{Flow, Net, Normalised};
use super::layout::{Layout, Part};
use super::recorder::{Buffer, Gather, Recorder};
use crate::graph::{Graph, GraphError};
use crate::kernels::cuda::training::{CONTROL_LEN, RESULTS_LEN, StepArrays, StepRule, Tensors, square_parts};
use crate::kernels::cuda::{Launch, Transfers};

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
    pub end: usize,
}

impl Places {
    /// For an optimizer with so many slots.
    pub fn new(layout: &Layout, slots: usize, masks: bool, teacher: Option<&Layout>) -> Self {
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
        Self { parameters, gradients, slots, averages, masks, teacher, control, results, end }
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

/// Places in the arena that the host copies to or from.
struct Host {
    images: Buffer,
    outputs: Buffer,
    gradients: Buffer,
}

/// What all launches of a step need beside them.
struct Emitted {
    host: Host,
    /// Shapes of the outputs.
    outputs: Vec<[usize; 4]>,
    /// Launches up to the end of the forward pass, and of the backward pass.
    forward: usize,
    backward: usize,
}

impl Recipe<'_> {
    /// The program for batches of so many images.
    ///
    /// # Errors
    /// If a graph does not fit the size.
    pub fn program(&self, images: usize) -> Result<Program, GraphError> {
        let arena = self.places.end;
        let mut first = Recorder::first(arena);
        self.emit(&mut first, images)?;
        let (mut rec, len) = first.second();
        let Emitted { host, outputs, forward, backward } = self.emit(&mut rec, images)?;
        let lens = |shapes: &[[usize; 4]]| shapes.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>();
        let trained = self.graph.outputs.len();
        let input = images * self.graph.input_channels() * self.size.0 * self.size.1;
        let value = |buffer: Buffer| rec.at(buffer) / 4;
        let results = (self.places.results / 4, RESULTS_LEN);
        let forward_copies =
            Transfers { input: (value(host.images), input), results: (value(host.outputs), lens(&outputs)) };
        let down = (value(host.gradients), CONTROL_LEN + lens(&outputs[..trained]));
        let control = (self.places.control / 4, CONTROL_LEN);
        let gather = |(before, Gather { from, to, len }): &(usize, Gather)| {
            (*before, Exchange::Gather { from: value(*from), to: value(*to), len: *len })
        };
        let gathers: Exchanges = rec.gathers.iter().map(gather).collect();
        let of = |first: usize, end: usize| {
            let within = gathers.iter().filter(|(before, _)| (first..end).contains(before));
            within.map(|(before, exchange)| (before - first, exchange.clone())).collect::<Exchanges>()
        };
        let gathers = [of(0, forward), of(forward, backward)];
        let update = rec.launches.split_off(backward);
        let backward = rec.launches.split_off(forward);
        let [in_forward, in_backward] = gathers;
        let in_backward = self.with_gradients(in_backward, &backward);
        let pass = |launches, transfers, exchanges| Pass { launches, transfers, exchanges };
        let passes = [
            pass(rec.launches, forward_copies, in_forward),
            pass(backward, Transfers { input: down, results }, in_backward),
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
    fn emit(&self, rec: &mut Recorder, images: usize) -> Result<Emitted, GraphError> {
        let input = 4 * images * self.graph.input_channels() * self.size.0 * self.size.1;
        let planes = rec.buffer(input);
        rec.copies(planes);
        let net = self.net(
            self.graph,
            (self.layout, self.places.parameters),
            images,
            Normalised::Batch { ranks: self.normalised },
        )?;
        let mut flow = net.forward(rec, Ok(planes));
        let mut shapes = shapes(&net);
        let taught = match (self.teacher, self.teacher_layout) {
            (Some(graph), Some(layout)) => {
                Some(self.net(graph, (layout, self.places.teacher), images, Normalised::Running)?)
            }
            _ => None,
        };
        shapes.extend(taught.iter().flat_map(|net| self::shapes(net)));
        let outputs = rec.buffer(4 * shapes.iter().map(|shape| shape.iter().product::<usize>()).sum::<usize>());
        let mut at = 0;
        export(&net, &mut flow, rec, outputs, &mut at);
        if let (Some(net), Some(image)) = (&taught, flow.roots[0]) {
            let mut flow = net.forward(rec, Err(image));
            export(net, &mut flow, rec, outputs, &mut at);
        }
        rec.copies(outputs);
        let forward = rec.launches.len();
        let gradients = rec.buffer(4 * CONTROL_LEN + at);
        rec.copies(gradients);
        let control = rec.at(gradients);
        let mut behind = control + 4 * CONTROL_LEN;
        let mut places = Vec::new();
        for shape in &shapes[..self.graph.outputs.len()] {
            places.push(behind);
            behind += 4 * shape.iter().product::<usize>();
        }
        Backward::new((&net, self.reach), (&mut flow, rec), self.places.gradients, places, control).run();
        let backward = rec.launches.len();
        self.update(rec);
        Ok(Emitted { host: Host { images: planes, outputs, gradients }, outputs: shapes, forward, backward })
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

fn shapes(net: &Net<'_>) -> Vec<[usize; 4]> {
    let shape = |id: &crate::graph::NodeId| net.shapes[id.index()];
    net.graph.outputs.iter().map(shape).map(|shape| [net.images, shape.c, shape.h, shape.w]).collect()
}

/// Writes the outputs of a network as planes to `outputs`, `at` bytes from its start.
fn export(net: &Net<'_>, flow: &mut Flow, rec: &mut Recorder, outputs: Buffer, at: &mut usize) {
    for id in &net.graph.outputs {
        let tensor = net.tensor(flow, rec, id.index());
        rec.push([net.tensors.export(tensor, rec.at(outputs) + *at)]);
        *at += 4 * net.images * net.shapes[id.index()].len();
    }
}
