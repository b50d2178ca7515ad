//! Samples of a convolution's inputs and outputs, and the sums of their products.
//!
//! Products are made in f32 and added up over short runs of samples; the runs are added up in f64. All samples are
//! taken less a pivot near their mean, so that f32 loses nothing of a variance that is small beside the mean (Chan,
//! Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983). Of a symmetric product one triangle is
//! computed. The order of every sum is fixed: it does not depend on the number of threads.

use super::inputs::Inputs;
use super::positions::Position;
use crate::graph::Conv;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use rayon::prelude::*;
use std::ops::Range;

/// Samples that are added up in f32.
const RUN: usize = 512;

/// Rows and columns of a product that stay in the cache while a run is added.
const TILE: (usize, usize) = (256, 128);

/// Samples that a pivot is the mean of, about.
const PIVOT: usize = 64;

/// A matrix `[rows, columns]` of samples, column after column: a column is one input, a row one sample of all.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    rows: usize,
    values: Vec<f32>,
}

impl Samples {
    /// Samples column after column.
    pub fn new(rows: usize, values: Vec<f32>) -> Self {
        Self { rows, values }
    }

    /// Samples without any column.
    pub fn none(rows: usize) -> Self {
        Self { rows, values: Vec::new() }
    }

    /// The patches under the kernel at some positions in images of this rank, `[positions, channels * k * k]`.
    pub fn patches(conv: &Conv, inputs: Inputs, channels: Range<usize>, positions: &[Position]) -> Self {
        let (k, area, rows) = (conv.kernel, inputs.height * inputs.width, positions.len());
        let mut values = vec![0.0; rows * channels.len() * k * k];
        let first = inputs.share.range().start;
        let inside = |p: usize, side: usize| p.checked_sub(conv.padding).filter(|p| *p < side);
        values.par_chunks_mut((rows * k * k).max(1)).zip(channels).for_each(|(columns, channel)| {
            for (tap, column) in columns.chunks_mut(rows).enumerate() {
                for (value, at) in column.iter_mut().zip(positions) {
                    let (py, px) = (at.y * conv.stride + tap / k, at.x * conv.stride + tap % k);
                    if let (Some(py), Some(px)) = (inside(py, inputs.height), inside(px, inputs.width)) {
                        *value = inputs.images[at.image - first][channel * area + py * inputs.width + px];
                    }
                }
            }
        });
        Self { rows, values }
    }

    /// What a kernel `[columns, outputs]` makes of them.
    pub fn times(&self, kernel: MatRef<f32>) -> Self {
        let mut values = vec![0.0; self.rows * kernel.ncols()];
        let product = MatMut::from_column_major_slice_mut(&mut values, self.rows, kernel.ncols());
        matmul(product, Accum::Replace, self.view(), kernel, 1.0, Par::rayon(0));
        Self { rows: self.rows, values }
    }

    fn columns(&self) -> usize {
        self.values.len() / self.rows.max(1)
    }

    fn view(&self) -> MatRef<'_, f32> {
        MatRef::from_column_major_slice(&self.values, self.rows, self.columns())
    }

    /// The samples, column after column.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// Subtracts the pivot and multiplies every sample with its root; adds the samples, times their roots once more.
    fn weigh(&mut self, pivot: &[f32], roots: &[f32], sums: &mut [f64]) {
        let columns = self.values.par_chunks_mut(self.rows.max(1)).zip(pivot).zip(sums);
        columns.for_each(|((column, pivot), sum)| {
            let mut total = 0.0;
            for (value, root) in column.iter_mut().zip(roots) {
                *value = (*value - pivot) * root;
                total += f64::from(*value) * f64::from(*root);
            }
            *sum += total;
        });
    }
}

/// Some positions all over the images; the means of the samples there are good pivots.
pub(super) fn few(positions: &[Position]) -> Vec<Position> {
    positions.iter().step_by((positions.len() / PIVOT).max(1)).copied().collect()
}

/// The roots of the weights of positions: products need one on either side, sums one once more.
pub(super) fn roots(positions: &[Position]) -> impl Iterator<Item = f32> + '_ {
    positions.iter().map(|p| p.weight.sqrt() as f32)
}

/// Weighted means of inputs `x` and outputs `y`, and their covariances.
pub(super) struct Centred {
    pub x: Vec<f64>,
    pub y: Vec<f64>,
    pub xx: Mat<f64>,
    pub xy: Mat<f64>,
}

/// Sums of outer products under construction.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    /// What is subtracted of inputs and outputs.
    pivots: [Vec<f32>; 2],
    count: f64,
    x: Vec<f64>,
    y: Vec<f64>,
    /// `[d, d]`, column after column; the upper triangle is not complete.
    xx: Vec<f64>,
    /// `[d, m]`, column after column.
    xy: Vec<f64>,
}

impl Sums {
    /// Of nothing yet, around pivots of inputs and outputs.
    pub fn around(x: Vec<f32>, y: Vec<f32>) -> Self {
        let (d, m) = (x.len(), y.len());
        let zeros = |n: usize| vec![0.0; n];
        Self { count: 0.0, x: zeros(d), y: zeros(m), xx: zeros(d * d), xy: zeros(d * m), pivots: [x, y] }
    }

    /// Of what was added up elsewhere: the weights, `[d + m]` inputs and outputs, and products `[d, d + m]` of an input and an
    /// input or output, row after row, of two inputs where the second is not before the first.
    pub fn found([x, y]: &[Vec<f32>; 2], count: f64, sums: &[f64], products: &[f64]) -> Self {
        let (d, m) = (x.len(), y.len());
        let mut found = Self { count, ..Self::around(x.clone(), y.clone()) };
        found.x.copy_from_slice(&sums[..d]);
        found.y.copy_from_slice(&sums[d..]);
        for (i, row) in products.chunks(d + m).enumerate() {
            let (inputs, outputs) = row.split_at(d);
            found.xx[i * d + i..(i + 1) * d].copy_from_slice(&inputs[i..]);
            outputs.iter().enumerate().for_each(|(j, product)| found.xy[j * d + i] = *product);
        }
        found
    }

    /// Adds samples of inputs and outputs at some positions.
    pub fn add(&mut self, mut x: Samples, mut y: Samples, positions: &[Position]) {
        let roots: Vec<f32> = roots(positions).collect();
        x.weigh(&self.pivots[0], &roots, &mut self.x);
        y.weigh(&self.pivots[1], &roots, &mut self.y);
        add_products(&mut self.xx, &x, &x, true);
        add_products(&mut self.xy, &x, &y, false);
        self.count += roots.iter().map(|root| f64::from(*root).powi(2)).sum::<f64>();
    }

    /// Adds sums around the same pivots.
    pub fn join(&mut self, other: &Self) {
        self.count += other.count;
        let add = |to: &mut [f64], from: &[f64]| to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        add(&mut self.x, &other.x);
        add(&mut self.y, &other.y);
        add(&mut self.xx, &other.xx);
        add(&mut self.xy, &other.xy);
    }

    /// Appends all that is added up; of the symmetric product the triangle that is complete.
    pub fn pack(&self, into: &mut Vec<f64>) {
        into.push(self.count);
        into.extend(self.x.iter().chain(&self.y));
        let triangle = self.xx.chunks(self.x.len().max(1)).enumerate();
        triangle.for_each(|(column, values)| into.extend(&values[column..]));
        into.extend(&self.xy);
    }

    /// Takes all of it from the head of some values; gives the rest of these.
    pub fn unpack<'a>(&mut self, mut values: &'a [f64]) -> &'a [f64] {
        let mut take = |into: &mut [f64]| {
            let (mine, rest) = values.split_at(into.len());
            into.copy_from_slice(mine);
            values = rest;
        };
        take(std::slice::from_mut(&mut self.count));
        take(&mut self.x);
        take(&mut self.y);
        let triangle = self.xx.chunks_mut(self.x.len().max(1)).enumerate();
        triangle.for_each(|(column, values)| take(&mut values[column..]));
        take(&mut self.xy);
        values
    }

    /// Means and covariances.
    pub fn centre(self) -> Centred {
        let (n, d) = (self.count.max(f64::MIN_POSITIVE), self.x.len());
        let mean = |sums: &[f64]| sums.iter().map(|v| v / n).collect::<Vec<_>>();
        let (x, y) = (mean(&self.x), mean(&self.y));
        let xx = Mat::from_fn(d, d, |i, j| self.xx[i.min(j) * d + i.max(j)] / n - x[i] * x[j]);
        let xy = Mat::from_fn(d, y.len(), |i, j| self.xy[j * d + i] / n - x[i] * y[j]);
        let back = |means: Vec<f64>, pivot: &[f32]| means.iter().zip(pivot).map(|(m, p)| m + f64::from(*p)).collect();
        Centred { x: back(x, &self.pivots[0]), y: back(y, &self.pivots[1]), xx, xy }
    }
}

/// Adds `a^T b` `[columns of a, columns of b]` to sums, column after column; of a symmetric product what is on the
/// diagonal and below.
fn add_products(sums: &mut [f64], a: &Samples, b: &Samples, symmetric: bool) {
    let (height, (rows, columns)) = (a.columns(), TILE);
    if height == 0 || a.rows == 0 {
        return;
    }
    sums.par_chunks_mut(height * columns).enumerate().for_each_init(Vec::new, |tile: &mut Vec<f32>, (number, sums)| {
        let (from, width) = (number * columns, sums.len() / height);
        for top in (if symmetric { from } else { 0 }..height).step_by(rows) {
            let rows = rows.min(height - top);
            tile.resize(rows * width, 0.0);
            for start in (0..a.rows).step_by(RUN) {
                let run = RUN.min(a.rows - start);
                let (left, right) =
                    (a.view().submatrix(start, top, run, rows), b.view().submatrix(start, from, run, width));
                let product = MatMut::from_column_major_slice_mut(tile, rows, width);
                matmul(product, Accum::Replace, left.transpose(), right, 1.0, Par::Seq);
                for (column, tile) in sums.chunks_mut(height).zip(tile.chunks(rows)) {
                    column[top..].iter_mut().zip(tile).for_each(|(sum, v)| *sum += f64::from(*v));
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of a column around a mean of its own, far from 0 for some.
    fn drawn(rows: usize, columns: usize, seed: u64) -> Samples {
        let value = |at: usize| {
            let bits = (at as u64 + 1).wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            (at / rows % 7) as f32 * 30.0 + bits as f32 / (1 << 24) as f32
        };
        Samples { rows, values: (0..rows * columns).map(value).collect() }
    }

    fn means(of: &Samples) -> Vec<f32> {
        let mean = |column: &[f32]| column.iter().map(|v| f64::from(*v)).sum::<f64>() / of.rows as f64;
        of.values.chunks(of.rows).map(|column| mean(column) as f32).collect()
    }

    #[test]
    fn covariances_are_those_of_f64_whatever_the_threads() {
        // More than a tile and a run in every direction, and less.
        for (rows, d, m) in [(1500, 300, 140), (700, 9, 1), (3, 2, 0)] {
            let (x, y) = (drawn(rows, d, 5), drawn(rows, m, 11));
            let position = |at: usize| Position { image: 0, y: 0, x: at, weight: 0.2 + (at * 13 % 17) as f64 / 8.0 };
            let positions: Vec<Position> = (0..rows).map(position).collect();
            let found = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut sums = Sums::around(means(&x), means(&y));
                    let half = rows / 2;
                    let part = |of: &Samples, range: Range<usize>| Samples {
                        rows: range.len(),
                        values: of.values.chunks(rows).flat_map(|c| c[range.clone()].to_vec()).collect(),
                    };
                    sums.add(part(&x, 0..half), part(&y, 0..half), &positions[..half]);
                    let mut other = Sums::around(means(&x), means(&y));
                    other.add(part(&x, half..rows), part(&y, half..rows), &positions[half..]);
                    sums.join(&other);
                    sums.centre()
                })
            };
            let (one, three) = (found(1), found(3));
            assert_eq!((&one.x, &one.y), (&three.x, &three.y));
            assert!(one.xx == three.xx && one.xy == three.xy);
            let n: f64 = positions.iter().map(|p| p.weight).sum();
            let column = |of: &Samples, c: usize| -> Vec<f64> {
                of.values[c * rows..(c + 1) * rows].iter().map(|v| f64::from(*v)).collect()
            };
            let mean = |c: &[f64]| c.iter().zip(&positions).map(|(v, p)| v * p.weight).sum::<f64>() / n;
            let covariance = |a: &[f64], b: &[f64]| {
                let (ma, mb) = (mean(a), mean(b));
                a.iter().zip(b).zip(&positions).map(|((x, y), p)| (x - ma) * (y - mb) * p.weight).sum::<f64>() / n
            };
            let deviation = |c: &[f64]| covariance(c, c).sqrt().max(1e-9);
            for (i, j) in (0..d).flat_map(|i| (0..d).step_by(1 + d / 40).map(move |j| (i, j))) {
                let (a, b) = (column(&x, i), column(&x, j));
                let off = (one.xx[(i, j)] - covariance(&a, &b)).abs();
                assert!(off <= 2e-6 * deviation(&a) * deviation(&b), "{i} {j}: off by {off}");
                assert!((one.x[i] - mean(&a)).abs() <= 1e-6 * deviation(&a), "{i}");
            }
            for (i, j) in (0..d).step_by(1 + d / 40).flat_map(|i| (0..m).map(move |j| (i, j))) {
                let (a, b) = (column(&x, i), column(&y, j));
                let off = (one.xy[(i, j)] - covariance(&a, &b)).abs();
                assert!(off <= 2e-6 * deviation(&a) * deviation(&b), "{i} {j}: off by {off}");
            }
        }
    }
}
