//! Second moments of a convolution's inputs and of the outputs it should have, at sampled positions,
//! and the regression they allow.

use super::samples::{Centred, Sums};
use crate::graph::Conv;
use crate::model::{Model, Tensor};
use crate::ranks::{RankError, Ranks};
use faer::linalg::solvers::DenseSolveCore;
use faer::prelude::Solve;
use faer::{Mat, Side};
use rayon::prelude::*;

/// A kernel and an intercept per output channel.
#[derive(Clone, Debug, Default)]
pub struct Fit {
    /// Kernel in the layout of the convolution.
    pub kernel: Vec<f32>,
    /// What to add to the output of each channel.
    pub intercept: Vec<f32>,
}

/// Centred second moments of the inputs of one regression.
#[derive(Clone)]
pub struct Covariance {
    mean: Vec<f64>,
    /// `[d, d]` covariance.
    xx: Mat<f64>,
}

/// Moments of inputs and targets of one regression.
struct Block {
    covariance: Covariance,
    target_mean: Vec<f64>,
    /// `[d, m]` covariance of inputs and targets.
    xy: Mat<f64>,
}

/// Moments of the independent regressions of a convolution: one where it is dense, one per channel where it is
/// depthwise.
pub struct Moments {
    blocks: Vec<Split>,
}

/// The moments of all positions, and of two disjoint parts of them for choosing the ridge.
struct Split {
    all: Block,
    seen: Block,
    unseen: Block,
}

/// Ridges that are tried, as shares of the inputs' mean variance.
const RIDGES: [f64; 5] = [0.0003, 0.003, 0.03, 0.15, 0.6];

impl From<Centred> for Block {
    fn from(Centred { x, y, xx, xy }: Centred) -> Self {
        Self { covariance: Covariance { mean: x, xx }, target_mean: y, xy }
    }
}

impl Moments {
    /// Of the sums of every regression over two disjoint parts of the samples.
    pub(super) fn of(seen: Vec<Sums>, unseen: Vec<Sums>) -> Self {
        let split = |(seen, unseen): (Sums, Sums)| {
            let mut all = seen.clone();
            all.join(&unseen);
            Split { all: all.centre().into(), seen: seen.centre().into(), unseen: unseen.centre().into() }
        };
        Self { blocks: seen.into_par_iter().zip(unseen).map(split).collect() }
    }

    /// The ridge regression toward `kernel`, the ridge chosen on images that the trial fit has not seen; ranks share the
    /// trials. `None` if the equations have no solution.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn fit(&self, kernel: &Tensor, ranks: &Ranks) -> Result<Option<Fit>, RankError> {
        let size = |split: &Split| split.all.covariance.mean.len() * split.all.target_mean.len();
        let starts: Vec<&[f32]> = self
            .blocks
            .iter()
            .scan(kernel.data(), |rest, split| {
                let (mine, others) = rest.split_at(size(split));
                *rest = others;
                Some(mine)
            })
            .collect();
        let unseen = |ridge: f64| -> Option<f64> {
            let error = |(split, start): (&Split, &&[f32])| {
                let Split { seen, unseen, .. } = split;
                let trial = solve(&seen.covariance, &seen.xy, &seen.target_mean, start, ridge)?;
                Some(unseen.error(&trial.kernel))
            };
            self.blocks.iter().zip(&starts).map(error).sum()
        };
        let trials = ranks.mine(RIDGES.len());
        let errors: Vec<f64> = trials.map(|trial| unseen(RIDGES[trial]).unwrap_or(f64::INFINITY)).collect();
        let errors = ranks.units_f64(&errors)?;
        let ranked = RIDGES.iter().zip(errors).filter(|(_, error)| *error != f64::INFINITY);
        let best = ranked.min_by(|a, b| a.1.total_cmp(&b.1));
        Ok(best.and_then(|(ridge, _)| {
            let mut fit = Fit::default();
            for (split, start) in self.blocks.iter().zip(&starts) {
                let part = solve(&split.all.covariance, &split.all.xy, &split.all.target_mean, start, *ridge)?;
                fit.kernel.extend(part.kernel);
                fit.intercept.extend(part.intercept);
            }
            Some(fit)
        }))
    }

    /// As [`Moments::fit`], with a ridge that is given, over the weights of `kernel` that are not zero: each output has
    /// a system of its own. An output whose equations have no solution, because what it reads never changes, keeps its
    /// weights and gets the right mean.
    pub fn fit_nonzero(&self, kernel: &Tensor, ridge: f64) -> Fit {
        let mut rows = kernel.data();
        let mut fit = Fit::default();
        for Block { covariance, target_mean, xy } in self.blocks.iter().map(|split| &split.all) {
            let d = covariance.mean.len();
            let (mine, others) = rows.split_at(d * target_mean.len());
            rows = others;
            let one = |(output, (row, target)): (usize, (&[f32], &f64))| {
                let kept: Vec<usize> = (0..d).filter(|i| row[*i] != 0.0).collect();
                let part = Covariance {
                    mean: kept.iter().map(|i| covariance.mean[*i]).collect(),
                    xx: Mat::from_fn(kept.len(), kept.len(), |i, j| covariance.xx[(kept[i], kept[j])]),
                };
                let right = Mat::from_fn(kept.len(), 1, |i, _| xy[(kept[i], output)]);
                let start: Vec<f32> = kept.iter().map(|i| row[*i]).collect();
                let found = if kept.is_empty() { None } else { solve(&part, &right, &[*target], &start, ridge) };
                let Some(found) = found else {
                    let mean: f64 = start.iter().zip(&part.mean).map(|(w, x)| f64::from(*w) * x).sum();
                    return (row.to_vec(), (target - mean) as f32);
                };
                let mut whole = vec![0.0; d];
                kept.iter().zip(found.kernel).for_each(|(i, w)| whole[*i] = w);
                (whole, found.intercept[0])
            };
            let jobs: Vec<_> = mine.chunks_exact(d).zip(target_mean).enumerate().collect();
            let found: Vec<(Vec<f32>, f32)> = jobs.into_par_iter().map(one).collect();
            for (row, intercept) in found {
                fit.kernel.extend(row);
                fit.intercept.push(intercept);
            }
        }
        fit
    }

    /// Writes the mean and the variance of the convolution's outputs into its batch normalisation.
    pub fn restate(&self, model: &mut Model, conv: &Conv) {
        let Some(norm) = &conv.norm else { return };
        let kernel = model.tensor(&conv.weight).data();
        let (mut means, mut variances) = (Vec::new(), Vec::new());
        let mut at = 0;
        for Block { covariance, target_mean, .. } in self.blocks.iter().map(|split| &split.all) {
            for _ in target_mean {
                let row: Vec<f64> = kernel[at..at + covariance.mean.len()].iter().map(|v| f64::from(*v)).collect();
                at += row.len();
                let dot = |a: &[f64]| a.iter().zip(&row).map(|(x, y)| x * y).sum::<f64>();
                let spread: f64 = (0..row.len()).map(|j| row[j] * dot(covariance.xx.col_as_slice(j))).sum();
                means.push(dot(&covariance.mean) as f32);
                variances.push(spread.max(0.0) as f32);
            }
        }
        let [_, _, mean, var] = norm.keys();
        let shape = vec![conv.c_out];
        model.weights.insert(mean, Tensor::new(shape.clone(), means));
        model.weights.insert(var, Tensor::new(shape, variances));
    }
}

impl Block {
    /// Squared error of a kernel on these samples, less a constant: `w^T xx w - 2 w^T xy` over all outputs.
    fn error(&self, kernel: &[f32]) -> f64 {
        let d = self.covariance.mean.len();
        let weights = Mat::from_fn(d, self.target_mean.len(), |i, j| f64::from(kernel[j * d + i]));
        let spread = &self.covariance.xx * &weights;
        let of = |j: usize| (0..d).map(|i| weights[(i, j)] * (spread[(i, j)] - 2.0 * self.xy[(i, j)])).sum::<f64>();
        (0..weights.ncols()).map(of).sum()
    }
}

impl Covariance {
    /// Of the sums of a regression.
    pub(super) fn of(sums: Sums) -> Self {
        Block::from(sums.centre()).covariance
    }

    /// The variance of every input.
    pub fn variances(&self) -> Vec<f64> {
        (0..self.mean.len()).map(|i| self.xx[(i, i)].max(0.0)).collect()
    }

    /// The variance of what a row of weights makes of the inputs.
    pub fn spread(&self, row: &[f32]) -> f64 {
        let d = self.mean.len().min(row.len());
        let dot = |j: usize| (0..d).map(|i| self.xx[(i, j)] * f64::from(row[i])).sum::<f64>();
        (0..d).map(|j| f64::from(row[j]) * dot(j)).sum::<f64>().max(0.0)
    }

    /// The covariance with `ridge` times its mean variance on the diagonal, and that value.
    fn ridged(&self, ridge: f64) -> (Mat<f64>, f64) {
        let d = self.mean.len();
        let trace: f64 = (0..d).map(|i| self.xx[(i, i)]).sum();
        let pull = ridge * trace / d.max(1) as f64 + f64::MIN_POSITIVE.sqrt();
        let mut left = self.xx.clone();
        (0..d).for_each(|i| left[(i, i)] += pull);
        (left, pull)
    }

    /// The inverse of the covariance with a ridge. `None` if there is none.
    pub fn inverse(&self, ridge: f64) -> Option<Mat<f64>> {
        Some(self.ridged(ridge).0.llt(Side::Lower).ok()?.inverse())
    }

    /// The best kernel for a subset of the input channels: as close as possible to what `kernel`
    /// `[m, c_in, k, k]` computes from all of them. `None` if the equations have no solution.
    pub fn compensate(&self, kernel: &Tensor, columns: &[usize], ridge: f64) -> Option<Fit> {
        let (m, taps) = (kernel.shape()[0], kernel.shape()[2] * kernel.shape()[3]);
        let d = self.mean.len();
        let kept: Vec<usize> = columns.iter().flat_map(|c| c * taps..(c + 1) * taps).collect();
        let weights = Mat::from_fn(d, m, |i, j| f64::from(kernel.data()[j * d + i]));
        let some = Mat::from_fn(kept.len(), d, |i, j| self.xx[(kept[i], j)]);
        let covariance = Covariance {
            mean: kept.iter().map(|i| self.mean[*i]).collect(),
            xx: Mat::from_fn(kept.len(), kept.len(), |i, j| self.xx[(kept[i], kept[j])]),
        };
        let targets: Vec<f64> = (0..m).map(|j| (0..d).map(|i| weights[(i, j)] * self.mean[i]).sum()).collect();
        solve(&covariance, &(&some * &weights), &targets, kernel.select(1, columns).data(), ridge)
    }
}

/// Ridge regression: `(xx + r I) w = xy + r w0`, the intercept from the means.
fn solve(covariance: &Covariance, xy: &Mat<f64>, target_mean: &[f64], start: &[f32], ridge: f64) -> Option<Fit> {
    let (d, m) = (covariance.mean.len(), target_mean.len());
    let (left, pull) = covariance.ridged(ridge);
    let right = Mat::from_fn(d, m, |i, j| xy[(i, j)] + pull * f64::from(start[j * d + i]));
    let solution = left.llt(Side::Lower).ok()?.solve(&right);
    let mut fit = Fit { kernel: Vec::with_capacity(d * m), intercept: Vec::with_capacity(m) };
    for (j, target) in target_mean.iter().enumerate() {
        let row = solution.col_as_slice(j);
        fit.kernel.extend(row.iter().map(|v| *v as f32));
        fit.intercept.push((target - row.iter().zip(&covariance.mean).map(|(w, x)| w * x).sum::<f64>()) as f32);
    }
    // What is too large for the kernel is no solution either.
    fit.kernel.iter().chain(&fit.intercept).all(|v| v.is_finite()).then_some(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solution_that_is_too_large_for_a_kernel_is_none() {
        let covariance = |variance: f64| Covariance { mean: vec![0.5], xx: Mat::from_fn(1, 1, |_, _| variance) };
        let found =
            |variance, xy: f64| solve(&covariance(variance), &Mat::from_fn(1, 1, |_, _| xy), &[1.0], &[0.25], 0.0);
        let fit = found(2.0, 3.0).unwrap();
        assert_eq!((fit.kernel, fit.intercept), (vec![1.5], vec![0.25]));
        assert!(found(1e-100, 1e-30).is_none(), "1e70 is a number, but not one of f32");
        assert!(found(1e-100, 1e300).is_none());
    }
}
