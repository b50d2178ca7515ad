//! Batch normalisation, activations and sums per channel.

use super::arguments::{Batch, Training};
use super::kernel::TrainKernel;
use super::tensors::{Parts, Tensors, Uses, byte, each, values};
use crate::graph::Activation;
use crate::kernels::cuda::arguments::{Region, act, count, int};
use crate::kernels::cuda::launch::Launch;

/// Where the arrays of a normalisation of `c` channels lie: first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormArrays {
    /// Mean and inverse deviation, `[2][c]`, and behind them the number of values of a channel: [`stats_len`] values.
    pub stats: usize,
    /// Scale.
    pub gamma: usize,
    /// Shift.
    pub beta: usize,
}

/// Values of the statistics of so many channels: two of each, and what they count.
pub fn stats_len(channels: usize) -> usize {
    2 * channels + 1
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

/// Where what is known of a normalisation goes: first bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// What normalises: [`NormArrays::stats`].
    pub stats: usize,
    /// Running mean and variance, which move toward those of the batch.
    pub running: [usize; 2],
    /// What is added to the variance.
    pub eps: f32,
    /// First byte of the weight of a batch's statistics in the running ones.
    pub momentum: usize,
}

impl Tensors {
    /// The statistics of `x`. The parts are room for `2 * parts * c` values.
    pub fn moments(self, x: Batch, parts: (usize, Parts), to: &Statistics) -> [Launch; 2] {
        let (found, training) = in_parts(&x, parts);
        let uses = Uses { reads: &[found, values(to.momentum, 1)], writes: &to.writes(&x) };
        let joined = self.launch(TrainKernel::MomentsJoined, each(x.c.into()), to.training(training), uses);
        [self.moments_of_parts(x, parts), joined]
    }

    /// The moments of `x` for the ranks that share its batch: [`stats_len`] values at `own`. The parts are room as
    /// above.
    pub fn moments_own(self, x: Batch, parts: (usize, Parts), own: usize) -> [Launch; 2] {
        let (found, mut training) = in_parts(&x, parts);
        training.arrays[1] = byte(own);
        let uses = Uses { reads: &[found], writes: &[values(own, stats_values(&x))] };
        [self.moments_of_parts(x, parts), self.launch(TrainKernel::MomentsOwn, each(x.c.into()), training, uses)]
    }

    /// The statistics of a batch of which so many ranks have a part, of the form of `x` but for its images: from the
    /// moments of all, one after the other at `all`.
    pub fn moments_of_all(self, x: Batch, (all, ranks): (usize, usize), to: &Statistics) -> Launch {
        let mut training = to.training(Training { x, splits: int(ranks), ..Training::default() });
        training.arrays[0] = byte(all);
        let found = values(all, stats_values(&x).saturating_mul(byte(ranks)));
        let uses = Uses { reads: &[found, values(to.momentum, 1)], writes: &to.writes(&x) };
        self.launch(TrainKernel::MomentsOfAll, each(x.c.into()), training, uses)
    }

    fn moments_of_parts(self, x: Batch, parts: (usize, Parts)) -> Launch {
        let (found, training) = in_parts(&x, parts);
        let uses = Uses { reads: &[self.region(&x)], writes: &[found] };
        self.launch(TrainKernel::Moments, reduction(&x, parts.1), training, uses)
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
        let c = i64::from(x.c);
        let training = norm.training(Training { x, y, act: act(function), ..Training::default() });
        let reads = [self.region(&x), values(norm.stats, 2 * c), values(norm.gamma, c), values(norm.beta, c)];
        self.launch(TrainKernel::Norm, each(x.len()), training, Uses { reads: &reads, writes: &[self.region(&y)] })
    }

    /// The sums that the gradient of [`Tensors::norm`] takes, `[2][c]`: those of the gradients of beta and of gamma,
    /// from `dy`, the gradient of its output. They are left in place of the first part.
    pub fn norm_sums(
        self,
        function: Activation,
        x: Batch,
        norm: &NormArrays,
        dy: Batch,
        sums: &Joined<'_>,
    ) -> [Launch; 2] {
        let c = i64::from(x.c);
        let (parts, training) = in_parts(&x, (sums.parts_at, sums.parts));
        let training = Training { y: dy, act: act(function), ..norm.training(training) };
        let [stats, gamma, beta] = [values(norm.stats, 2 * c), values(norm.gamma, c), values(norm.beta, c)];
        let reads = [self.region(&x), self.region(&dy), stats, gamma, beta];
        let uses = Uses { reads: &reads, writes: &[parts] };
        [self.launch(TrainKernel::NormSums, reduction(&x, sums.parts), training, uses), self.sums_joined(x, sums)]
    }

    /// The gradient of [`Tensors::norm`]: `dy`, the gradient of its output, becomes that of `x` in place. `sums` is
    /// where those of [`Tensors::norm_sums`] lie, over all values that its statistics are of; none where these are given,
    /// and do not depend on `x`.
    pub fn norm_backward(
        self,
        function: Activation,
        x: Batch,
        norm: &NormArrays,
        dy: Batch,
        sums: Option<usize>,
    ) -> Launch {
        let (c, given) = (i64::from(x.c), sums.is_none().into());
        let training = Training { x, y: dy, z: dy, act: act(function), given, ..Training::default() };
        let mut training = norm.training(training);
        training.arrays[0] = sums.map_or(0, byte);
        let stats = values(norm.stats, if sums.is_some() { stats_values(&x) } else { 2 * c });
        let sums = sums.map_or_else(Region::default, |at| values(at, 2 * c));
        let reads = [self.region(&x), sums, stats, values(norm.gamma, c), values(norm.beta, c)];
        let uses = Uses { reads: &reads, writes: &[self.region(&dy)] };
        self.launch(TrainKernel::NormBackward, each(x.len()), training, uses)
    }

    /// The sum of every channel of `x`, for one target.
    pub fn channel_sums(self, x: Batch, sums: &Joined<'_>) -> [Launch; 2] {
        let (_, training) = in_parts(&x, (sums.parts_at, sums.parts));
        let parts = values(sums.parts_at, i64::from(x.c) * sums.parts.count as i64);
        let uses = Uses { reads: &[self.region(&x)], writes: &[parts] };
        [self.launch(TrainKernel::Sums, reduction(&x, sums.parts), training, uses), self.sums_joined(x, sums)]
    }

    /// The sums of all parts, for their targets; they are left in place of the first part.
    pub fn sums_joined(self, x: Batch, sums: &Joined<'_>) -> Launch {
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
    fn training(&self, mut training: Training) -> Training {
        training.arrays[1..4].copy_from_slice(&[self.stats, self.gamma, self.beta].map(byte));
        training
    }
}

impl Statistics {
    fn training(&self, mut training: Training) -> Training {
        training.arrays[1] = byte(self.stats);
        training.arrays[4..6].copy_from_slice(&self.running.map(byte));
        training.arrays[6] = byte(self.momentum);
        Training { eps: self.eps, ..training }
    }

    /// What is written of the channels of `x`.
    fn writes(&self, x: &Batch) -> [Region; 3] {
        let [mean, variance] = self.running.map(|at| values(at, x.c.into()));
        [values(self.stats, stats_values(x)), mean, variance]
    }
}

/// Values of the statistics of the channels of `x`.
fn stats_values(x: &Batch) -> i64 {
    byte(stats_len(usize::try_from(x.c).unwrap_or(0)))
}

/// What a reduction of `x` in parts is called with, and where two sums of every part lie.
pub(super) fn in_parts(x: &Batch, (at, parts): (usize, Parts)) -> (Region, Training) {
    let mut training = Training { x: *x, rows: int(parts.rows), splits: int(parts.count), ..Training::default() };
    training.arrays[0] = byte(at);
    (values(at, 2 * i64::from(x.c) * parts.count as i64), training)
}

/// Blocks of a reduction per channel.
pub(super) fn reduction(x: &Batch, parts: Parts) -> [u32; 3] {
    [count(x.c.into(), 32), count(parts.count as i64, 1), 1]
}
