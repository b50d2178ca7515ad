//! Batch normalisation, activations and sums per channel.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::tensors::{Parts, Tensors, Uses, byte, each, values};
use crate::graph::Activation;
use crate::kernels::cuda::arguments::{act, count, int};
use crate::kernels::cuda::launch::Launch;

/// Where the arrays of a normalisation of `c` channels lie: first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormArrays {
    /// Mean and inverse deviation, `[2][c]`.
    pub stats: usize,
    /// Scale.
    pub gamma: usize,
    /// Shift.
    pub beta: usize,
    /// Whether the statistics are given, and not those of what is normalised.
    pub given: bool,
}

/// Sums of all parts, and where they go: first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined<'a> {
    /// The parts, `[parts][sums][c]`.
    pub parts_at: usize,
    /// How many.
    pub parts: Parts,
    /// For every sum, of which there are at most two, its target, and whether it is added to what is there.
    pub targets: &'a [(usize, bool)],
}

impl Tensors {
    /// Mean and inverse deviation of `x` into `stats`; `running` are mean and variance, which move toward those of the
    /// batch by what byte `momentum` on says. `parts` is room for `2 * parts * c` values.
    pub fn moments(
        self,
        x: Batch,
        (parts_at, parts): (usize, Parts),
        stats: usize,
        running: [usize; 2],
        (eps, momentum): (f32, usize),
    ) -> [Launch; 2] {
        let c = i64::from(x.c);
        let training = Training {
            x,
            arrays: [byte(parts_at), byte(stats), 0, 0, byte(running[0]), byte(running[1]), byte(momentum), 0],
            rows: int(parts.rows),
            splits: int(parts.count),
            eps,
            ..Training::default()
        };
        let found = values(parts_at, 2 * c * parts.count as i64);
        let first = Uses { reads: &[self.region(&x)], writes: &[found] };
        let writes = [values(stats, 2 * c), values(running[0], c), values(running[1], c)];
        let second = Uses { reads: &[found, values(momentum, 1)], writes: &writes };
        [
            self.launch(TrainKernel::Moments, reduction(&x, parts), training, first),
            self.launch(TrainKernel::MomentsJoined, each(c), training, second),
        ]
    }

    /// `stats` from the running statistics, for a tensor of the form of `x`.
    pub fn moments_given(self, x: Batch, stats: usize, running: [usize; 2], eps: f32) -> Launch {
        let c = i64::from(x.c);
        let arrays = [0, byte(stats), 0, 0, byte(running[0]), byte(running[1]), 0, 0];
        let uses = Uses { reads: &running.map(|at| values(at, c)), writes: &[values(stats, 2 * c)] };
        self.launch(TrainKernel::MomentsGiven, each(c), Training { x, arrays, eps, ..Training::default() }, uses)
    }

    /// `y = act(gamma * (x - mean) / deviation + beta)`.
    pub fn norm(self, function: Activation, x: Batch, norm: &NormArrays, y: Batch) -> Launch {
        let (c, training) = (i64::from(x.c), Training { x, y, act: act(function), ..norm.training() });
        let reads = [self.region(&x), values(norm.stats, 2 * c), values(norm.gamma, c), values(norm.beta, c)];
        self.launch(TrainKernel::Norm, each(x.len()), training, Uses { reads: &reads, writes: &[self.region(&y)] })
    }

    /// The gradient of [`Tensors::norm`]: `dy`, the gradient of its output, becomes that of `x` in place. The sums are those
    /// of beta and gamma.
    pub fn norm_backward(
        self,
        function: Activation,
        x: Batch,
        norm: &NormArrays,
        dy: Batch,
        sums: &Joined<'_>,
    ) -> Vec<Launch> {
        let c = i64::from(x.c);
        let mut training = Training {
            x,
            y: dy,
            z: dy,
            act: act(function),
            rows: int(sums.parts.rows),
            splits: int(sums.parts.count),
            ..norm.training()
        };
        training.arrays[0] = byte(sums.parts_at);
        let parts = values(sums.parts_at, 2 * c * sums.parts.count as i64);
        let given = [values(norm.stats, 2 * c), values(norm.gamma, c), values(norm.beta, c)];
        let [stats, gamma, beta] = given;
        let reads = [self.region(&x), self.region(&dy), stats, gamma, beta];
        let first = self.launch(
            TrainKernel::NormSums,
            reduction(&x, sums.parts),
            training,
            Uses { reads: &reads, writes: &[parts] },
        );
        let reads = [self.region(&x), parts, stats, gamma, beta];
        let uses = Uses { reads: &reads, writes: &[self.region(&dy)] };
        vec![first, self.joined(x, sums), self.launch(TrainKernel::NormBackward, each(x.len()), training, uses)]
    }

    /// The sum of every channel of `x`, for one target.
    pub fn channel_sums(self, x: Batch, sums: &Joined<'_>) -> [Launch; 2] {
        let training = Training {
            x,
            arrays: [byte(sums.parts_at), 0, 0, 0, 0, 0, 0, 0],
            rows: int(sums.parts.rows),
            splits: int(sums.parts.count),
            ..Training::default()
        };
        let parts = values(sums.parts_at, i64::from(x.c) * sums.parts.count as i64);
        let uses = Uses { reads: &[self.region(&x)], writes: &[parts] };
        [self.launch(TrainKernel::Sums, reduction(&x, sums.parts), training, uses), self.joined(x, sums)]
    }

    fn joined(self, x: Batch, sums: &Joined<'_>) -> Launch {
        let c = i64::from(x.c);
        let mut arrays = [byte(sums.parts_at), 0, 0, 0, 0, 0, 0, 0];
        let mut writes = vec![values(sums.parts_at, c * sums.targets.len() as i64 * sums.parts.count as i64)];
        let mut add = 0;
        for (index, (at, adds)) in sums.targets.iter().enumerate() {
            add |= i32::from(*adds) << index;
            arrays[4 + index] = byte(*at);
            writes.push(values(*at, c));
        }
        let training = Training {
            x,
            arrays,
            factor: int(sums.targets.len()),
            splits: int(sums.parts.count),
            add,
            ..Training::default()
        };
        self.launch(TrainKernel::SumsJoined, each(c), training, Uses { reads: &[], writes: &writes })
    }

    /// `y = act(x)`.
    pub fn activate(self, function: Activation, x: Batch, y: Batch) -> Launch {
        let training = Training { x, y, act: act(function), ..Training::default() };
        let uses = Uses { reads: &[self.region(&x)], writes: &[self.region(&y)] };
        self.launch(TrainKernel::Activate, each(x.len()), training, uses)
    }

    /// The gradient `dx` of the input `x` of an activation, written or added to what is there; it may be `dy` itself.
    pub fn activate_backward(self, function: Activation, x: Batch, dy: Batch, dx: Batch, add: bool) -> Launch {
        let training = Training { x, y: dy, z: dx, act: act(function), add: add.into(), ..Training::default() };
        let uses = Uses { reads: &[self.region(&x), self.region(&dy)], writes: &[self.region(&dx)] };
        self.launch(TrainKernel::ActivateBackward, each(x.len()), training, uses)
    }
}

impl NormArrays {
    fn training(&self) -> Training {
        let arrays = [0, byte(self.stats), byte(self.gamma), byte(self.beta), 0, 0, 0, 0];
        Training { arrays, given: self.given.into(), ..Training::default() }
    }
}

/// Blocks of a reduction per channel.
fn reduction(x: &Batch, parts: Parts) -> [u32; 3] {
    [count(x.c.into(), 32), count(parts.count as i64, 1), 1]
}
