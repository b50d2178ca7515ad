//! Attention.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::tensors::{Tensors, Uses, byte, each, values};
use crate::graph::Attention;
use crate::kernels::cuda::arguments::{count, int};
use crate::kernels::cuda::launch::Launch;

/// Where attention keeps what its gradient needs: first bytes of arrays `[heads][pixels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionArrays {
    /// Logarithms of the sums of exponentials.
    pub logs: usize,
    /// Sums of output times gradient, during the backward pass.
    pub dots: usize,
}

/// Queries or keys of a block, and channels of one.
const QUERIES: i64 = 4;
const CHANNELS: usize = 128;

impl Tensors {
    /// `y = softmax(scale * q^T k)` applied to the values of the packed `x`.
    pub fn attention(self, op: &Attention, x: Batch, arrays: AttentionArrays, y: Batch) -> Launch {
        let training = Training { x, y, ..training(op, arrays) };
        let logs = values(arrays.logs, x.pixels() * op.heads as i64);
        let uses = Uses { reads: &[self.region(&x)], writes: &[self.region(&y), logs] };
        self.launch(TrainKernel::Attention, grid(op, &x, op.head_dim), training, uses)
    }

    /// The gradient `dx` of the packed `x`, written or added to what is there, from the output `y` and its gradient `dy`.
    pub fn attention_backward(
        self,
        op: &Attention,
        (x, y): (Batch, Batch),
        arrays: AttentionArrays,
        (dy, dx): (Batch, Batch),
        add: bool,
    ) -> [Launch; 3] {
        let len = x.pixels() * op.heads as i64;
        let [logs, dots] = [arrays.logs, arrays.dots].map(|at| values(at, len));
        let first = Training { x: y, y: dy, ..training(op, arrays) };
        let both = Uses { reads: &[self.region(&y), self.region(&dy)], writes: &[dots] };
        let training = Training { x, y: dy, z: dx, add: add.into(), ..training(op, arrays) };
        let reads = [self.region(&x), self.region(&dy), logs, dots];
        let writes = [self.region(&dx)];
        let uses = || Uses { reads: &reads, writes: &writes };
        let (keys, widest) = (grid(op, &x, op.key_dim), grid(op, &x, op.key_dim.max(op.head_dim)));
        [
            self.launch(TrainKernel::AttentionDots, each(len), first, both),
            self.launch(TrainKernel::AttentionQueries, keys, training, uses()),
            self.launch(TrainKernel::AttentionKeys, widest, training, uses()),
        ]
    }

    /// The values of the packed `x`.
    pub fn attention_values(self, op: &Attention, x: Batch, y: Batch) -> Launch {
        let none = AttentionArrays { logs: 0, dots: 0 };
        let uses = Uses { reads: &[self.region(&x)], writes: &[self.region(&y)] };
        self.launch(TrainKernel::Values, each(y.len()), Training { x, y, ..training(op, none) }, uses)
    }

    /// The gradient `dx` of the packed tensor from that of its values.
    pub fn attention_values_backward(self, op: &Attention, dy: Batch, dx: Batch, add: bool) -> Launch {
        let none = AttentionArrays { logs: 0, dots: 0 };
        let training = Training { x: dy, y: dx, add: add.into(), ..training(op, none) };
        let uses = Uses { reads: &[self.region(&dy)], writes: &[self.region(&dx)] };
        self.launch(TrainKernel::ValuesBackward, each(dx.len()), training, uses)
    }
}

fn training(op: &Attention, arrays: AttentionArrays) -> Training {
    let [heads, key_dim, head_dim, areas] = [op.heads, op.key_dim, op.head_dim, op.areas].map(int);
    let arrays = [byte(arrays.logs), byte(arrays.dots), 0, 0, 0, 0, 0, 0];
    Training { arrays, heads, key_dim, head_dim, areas, scale: op.scale, ..Training::default() }
}

/// Blocks: of queries or keys, heads, and runs of positions times blocks of so many channels.
fn grid(op: &Attention, x: &Batch, channels: usize) -> [u32; 3] {
    let areas = op.areas.max(1) as i64;
    let len = i64::from(x.h) * i64::from(x.w) / areas;
    let runs = i64::from(x.n) * areas * channels.div_ceil(CHANNELS).max(1) as i64;
    [count(len, QUERIES), count(op.heads as i64, 1), count(runs, 1)]
}
