//! A network in evaluation mode on a CUDA device, and squares of gradients by what its convolutions give: the launches
//! of a forward and of a backward pass, which only passes gradients to inputs, over memory that is planned before the
//! first image.
//!
//! Both passes are CUDA graphs for one number of images. Fewer are filled up with images of zeros, whose outputs have a
//! gradient of zero: they add nothing, and every image takes the same sums whatever the number of all.

use super::backward::{Backward, Reach, Source, SquaresPlace};
use super::error::TrainingError;
use super::forward::{Net, Normalised};
use super::layout::Layout;
use super::plan::check;
use super::program::{export, shapes};
use super::recorder::{Buffer, Recorder};
use crate::graph::{Graph, NodeId};
use crate::kernels::cuda::training::Tensors;
use crate::kernels::cuda::{CudaError, Device, Frame, Launch, Transfers};
use crate::model::Model;
use std::collections::BTreeSet;

/// The frames of both passes.
const FORWARD: usize = 0;
const BACKWARD: usize = 1;

/// Squares of the gradient by what a convolution gives, behind its normalisation and activation.
#[derive(Clone, Debug, PartialEq)]
pub struct Squares {
    /// The convolution.
    pub node: NodeId,
    /// Sums over its channels, image after image `[h, w]`.
    pub positions: Vec<f32>,
    /// By channel the sum over all positions of all images.
    pub channels: Vec<f32>,
}

/// A convolution whose squares are wanted: its node, the positions of an image, and the channels.
type Squared = (NodeId, usize, usize);

/// All that is decided before the first image.
struct Plan {
    layout: Layout,
    /// Images of a pass.
    batch: usize,
    /// Values of an image, and by output of the graph those that it has for an image.
    image: usize,
    outputs: Vec<usize>,
    /// The order of the results of the backward pass: positions, then channels of each.
    squared: Vec<Squared>,
    passes: [(Transfers, Vec<Launch>); 2],
    bytes: usize,
}

impl Plan {
    fn new(graph: &Graph, size: (usize, usize), batch: usize) -> Result<Self, TrainingError> {
        check(graph)?;
        let reach = Reach::of(graph, &BTreeSet::new());
        // Nothing is trained: no parameter has a gradient.
        let layout = Layout::new(graph, &|_, _| false, false);
        let net = Net::new(graph, size, batch, (&layout, 0), (Tensors { f16: false }, Normalised::Running))?;
        let reached = graph.convs().filter(|(id, _)| reach.reached[id.index()]);
        let squared: Vec<Squared> = reached.map(|(id, conv)| (id, net.shapes[id.index()].area(), conv.c_out)).collect();
        let base = (4 * layout.len()).next_multiple_of(256);
        let mut first = Recorder::first(base);
        emit(&net, &reach, &squared, &mut first);
        let (mut rec, len) = first.second();
        let (forward, [to_outputs, to_squares]) = emit(&net, &reach, &squared, &mut rec);
        let bytes = base + len;
        if !rec.launches.iter().all(|launch| launch.in_bounds(bytes)) {
            return Err(CudaError::TooLarge.into());
        }
        let image = net.shapes.first().map_or(0, |shape| shape.len());
        let outputs = graph.outputs.iter().map(|id| net.shapes[id.index()].len()).collect();
        let backward = rec.launches.split_off(forward);
        let passes = [(to_outputs, rec.launches), (to_squares, backward)];
        drop(net);
        Ok(Self { layout, batch, image, outputs, squared, passes, bytes })
    }

    /// For as many images at a time as fit so many free bytes: `batch`, or a half of it, or of that.
    fn fitting(graph: &Graph, size: (usize, usize), batch: usize, free: usize) -> Result<Self, TrainingError> {
        let mut plan = Self::new(graph, size, batch.max(1))?;
        let (batch, bytes) = (plan.batch, plan.bytes);
        while plan.bytes > free {
            if plan.batch == 1 {
                return Err(TrainingError::Memory { batch, bytes, free, fits: None });
            }
            plan = Self::new(graph, size, plan.batch.div_ceil(2))?;
        }
        Ok(plan)
    }
}

/// Emits both passes. Gives the number of launches of the first one, and what is copied.
fn emit(net: &Net<'_>, reach: &Reach, squared: &[Squared], rec: &mut Recorder) -> (usize, [Transfers; 2]) {
    let images = (rec.buffer(net.bytes(0)), net.images * net.shapes.first().map_or(0, |shape| shape.len()));
    rec.copies(images.0);
    let mut flow = net.forward(rec, Ok(images.0));
    let shapes = shapes(net);
    let lens: Vec<usize> = shapes.iter().map(|shape| shape.iter().product()).collect();
    let len = lens.iter().sum::<usize>();
    let outputs = (rec.buffer(4 * len), len);
    export(net, &mut flow, rec, outputs.0, &mut 0);
    rec.copies(outputs.0);
    let forward = rec.launches.len();
    let gradients = (rec.buffer(4 * len), len);
    rec.copies(gradients.0);
    let mut behind = rec.at(gradients.0);
    let mut place = |len: usize| {
        let at = behind;
        behind += 4 * len;
        at
    };
    let sources: Vec<usize> = lens.iter().map(|len| place(*len)).collect();
    let len = squared.iter().map(|(_, area, channels)| net.images * area + channels).sum();
    let results = (rec.buffer(4 * len), len);
    let mut behind = rec.at(results.0);
    let mut places = vec![None; net.shapes.len()];
    for (id, area, channels) in squared {
        let (pixels, channels_at) = (behind, behind + 4 * net.images * area);
        places[id.index()] = Some(SquaresPlace { pixels, channels: channels_at });
        behind = channels_at + 4 * channels;
    }
    let source = Source::Host(&sources, None);
    Backward::new((net, reach), (&mut flow, rec), 0, source).with_squares(&places).run();
    rec.copies(results.0);
    let transfers = |input: (Buffer, usize), results: (Buffer, usize)| Transfers {
        input: (rec.at(input.0) / 4, input.1),
        results: (rec.at(results.0) / 4, results.1),
    };
    (forward, [transfers(images, outputs), transfers(gradients, results)])
}

/// The frame of a pass, which is not cut.
fn frame((transfers, launches): &(Transfers, Vec<Launch>)) -> (Frame<'_>, Vec<usize>) {
    (Frame { transfers: *transfers, launches: launches.iter().collect() }, Vec::new())
}

/// A network on a device.
pub struct GradientSquares {
    device: Device,
    plan: Plan,
    /// Images of the last forward pass.
    images: usize,
}

impl GradientSquares {
    /// Bytes of GPU memory that so many images at a time take.
    ///
    /// # Errors
    /// If the graph does not fit the size, or there are no kernels for it.
    pub fn bytes(graph: &Graph, size: (usize, usize), batch: usize) -> Result<usize, TrainingError> {
        Plan::new(graph, size, batch.max(1)).map(|plan| plan.bytes)
    }

    /// Puts a network on a device, for `batch` images of a size at a time; where these do not fit the free memory, for half
    /// as many, or half of that.
    ///
    /// # Errors
    /// As [`GradientSquares::bytes`]; if not even one image fits, or the device fails.
    pub fn new(mut device: Device, model: &Model, size: (usize, usize), batch: usize) -> Result<Self, TrainingError> {
        let plan = Plan::fitting(&model.graph, size, batch, device.free_memory()?)?;
        device.reserve(plan.bytes.div_ceil(4))?;
        device.record_frames(&plan.passes.each_ref().map(frame))?;
        device.upload(0, &plan.layout.pack(&model.weights))?;
        Ok(Self { device, plan, images: 0 })
    }

    /// The most images of a pass.
    pub fn batch(&self) -> usize {
        self.plan.batch
    }

    /// By output of the graph its values `[n, c, h, w]` for some images, planes `[channels, height, width]` each.
    ///
    /// # Errors
    /// If there are more images than a pass takes, one has another size, or the device fails.
    pub fn forward(&mut self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, TrainingError> {
        let Self { device, plan, .. } = self;
        if images.len() > plan.batch {
            let (found, expected) = (images.len() * plan.image, format!("at most {}", plan.batch * plan.image));
            return Err(TrainingError::Length { what: "images", found, expected });
        }
        if let Some(image) = images.iter().find(|image| image.len() != plan.image) {
            let (found, expected) = (image.len(), plan.image.to_string());
            return Err(TrainingError::Length { what: "images", found, expected });
        }
        let (own, rest) = device.frame_input_mut(FORWARD).split_at_mut(images.len() * plan.image);
        own.chunks_mut(plan.image.max(1)).zip(images).for_each(|(to, image)| to.copy_from_slice(image));
        rest.fill(0.0);
        device.run_frame(FORWARD)?;
        self.images = images.len();
        let mut results = device.frame_results(FORWARD);
        let mut outputs = Vec::new();
        for len in &plan.outputs {
            let (own, behind) = results.split_at(plan.batch * len);
            outputs.push(own[..images.len() * len].to_vec());
            results = behind;
        }
        Ok(outputs)
    }

    /// The squares of all convolutions that the outputs depend on, by gradients of the outputs of the last forward pass,
    /// in their order and layout. What that left is gone then.
    ///
    /// # Errors
    /// If the gradients are not those of the outputs, or the device fails.
    pub fn backward(&mut self, gradients: &[Vec<f32>]) -> Result<Vec<Squares>, TrainingError> {
        let Self { device, plan, images } = self;
        let lens: Vec<usize> = plan.outputs.iter().map(|len| *images * len).collect();
        if gradients.iter().map(Vec::len).ne(lens.iter().copied()) {
            let found = gradients.iter().map(Vec::len).sum();
            return Err(TrainingError::Length { what: "gradients", found, expected: format!("{lens:?}") });
        }
        let mut input = device.frame_input_mut(BACKWARD);
        for (len, gradient) in plan.outputs.iter().zip(gradients) {
            let (own, behind) = input.split_at_mut(plan.batch * len);
            let (own, rest) = own.split_at_mut(gradient.len());
            own.copy_from_slice(gradient);
            rest.fill(0.0);
            input = behind;
        }
        device.run_frame(BACKWARD)?;
        let mut results = device.frame_results(BACKWARD);
        let mut squares = Vec::new();
        for (node, area, channels) in &plan.squared {
            let (positions, behind) = results.split_at(plan.batch * area);
            let (of_channels, behind) = behind.split_at(*channels);
            let positions = positions[..*images * area].to_vec();
            squares.push(Squares { node: *node, positions, channels: of_channels.to_vec() });
            results = behind;
        }
        Ok(squares)
    }
}

#[cfg(test)]
mod tests;
