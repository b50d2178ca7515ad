//! Networks that walk side by side through the calibration images, on the CPU or on a CUDA device, and second moments
//! of what their convolutions read and find.

use super::Calibration;
use super::error::PassError;
use super::moments::{Covariance, Moments};
use super::on_cpu::OnCpu;
use super::on_gpu::OnGpu;
use super::positions::{self, Position};
use super::samples::Sums;
use super::shared::{Regressions, Source};
use super::walk::Walk;
use crate::engine::{Device, EngineError, open_cuda};
use crate::graph::{Conv, Graph, NodeId, Op, Shape};
use crate::model::{Model, Tensor};
use crate::ranks::Share;
use crate::training::{LayerWalk, Regression};
use std::cell::RefCell;

/// One or two networks: the original, and one that was pruned of it.
pub struct Pass<'a> {
    calibration: &'a Calibration<'a>,
    share: Share,
    /// The shapes of the original's tensors.
    shapes: Vec<Shape>,
    way: Way,
}

enum Way {
    /// By network its tensors.
    Cpu(Vec<Walk>),
    Gpu(Box<LayerWalk>),
}

/// A convolution of the original, what it reads, and the rows of its kernel that are kept.
#[derive(Clone, Copy)]
pub(super) struct Original<'a> {
    pub id: NodeId,
    pub conv: &'a Conv,
    pub input: NodeId,
    /// `[m, c_in / groups, k, k]`.
    pub kernel: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    /// The positions of those rows.
    pub rows: &'a [usize],
}

/// A convolution that reads: its network and node, what it reads, and itself.
type Reader<'a> = ((usize, NodeId), NodeId, &'a Conv);

impl<'a> Pass<'a> {
    /// Before the first node of graphs, the original's first.
    ///
    /// # Errors
    /// If a graph does not fit the images; if the device has not enough memory, or cannot be used.
    pub fn new(graphs: &[&Graph], calibration: &'a Calibration<'a>) -> Result<Self, PassError> {
        let (share, size) = (calibration.share(), (calibration.height, calibration.width));
        let shapes = graphs.first().map_or(Ok(Vec::new()), |graph| graph.shapes(size.0, size.1));
        let shapes = shapes.map_err(EngineError::from)?;
        let way = match calibration.device {
            Device::Cpu => Way::Cpu(graphs.iter().map(|graph| Walk::new(graph, calibration)).collect()),
            Device::Cuda(ordinal) => {
                let device = open_cuda(ordinal).map_err(EngineError::from)?;
                Way::Gpu(Box::new(LayerWalk::new(device, graphs, size, &calibration.images[share.range()])?))
            }
        };
        Ok(Self { calibration, share, shapes, way })
    }

    /// Bytes of a CUDA device's memory that a repair with so many images of a size takes at most, with an original like
    /// this.
    ///
    /// # Errors
    /// If the graph does not fit the size, or the device has no kernels for it.
    pub fn bytes_on_gpu(original: &Graph, size: (usize, usize), images: usize) -> Result<usize, PassError> {
        Ok(LayerWalk::bytes(&[original, original], size, images)?)
    }

    /// Computes one node of a network for every image. Nodes must come in order, those of the original before those
    /// with their names.
    ///
    /// # Errors
    /// If the layer cannot be run.
    pub fn step(&mut self, network: usize, model: &Model, id: NodeId) -> Result<(), PassError> {
        match &mut self.way {
            Way::Cpu(walks) => Ok(walks[network].step(model, id)?),
            Way::Gpu(walk) => Ok(walk.step(network, model, id)?),
        }
    }

    /// The second moments of what a dense convolution of the original reads, before its step; none of another node.
    ///
    /// # Errors
    /// If they cannot be added up, or a rank cannot be reached.
    pub fn covariance(&mut self, original: &Graph, id: NodeId) -> Result<Option<Covariance>, PassError> {
        let node = original.node(id);
        let Op::Conv(conv) = &node.op else { return Ok(None) };
        if conv.is_depthwise() {
            return Ok(None);
        }
        let positions = self.positions(id, conv);
        let sums = self.sums(((0, id), node.inputs[0], conv), None, &positions, 1)?;
        Ok(sums.into_iter().flatten().next().map(Covariance::of))
    }

    /// The moments for refitting a convolution of the pruned network, before its step, to what one of the original
    /// finds, right after its step.
    ///
    /// # Errors
    /// As [`Pass::covariance`].
    pub(super) fn moments(
        &mut self,
        original: Original<'_>,
        pruned: &Graph,
        (id, conv): (NodeId, &Conv),
    ) -> Result<Moments, PassError> {
        let positions = self.positions(original.id, conv);
        let reader = ((1, id), pruned.node(id).inputs[0], conv);
        let mut sums = self.sums(reader, Some(original), &positions, 2)?;
        let unseen = sums.pop().unwrap_or_default();
        Ok(Moments::of(sums.pop().unwrap_or_default(), unseen))
    }

    /// Positions of the output of a node of the original, for what a convolution in its place reads.
    fn positions(&self, id: NodeId, conv: &Conv) -> Vec<Position> {
        let (Calibration { seed, .. }, Shape { h, w, .. }) = (self.calibration, self.shapes[id.index()]);
        let weights = self.calibration.position_weights(id);
        positions::choose((h, w), self.share.images(), inputs_of(conv), seed ^ u64::from(id.0), weights)
    }

    fn sums(
        &mut self,
        (reader, input, conv): Reader<'_>,
        original: Option<Original<'_>>,
        positions: &[Position],
        sets: usize,
    ) -> Result<Vec<Vec<Sums>>, PassError> {
        let lanes = if conv.is_depthwise() { conv.c_in } else { 1 };
        let widths = [inputs_of(conv), original.map_or(0, |original| original.rows.len() / lanes.max(1))];
        let regressions =
            |source: &dyn Source| Regressions { share: &self.share, positions, lanes, widths, source }.sums(sets);
        match &mut self.way {
            Way::Cpu(walks) => {
                let target = original.map(|o| (o.conv, walks[0].inputs(o.input), o.kernel, o.rows));
                regressions(&OnCpu { conv, inputs: walks[reader.0].inputs(input), target })
            }
            Way::Gpu(walk) => {
                let target = original.map(|original| ((0, original.id), original.rows));
                let bias = |row: &usize| original.and_then(|o| Some(o.bias?.data()[*row])).unwrap_or(0.0);
                let biases = original.map_or(Vec::new(), |original| original.rows.iter().map(bias).collect());
                let first = self.share.range().start;
                let regression = Regression { reader, target };
                regressions(&OnGpu { walk: RefCell::new(walk), regression, first, widths, biases })
            }
        }
    }
}

/// Inputs of a regression of a convolution.
fn inputs_of(conv: &Conv) -> usize {
    let channels = if conv.is_depthwise() { 1 } else { conv.c_in };
    channels * conv.kernel * conv.kernel
}

#[cfg(test)]
mod tests;
