//! A latency table from two figures of a CPU, for devices that cannot be reached.
//!
//! A layer takes the time of its arithmetic at the peak rate and the time of its memory traffic at the bandwidth, one
//! after the other; real overlap and real inefficiency are one factor that the whole frame shares (Williams, Waterman
//! and Patterson, "Roofline", 2009, without the roof's corner). Good for comparing widths, not for promising
//! milliseconds.

use super::{LatencyTable, LayerTime, work};
use crate::graph::{Graph, GraphError, Op, Shape};

/// Lanes of the kernels: output channels are computed in groups of so many.
const TILE: usize = 8;

/// The share of peak and bandwidth that whole networks reach in this runtime.
const REACHED: f64 = 0.5;

/// Milliseconds to start a layer.
const START_MS: f64 = 0.002;

/// Peak rates of a CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Floating-point operations per second of all threads together, in units of 10^9 (a multiply-add is two).
    pub gflops: f64,
    /// Bytes per second between memory and CPU, in units of 10^9.
    pub bandwidth: f64,
}

/// Estimates the layers of a graph for an image of `height` x `width`.
///
/// # Errors
/// As [`Graph::shapes`].
pub fn estimate(
    graph: &Graph,
    (height, width): (usize, usize),
    speed: &Speed,
    fingerprint: &str,
) -> Result<LatencyTable, GraphError> {
    let shapes = graph.shapes(height, width)?;
    let macs_per_ms = speed.gflops.max(1e-3) / 2.0 * 1e6;
    let values_per_ms = speed.bandwidth.max(1e-3) / 4.0 * 1e6;
    let (readers, copied) = (graph.consumers(), work::copied_channels(graph, &shapes));
    let layer = |(index, node): (usize, &crate::graph::Node)| {
        let out = shapes[index];
        let input = node.inputs.first().map_or(Shape { c: 0, h: 0, w: 0 }, |id| shapes[id.index()]);
        let (read, write) = (input.area() as f64 / values_per_ms, out.area() as f64 / values_per_ms);
        let coefficients = match &node.op {
            Op::Conv(conv) => {
                let window = (conv.kernel * conv.kernel) as f64;
                let each = window * (out.area() as f64 / macs_per_ms + 1.0 / values_per_ms);
                if conv.is_depthwise() { [START_MS, read, write + each, 0.0] } else { [START_MS, read, write, each] }
            }
            Op::ConvTranspose(conv) => {
                // Every input pixel becomes a square; the squares are written once more, into place.
                let square = (conv.factor * conv.factor) as f64;
                let each = square * (input.area() as f64 / macs_per_ms + 1.0 / values_per_ms);
                [START_MS, read, 3.0 * write, each]
            }
            Op::Attention(a) => {
                let macs =
                    (a.heads * (a.key_dim + a.head_dim)) as f64 * (out.area() * (out.area() / a.areas.max(1))) as f64;
                [START_MS, read, write + macs / macs_per_ms / out.c.max(1) as f64, 0.0]
            }
            Op::MaxPool { kernel, .. } | Op::AvgPool { kernel, .. } => {
                // Every output takes all values of its window, at the rate of other arithmetic.
                let compared = (kernel * kernel * out.area()) as f64 / macs_per_ms;
                [0.0, read, write + compared, 0.0]
            }
            // In the epilogue of a convolution a sum reads its other operand, and that is all.
            Op::Add if work::is_fused_sum(graph, &readers, index) => [0.0, read, 0.0, 0.0],
            Op::Add => [0.0, 2.0 * read, write, 0.0],
            // The values of a single head are a part of their tensor.
            Op::AttentionValues(a) if a.heads == 1 => return None,
            // Of the packed input only the values are read.
            Op::AttentionValues(_) => [0.0, 0.0, 2.0 * write, 0.0],
            Op::Activate { .. } | Op::Upsample { .. } | Op::GlobalAvgPool => [0.0, read, write, 0.0],
            Op::Concat if copied[index] > 0 => {
                [0.0, 0.0, 2.0 * write * copied[index] as f64 / out.c.max(1) as f64, 0.0]
            }
            // Views of other tensors.
            Op::Input { .. } | Op::Concat | Op::Slice { .. } => return None,
        };
        let tile = if matches!(node.op, Op::Conv(_) | Op::ConvTranspose(_)) { TILE } else { 1 };
        Some(LayerTime { tile, coefficients })
    };
    Ok(LatencyTable {
        fingerprint: fingerprint.into(),
        layers: graph.nodes.iter().enumerate().map(layer).collect(),
        frame_factor: 1.0 / REACHED,
        held_out_errors: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::groups;
    use crate::zoo::yolo11::{Scale, detect};

    /// The arithmetic of the estimate is that of the graph: with memory for nothing, the time is operations over peak.
    #[test]
    fn without_memory_traffic_the_time_is_that_of_the_arithmetic() {
        let graph = detect(Scale { depth: 0.5, width: 0.25, max_channels: 1024, c3k_everywhere: false }, 80).unwrap();
        let groups = groups(&graph);
        let full: Vec<usize> = groups.groups.iter().map(|g| g.width()).collect();
        let speed = Speed { gflops: 10.0, bandwidth: 1e12 };
        let table = estimate(&graph, (320, 320), &speed, "test").unwrap();
        let expected = graph.cost(320, 320).unwrap().macs as f64 * 2.0 / 10e9 * 1e3 / REACHED;
        let found = table.predict(&graph, &groups, &full);
        assert!((found / expected - 1.0).abs() < 0.02, "{found} ms, arithmetic alone {expected} ms");
        // Windows are compared value by value.
        let pool = graph.nodes.iter().position(|node| matches!(node.op, Op::MaxPool { .. })).unwrap();
        let mut wide = graph.clone();
        wide.nodes[pool].op = Op::MaxPool { kernel: 25, stride: 1, padding: 12 };
        let of = |graph: &Graph| {
            estimate(graph, (320, 320), &speed, "test").unwrap().layers[pool].clone().unwrap().coefficients[2]
        };
        assert!((of(&wide) / of(&graph) - 25.0).abs() < 0.1, "{} to {}", of(&graph), of(&wide));
        let slower = estimate(&graph, (320, 320), &Speed { bandwidth: 5.0, ..speed }, "test").unwrap();
        assert!(slower.predict(&graph, &groups, &full) > found * 1.02);
    }
}
