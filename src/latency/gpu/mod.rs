//! A latency table from a few figures of a GPU, for devices that cannot be reached.
//!
//! A layer takes the larger of what its instructions take on the multiprocessors (tiles of dense convolutions in
//! `tiles`; other kernels by values per multiprocessor) and what its memory traffic takes: at the rate of the L2 where
//! input, output and weights fit into it together, else at [`REACHED`] of the memory's bandwidth. Each launch costs a
//! node of a CUDA graph. Dense convolutions are products on tensor cores, in f32 three products of TF32 values each; the
//! first layer in f32 runs on the f32 units. Every layer's times over a grid of widths are fitted as measured ones are. Launches follow one
//! another; the copies of the image and of the results count in the frame.

mod architecture;
mod tiles;

pub use architecture::Gpu;

use super::fit::Sample;
use super::{LatencyTable, LayerTime, work};
use crate::graph::{Conv, Dtype, Graph, GraphError, Node, NodeId, Op, Shape};
use architecture::MEASURED_NODE_US;
use tiles::Product;

/// The share of the memory's bandwidth that kernels reach.
const REACHED: f64 = 0.8;

/// Bytes per clock that a multiprocessor moves to and from the L2: copies on 8 multiprocessors of an H200.
const L2_BYTES_PER_CLOCK: f64 = 44.0;

/// Steps of the grid of widths.
const LEVELS: usize = 8;

/// What a kernel without tiles takes, in microseconds of a multiprocessor at 1.98 GHz: from start to end, and per unit
/// of work on a multiprocessor, of which the share `HIDDEN` of the former disappears behind it.
struct Simple {
    start: f64,
    work: f64,
}

const HIDDEN: f64 = 0.3;

/// Estimates the layers of a graph for an image of `height` x `width`, computed in a dtype.
///
/// # Errors
/// As [`Graph::shapes`].
pub fn estimate_gpu(
    graph: &Graph,
    (height, width): (usize, usize),
    gpu: &Gpu,
    dtype: Dtype,
    fingerprint: &str,
) -> Result<LatencyTable, GraphError> {
    let shapes = graph.shapes(height, width)?;
    let (readers, copied) = (graph.consumers(), work::copied_channels(graph, &shapes));
    let network = Network { graph, readers: &readers, shapes: &shapes, copied: &copied, gpu, dtype };
    let layers: Vec<Option<LayerTime>> = (0..graph.nodes.len()).map(|index| network.layer(index)).collect();
    let full: f64 = (0..graph.nodes.len()).filter_map(|index| network.micros(index, network.widths(index))).sum();
    let images = graph.ids().filter(|id| matches!(graph.node(*id).op, Op::Input { .. })).chain(graph.outputs.clone());
    // The caller's values are f32; they are read here and written there.
    let bytes: usize = images.map(|id| 2 * 4 * shapes[id.index()].len()).sum();
    let copies = bytes as f64 / (REACHED * gpu.bandwidth * 1e3);
    Ok(LatencyTable {
        fingerprint: fingerprint.into(),
        layers,
        frame_factor: if full > 0.0 { 1.0 + copies / full } else { 1.0 },
        held_out_errors: Vec::new(),
    })
}

struct Network<'a> {
    graph: &'a Graph,
    readers: &'a [Vec<NodeId>],
    shapes: &'a [Shape],
    copied: &'a [usize],
    gpu: &'a Gpu,
    dtype: Dtype,
}

impl Network<'_> {
    /// Channels of a node's first input and of its output.
    fn widths(&self, index: usize) -> (usize, usize) {
        (self.input(index).c, self.shapes[index].c)
    }

    fn input(&self, index: usize) -> Shape {
        let first = self.graph.nodes[index].inputs.first();
        first.map_or(Shape { c: 0, h: 0, w: 0 }, |id| self.shapes[id.index()])
    }

    /// The time of a layer over its widths; none for what takes none.
    fn layer(&self, index: usize) -> Option<LayerTime> {
        let (c_in, c_out) = self.widths(index);
        let steps = |most: usize| {
            let mut steps: Vec<usize> = (1..=LEVELS).map(|step| (most * step).div_ceil(LEVELS)).collect();
            steps.dedup();
            steps
        };
        // Where no layer lies between input and output, both get narrower together.
        let free = matches!(&self.graph.nodes[index].op, Op::Conv(conv) if !conv.is_depthwise())
            || matches!(self.graph.nodes[index].op, Op::ConvTranspose(_));
        let pairs: Vec<(usize, usize)> = match free {
            true => steps(c_in).into_iter().flat_map(|a| steps(c_out).into_iter().map(move |b| (a, b))).collect(),
            false => steps(c_out).into_iter().map(|b| ((c_in * b).div_ceil(c_out.max(1)), b)).collect(),
        };
        let sample = |(a, b): (usize, usize)| Some((a, b, self.micros(index, (a, b))? / 1e3));
        let samples: Option<Vec<Sample>> = pairs.into_iter().map(sample).collect();
        LayerTime::fit(&samples?)
    }

    /// Microseconds of a node at the given widths.
    fn micros(&self, index: usize, (c_in, c_out): (usize, usize)) -> Option<f64> {
        let node: &Node = &self.graph.nodes[index];
        let (input, out) = (self.input(index), self.shapes[index]);
        let (read, written) = (input.area() * c_in, out.area() * c_out);
        let per_value = |work: f64, taps: usize| Simple { start: 2.2, work: work * taps as f64 };
        let f32 = self.dtype == Dtype::F32;
        let copy = || self.simple(per_value(0.0, 1), written as f64, 2 * written);
        Some(match &node.op {
            Op::Conv(conv) => self.convolution(conv, node, (input, out), (c_in, c_out)),
            Op::ConvTranspose(conv) => {
                let columns = c_out * conv.factor * conv.factor;
                let product = Product { pixels: input.area(), taps: 1, c_in, c_out: columns };
                // The product, then its squares of pixels are put into place.
                self.product(product, read + written + c_in * columns) + copy()
            }
            Op::Attention(attention) => {
                // Both products: channels of keys and of values, each with every pixel of its area.
                let keys = out.area() as f64 / attention.areas.max(1) as f64;
                let operations = (c_in + c_out) as f64 * out.area() as f64 * keys;
                let kernel = match f32 {
                    true => Simple { start: 2.2 + 0.366 * keys, work: 4.4e-5 },
                    false => Simple { start: 3.0 + 0.0035 * keys, work: 1.53e-6 },
                };
                self.simple(kernel, operations, read + written)
            }
            // A mean reads as many values as a maximum.
            Op::MaxPool { kernel, .. } | Op::AvgPool { kernel, .. } => {
                let each = per_value(if f32 { 2.2e-4 } else { 1.8e-5 }, kernel * kernel);
                self.simple(each, written as f64, read + written)
            }
            // The values of a single head are a part of their tensor.
            Op::AttentionValues(a) if a.heads == 1 => return None,
            Op::AttentionValues(_) | Op::Upsample { .. } | Op::Activate { .. } => copy(),
            Op::GlobalAvgPool => self.simple(per_value(0.0, 1), read as f64, read + written),
            // In the epilogue of the convolution before it a sum only reads its other operand.
            Op::Add if work::is_fused_sum(self.graph, self.readers, index) => self.traffic(written),
            Op::Add => self.simple(per_value(0.0, 1), written as f64, 3 * written),
            Op::Concat if self.copied[index] > 0 => {
                let share = self.copied[index] as f64 / out.c.max(1) as f64;
                self.simple(per_value(0.0, 1), written as f64, (2.0 * share * written as f64) as usize)
            }
            Op::Input { .. } | Op::Concat | Op::Slice { .. } => return None,
        })
    }

    fn convolution(
        &self,
        conv: &Conv,
        node: &Node,
        (input, out): (Shape, Shape),
        (c_in, c_out): (usize, usize),
    ) -> f64 {
        let taps = conv.kernel * conv.kernel;
        let tensors = input.area() * c_in + out.area() * c_out;
        let values = (out.area() * c_out) as f64;
        if conv.is_depthwise() {
            let taps = taps as f64;
            let kernel = match self.dtype {
                Dtype::F32 => Simple { start: 2.0, work: 2.88e-4 * taps },
                Dtype::F16 => Simple { start: 3.3, work: 1.82e-5 * taps },
                Dtype::Int8 => Simple { start: 5.0, work: 1.82e-5 * taps },
            };
            return self.simple(kernel, values, tensors + c_out * conv.kernel * conv.kernel);
        }
        let reads_image = node.inputs.first().is_some_and(|id| matches!(self.graph.node(*id).op, Op::Input { .. }));
        let weights = taps * c_in * c_out;
        let product = Product { pixels: out.area(), taps, c_in, c_out };
        let reads_image = reads_image && c_in <= 4;
        if reads_image && self.dtype == Dtype::F32 {
            return self.launch(tiles::micros_on_f32_units(self.gpu, product), tensors + weights);
        }
        if reads_image {
            let start = if self.dtype == Dtype::F16 { 3.2 } else { 3.6 };
            let kernel = Simple { start, work: 1.43e-4 * taps as f64 / 9.0 };
            return self.simple(kernel, values, tensors + weights);
        }
        self.product(product, tensors + weights)
    }

    /// Microseconds of a launch of a product that moves so many values.
    fn product(&self, product: Product, values: usize) -> f64 {
        self.launch(tiles::micros(self.gpu, self.dtype, product), values)
    }

    /// Microseconds of a launch with so much work in all that moves so many values.
    fn simple(&self, kernel: Simple, work: f64, values: usize) -> f64 {
        let added = work / self.gpu.multiprocessors * kernel.work - HIDDEN * kernel.start;
        self.launch((kernel.start + added.max(0.0)) * self.gpu.slower(), values)
    }

    /// The larger of instructions and traffic; the node's cost is this GPU's.
    fn launch(&self, instructions: f64, values: usize) -> f64 {
        let node = self.gpu.node_us;
        let instructions = instructions - MEASURED_NODE_US * self.gpu.slower();
        node + instructions.max(self.traffic(values))
    }

    /// Microseconds to move values.
    fn traffic(&self, values: usize) -> f64 {
        let bytes = values as f64
            * match self.dtype {
                Dtype::F32 => 4.0,
                Dtype::F16 => 2.0,
                Dtype::Int8 => 1.0,
            };
        let cached = bytes <= self.gpu.l2_mib * f64::from(1 << 20);
        let l2 = L2_BYTES_PER_CLOCK * self.gpu.multiprocessors * self.gpu.clock_ghz;
        let rate = if cached { l2.max(REACHED * self.gpu.bandwidth) } else { REACHED * self.gpu.bandwidth };
        bytes / (rate * 1e3)
    }
}
