//! Sums for regressions over the images of all ranks, in an order that does not depend on their number.
//!
//! The images have [`PARTS`](crate::ranks::PARTS) parts, as a batch of a training has: no sum crosses a part but as a tree of
//! pairs, whose upper levels are sums over ranks. One, two and four ranks give the same bits.

use super::positions::Position;
use super::samples::{Samples, Sums, few};
use crate::ranks::{RankError, Share, tree_of};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of samples that are multiplied at once.
const CHUNK: usize = 1024;

/// Independent regressions of one size at the same positions.
pub(super) struct Regressions<'a> {
    /// Which images are this rank's.
    pub share: &'a Share,
    /// Positions in all images, in the order of these.
    pub positions: &'a [Position],
    /// How many regressions.
    pub lanes: usize,
    /// Inputs and outputs of each.
    pub widths: [usize; 2],
    /// Inputs and outputs of a regression at some positions in images of this rank.
    pub samples: &'a (dyn Fn(usize, &[Position]) -> [Samples; 2] + Sync),
}

impl Regressions<'_> {
    /// The sums of every regression, apart for each of `SETS` disjoint sets of images. Pairs of images alternate between
    /// the sets: an image and its mirror image are a pair, and never in two.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn sums<const SETS: usize>(&self) -> Result<Vec<[Sums; SETS]>, RankError> {
        let pivots = self.pivots()?;
        let of_lane = |lane: usize| std::array::from_fn(|set| self.own(lane, &pivots[lane], (set, SETS)));
        let mut sums: Vec<[Sums; SETS]> = (0..self.lanes).into_par_iter().map(of_lane).collect();
        if self.share.ranks().size() > 1 {
            let mut values = Vec::new();
            sums.iter().flatten().for_each(|sums| sums.pack(&mut values));
            self.share.ranks().sum_f64(&mut values)?;
            let mut rest = &values[..];
            sums.iter_mut().flatten().for_each(|sums| rest = sums.unpack(rest));
        }
        Ok(sums)
    }

    /// The sums of a regression over one of several sets of this rank's images.
    fn own(&self, lane: usize, pivots: &[Vec<f32>; 2], (set, sets): (usize, usize)) -> Sums {
        let parts = self.share.parts();
        let first = |part: usize| self.share.range().start + parts[..part].iter().sum::<usize>();
        let of_part = |part: usize| {
            let [x, y] = pivots.clone();
            let mut sums = Sums::around(x, y);
            let here = within(self.positions, first(part)..first(part + 1));
            let mine: Vec<Position> = here.iter().filter(|p| p.image / 2 % sets == set).copied().collect();
            for chunk in mine.chunks(CHUNK) {
                let [x, y] = (self.samples)(lane, chunk);
                sums.add(x, y, chunk);
            }
            sums
        };
        tree_of(0..parts.len(), &of_part, &|sums, other| sums.join(&other))
    }

    /// The means of inputs and outputs of every regression at a few positions all over the images: good pivots.
    fn pivots(&self) -> Result<Vec<[Vec<f32>; 2]>, RankError> {
        let few = few(self.positions);
        let own = within(&few, self.share.range());
        let column_after_column = |lane: usize| match own.len() {
            0 => Vec::new(),
            _ => (self.samples)(lane, own).map(Samples::into_values).concat(),
        };
        let values: Vec<Vec<f32>> = (0..self.lanes).into_par_iter().map(column_after_column).collect();
        let all = self.share.ranks().gather(bytemuck::cast_slice(&values.concat()))?;
        let all: Vec<Vec<f32>> = all.iter().map(|bytes| bytemuck::pod_collect_to_vec(bytes)).collect();
        let [inputs, outputs] = self.widths;
        let columns = (self.lanes * (inputs + outputs)).max(1);
        let mean = |column: usize| {
            let of_rank = |values: &Vec<f32>| {
                let rows = values.len() / columns;
                column * rows..(column + 1) * rows
            };
            let samples = all.iter().flat_map(|values| &values[of_rank(values)]);
            (samples.map(|v| f64::from(*v)).sum::<f64>() / few.len().max(1) as f64) as f32
        };
        let means = |from: usize, count: usize| (from..from + count).map(mean).collect::<Vec<f32>>();
        let of_lane = |lane: usize| {
            let from = lane * (inputs + outputs);
            [means(from, inputs), means(from + inputs, outputs)]
        };
        Ok((0..self.lanes).map(of_lane).collect())
    }
}

/// Those of some positions that lie in a range of images.
fn within(positions: &[Position], images: Range<usize>) -> &[Position] {
    let bound = |image: usize| positions.partition_point(|p| p.image < image);
    &positions[bound(images.start)..bound(images.end)]
}
