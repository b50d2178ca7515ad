//! Networks that walk side by side through images on a CUDA device, layer after layer, and second moments of what their
//! convolutions read and find.
//!
//! All images are one batch. Every tensor lies in planned memory from its step to that of its last reader. What comes
//! to the host are samples at a few positions, and sums over many: the memory for these is planned as well.

use super::error::TrainingError;
use super::forward::{Flow, Net, Normalised, window};
use super::layout::Layout;
use super::plan::check;
use super::recorder::Recorder;
use crate::graph::{Conv, Graph, NodeId, Op};
use crate::kernels::cuda::training::{Batch, ConvShape, Sample, Sampled, Tensors};
use crate::kernels::cuda::{CudaError, Device, Launch};
use crate::model::Model;

/// Samples that are added up by one launch.
const CHUNK: usize = 1 << 15;

/// The most samples that are copied to the host as they are.
const MAX_VALUES: usize = 256;

const F32: Tensors = Tensors { f16: false };

/// The regressions of a convolution: one over all channels that it reads or, where it is depthwise, one of each. A
/// regression is a lane.
#[derive(Clone, Copy, Debug)]
pub struct Regression<'a> {
    /// The convolution whose windows are the inputs, in PyTorch's order: its network and node.
    pub reader: (usize, NodeId),
    /// The convolution that found the outputs, before normalisation and activation, in a network that went ahead, and
    /// by lane and output the channel of it.
    pub target: Option<((usize, NodeId), &'a [usize])>,
}

/// Weighted sums over the samples of a regression of `d` inputs and `m` outputs, less their pivots.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneSums {
    /// Of every input, then of every output.
    pub sums: Vec<f64>,
    /// Of products `[d, d + m]` of an input and an input or output, row after row; 0 where the second is an input
    /// before the first.
    pub products: Vec<f64>,
}

/// A convolution on the device.
#[derive(Clone, Copy, Debug)]
struct Place {
    window: ConvShape,
    x: Batch,
    /// What it finds, before normalisation and activation.
    z: Batch,
}

/// What a node does.
#[derive(Clone, Debug, Default)]
struct Step {
    launches: Vec<Launch>,
    conv: Option<Place>,
}

/// A network.
struct Network {
    layout: Layout,
    /// First byte of its parameters.
    parameters: usize,
    steps: Vec<Step>,
}

/// First bytes of what lies before the tensors.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    planes: usize,
    samples: usize,
    pivots: usize,
    channels: usize,
    sums: usize,
    results: usize,
    end: usize,
}

impl Room {
    /// Behind `end`, for images of so many values and these regressions.
    fn new(mut end: usize, image: usize, regressions: &[Sampled]) -> Self {
        let mut take = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(256);
            at
        };
        let most = |bytes: &dyn Fn(&Sampled) -> usize| regressions.iter().map(bytes).max().unwrap_or(0);
        let columns = |of: &Sampled| of.lanes() * of.columns();
        let planes = take(4 * image);
        let samples = take(4 * Sample::LEN * CHUNK);
        let pivots = take(most(&|of| 4 * columns(of)));
        let channels = take(most(&|of| 4 * of.lanes() * of.outputs));
        let sums = take(most(&|of| 8 * columns(of)));
        let results =
            take(most(&|of| (8 * of.most_splits() * of.inputs() * columns(of)).max(4 * MAX_VALUES * columns(of))));
        Self { planes, samples, pivots, channels, sums, results, end }
    }
}

/// All that is decided before the first step.
struct Plan {
    networks: Vec<Network>,
    room: Room,
    /// The images, pixel after pixel.
    image: Batch,
    bytes: usize,
}

impl Plan {
    fn new(graphs: &[&Graph], size: (usize, usize), images: usize) -> Result<Self, TrainingError> {
        graphs.iter().try_for_each(|graph| check(graph))?;
        let layouts: Vec<Layout> = graphs.iter().map(|graph| Layout::new(graph, &|_, _| false, false)).collect();
        let mut end = 0;
        let mut parameters = Vec::new();
        for layout in &layouts {
            parameters.push(end);
            end += (4 * layout.len()).next_multiple_of(256);
        }
        let mut nets = Vec::new();
        for ((graph, layout), at) in graphs.iter().zip(&layouts).zip(&parameters) {
            nets.push(Net::new(graph, size, images, (layout, *at), (F32, Normalised::Running))?);
        }
        let regressions = graphs.last().map(|graph| graph.convs().map(|(_, conv)| sizes(conv, graphs.len() > 1)));
        let image = nets.first().and_then(|net| net.shapes.first()).map_or(0, |shape| shape.len());
        let room = Room::new(end, image, &regressions.into_iter().flatten().collect::<Vec<_>>());
        let mut first = Recorder::first(room.end);
        emit(&nets, &mut first);
        let (mut rec, len) = first.second();
        let (image, steps) = emit(&nets, &mut rec);
        let bytes = room.end + len;
        if !rec.launches.iter().all(|launch| launch.in_bounds(bytes)) {
            return Err(CudaError::TooLarge.into());
        }
        drop(nets);
        let network = |((layout, parameters), steps)| Network { layout, parameters, steps };
        let networks = layouts.into_iter().zip(parameters).zip(steps).map(network).collect();
        Ok(Self { networks, room, image, bytes })
    }
}

/// The sizes of the regressions of a convolution, with outputs or without.
fn sizes(conv: &Conv, outputs: bool) -> Sampled {
    let (window, x) = (window(conv), Batch::new(0, conv.c_in, [1, conv.c_in, 1, 1]));
    let outputs = if !outputs {
        0
    } else if window.depthwise {
        1
    } else {
        conv.c_out
    };
    Sampled { window, x, z: x, outputs, samples: (0, 0), pivots: 0, channels: 0 }
}

/// The steps of networks in the order in which they go: node after node of the first one, each followed by those of its
/// name.
fn order<'a>(nets: &'a [Net<'_>]) -> impl Iterator<Item = (usize, NodeId)> + 'a {
    let others = |name: &'a str| {
        let rest = nets.iter().enumerate().skip(1);
        rest.filter_map(move |(number, net)| Some((number, net.graph.find(name)?)))
    };
    let first = nets.iter().take(1).flat_map(|net| net.graph.ids().map(|id| (id, &net.graph.node(id).name)));
    first.flat_map(move |(id, name)| std::iter::once((0, id)).chain(others(name)))
}

/// Emits the steps of all networks. Gives the images, and by network and node what it does.
fn emit(nets: &[Net<'_>], rec: &mut Recorder) -> (Batch, Vec<Vec<Step>>) {
    let Some(leader) = nets.first() else { return (Batch::default(), Vec::new()) };
    let images = rec.buffer(leader.bytes(0));
    rec.copies(images);
    let mut flows: Vec<Flow> = nets.iter().map(|net| net.start(Some(images))).collect();
    let mut steps: Vec<Vec<Step>> = nets.iter().map(|net| vec![Step::default(); net.graph.nodes.len()]).collect();
    for (number, id) in order(nets) {
        let (net, flow, node) = (&nets[number], &mut flows[number], nets[number].graph.node(id));
        let first = rec.launches.len();
        let y = net.tensor(flow, rec, id.index());
        let left = net.node(flow, rec, id, y);
        flow.left[id.index()] = left;
        let step = &mut steps[number][id.index()];
        step.launches = rec.launches[first..].to_vec();
        if let Op::Conv(conv) = &node.op {
            let x = net.tensor(flow, rec, node.inputs[0].index());
            let z = left.linear.map_or(y, |linear| net.dense(rec.at(linear), id.index()));
            step.conv = Some(Place { window: window(conv), x, z });
            // Samples are taken between this step and that of another network.
            left.linear.or(flow.roots[net.homes[id.index()].root]).into_iter().for_each(|buffer| rec.copies(buffer));
        }
    }
    (leader.dense(rec.at(images), 0), steps)
}

/// Networks on a device, all of whose images are there.
pub struct LayerWalk {
    device: Device,
    plan: Plan,
}

impl LayerWalk {
    /// Bytes of GPU memory that a walk of these networks through so many images of a size takes.
    ///
    /// # Errors
    /// If a graph does not fit the size, or there are no kernels for it.
    pub fn bytes(graphs: &[&Graph], size: (usize, usize), images: usize) -> Result<usize, TrainingError> {
        Plan::new(graphs, size, images).map(|plan| plan.bytes)
    }

    /// Puts images, planes `[channels, height, width]` each, on a device, before the first node of networks of which
    /// the nodes of the first go ahead of those with the same names in the others.
    ///
    /// # Errors
    /// As [`LayerWalk::bytes`]; if the device has not enough memory, or fails.
    pub fn new(
        device: Device,
        graphs: &[&Graph],
        size: (usize, usize),
        images: &[Vec<f32>],
    ) -> Result<Self, TrainingError> {
        let plan = Plan::new(graphs, size, images.len())?;
        let mut walk = Self { device, plan };
        let Self { device, plan: Plan { room, image, bytes, .. } } = &mut walk;
        device.enter()?;
        device.reserve(bytes.div_ceil(4))?;
        let len = image.values() / images.len().max(1);
        for (number, planes) in images.iter().enumerate() {
            if planes.len() != len {
                let (found, expected) = (planes.len(), len.to_string());
                return Err(TrainingError::Length { what: "images", found, expected });
            }
            device.wait()?;
            device.upload(room.planes / 4, planes)?;
            device.launch(&F32.import(room.planes, image.image(number, F32), false, None))?;
        }
        Ok(walk)
    }

    /// Runs a node of a network with the weights of a model of its graph. Nodes must come in order, those of the first
    /// network before those with their names.
    ///
    /// # Errors
    /// If the weights are not those of the graph, or the device fails.
    pub fn step(&mut self, network: usize, model: &Model, id: NodeId) -> Result<(), TrainingError> {
        let Self { device, plan } = self;
        let node = model.graph.node(id);
        let unfit = || TrainingError::Unfit(format!("layer `{}` is not one of this walk", node.name));
        let Network { layout, parameters, steps } = plan.networks.get(network).ok_or_else(unfit)?;
        device.enter()?;
        device.wait()?;
        for param in node.op.params() {
            let (at, values) = layout.packed(&param.key, model.tensor(&param.key)).ok_or_else(unfit)?;
            device.upload(parameters / 4 + at, &values)?;
        }
        for launch in &steps.get(id.index()).ok_or_else(unfit)?.launches {
            device.launch(launch)?;
        }
        Ok(())
    }

    /// At most 256 samples as they are, `[lane][inputs, then outputs][sample]`. The tensors are there before the step
    /// of the reader, and right after that of the target.
    ///
    /// # Errors
    /// If there is no such convolution, there are more samples, or the device fails.
    pub fn values(&mut self, of: &Regression, samples: &[Sample]) -> Result<Vec<f32>, TrainingError> {
        if samples.len() > MAX_VALUES {
            let (found, expected) = (samples.len(), format!("at most {MAX_VALUES}"));
            return Err(TrainingError::Length { what: "samples", found, expected });
        }
        let sampled = self.sampled(of)?;
        let mut values = vec![0.0; sampled.lanes() * sampled.columns() * samples.len()];
        if !samples.is_empty() {
            let sampled = self.upload(&sampled, samples)?;
            let results = self.plan.room.results;
            self.device.launch(&sampled.values(results))?;
            self.device.download(results / 4, &mut values)?;
        }
        Ok(values)
    }

    /// The sums of every lane over samples, which are taken less pivots `[lane][inputs, then outputs]`: products in
    /// f32, added up in f64, in an order that follows from their number alone. As [`LayerWalk::values`].
    ///
    /// # Errors
    /// If there is no such convolution, it has another number of pivots, or the device fails.
    pub fn sums(
        &mut self,
        of: &Regression,
        pivots: &[f32],
        samples: &[Sample],
    ) -> Result<Vec<LaneSums>, TrainingError> {
        let (sampled, Room { pivots: at, sums, results, .. }) = (self.sampled(of)?, self.plan.room);
        let (lanes, columns) = (sampled.lanes(), sampled.columns());
        if pivots.len() != lanes * columns {
            let (found, expected) = (pivots.len(), (lanes * columns).to_string());
            return Err(TrainingError::Length { what: "pivots", found, expected });
        }
        let rows = sampled.rows(samples.len().min(CHUNK));
        self.device.upload(at / 4, pivots)?;
        for (number, chunk) in samples.chunks(CHUNK).enumerate() {
            let sampled = self.upload(&sampled, chunk)?;
            self.device.launch(&sampled.sums(sums, number > 0))?;
            self.device.launch(&sampled.products(results, rows, number > 0))?;
        }
        let (each, splits) = (sampled.inputs() * columns, samples.len().min(CHUNK).div_ceil(rows));
        let mut all = vec![LaneSums { sums: vec![0.0; columns], products: vec![0.0; each] }; lanes];
        if samples.is_empty() {
            return Ok(all);
        }
        let mut found = vec![0.0f64; lanes * columns];
        self.device.download(sums / 4, bytemuck::cast_slice_mut(&mut found))?;
        all.iter_mut().zip(found.chunks(columns)).for_each(|(lane, found)| lane.sums.copy_from_slice(found));
        let mut found = vec![0.0f64; lanes * each];
        for split in 0..splits {
            self.device.download((results + 8 * split * lanes * each) / 4, bytemuck::cast_slice_mut(&mut found))?;
            for (lane, found) in all.iter_mut().zip(found.chunks(each)) {
                let rows = lane.products.chunks_mut(columns).zip(found.chunks(columns)).enumerate();
                rows.for_each(|(row, (sums, found))| add(&mut sums[row..], &found[row..]));
            }
        }
        Ok(all)
    }

    /// Where the regressions of a convolution lie; the channels of its outputs are there then.
    fn sampled(&mut self, of: &Regression) -> Result<Sampled, TrainingError> {
        let Room { samples, pivots, channels, .. } = self.plan.room;
        let place = |(network, id): (usize, NodeId)| {
            let steps = self.plan.networks.get(network).map_or(&[][..], |network| &network.steps);
            let conv = steps.get(id.index()).and_then(|step| step.conv);
            conv.ok_or_else(|| TrainingError::Unfit(format!("node {} of network {network} is no convolution", id.0)))
        };
        let Place { window, x, .. } = place(of.reader)?;
        let sampled = Sampled { window, x, z: x, outputs: 0, samples: (samples, 0), pivots, channels };
        self.device.enter()?;
        self.device.wait()?;
        let Some((target, of_outputs)) = of.target else { return Ok(sampled) };
        let values: Vec<f32> = of_outputs.iter().map(|channel| f32::from_bits(*channel as u32)).collect();
        self.device.upload(channels / 4, &values)?;
        Ok(Sampled { z: place(target)?.z, outputs: of_outputs.len() / sampled.lanes().max(1), ..sampled })
    }

    /// Puts samples in place of those before, which nobody reads any more.
    fn upload(&mut self, sampled: &Sampled, samples: &[Sample]) -> Result<Sampled, TrainingError> {
        let values: Vec<f32> = samples.iter().flat_map(Sample::values).collect();
        self.device.wait()?;
        self.device.upload(self.plan.room.samples / 4, &values)?;
        Ok(Sampled { samples: (self.plan.room.samples, samples.len()), ..*sampled })
    }
}

fn add(sums: &mut [f64], found: &[f64]) {
    sums.iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
}
