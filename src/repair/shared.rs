//! Sums for regressions over the images of all ranks, in an order that does not depend on their number.
//!
//! The images have [`PARTS`](crate::ranks::PARTS) parts, as a batch of a training has: no sum crosses a part but as a tree of
//! pairs, whose upper levels are sums over ranks. One, two and four ranks give the same bits.

use super::error::PassError;
use super::positions::Position;
use super::samples::{Samples, Sums, few};
use crate::ranks::{Share, tree_of};
use std::ops::Range;

/// Means of the inputs and of the outputs of a regression, about.
pub(super) type Pivots = [Vec<f32>; 2];

/// Where the samples of independent regressions of one size come from, which are at the same positions.
pub(super) trait Source {
    /// Inputs and outputs of every regression at a few positions in images of this rank.
    fn samples(&self, positions: &[Position]) -> Result<Vec<[Samples; 2]>, PassError>;

    /// The sums of every regression around its pivots, at positions in images of this rank.
    fn sums(&self, pivots: &[Pivots], positions: &[Position]) -> Result<Vec<Sums>, PassError>;
}

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
    /// Their samples.
    pub source: &'a dyn Source,
}

impl Regressions<'_> {
    /// The sums of every regression, apart for each of so many disjoint sets of images. Pairs of images alternate between
    /// the sets: an image and its mirror image are a pair, and never in two.
    ///
    /// # Errors
    /// If a layer cannot be sampled, or a rank cannot be reached.
    pub fn sums(&self, sets: usize) -> Result<Vec<Vec<Sums>>, PassError> {
        let pivots = self.pivots()?;
        let own = (0..sets).map(|set| self.own(&pivots, (set, sets)));
        let mut sums = own.collect::<Result<Vec<Vec<Sums>>, PassError>>()?;
        if self.share.ranks().size() > 1 {
            let mut values = Vec::new();
            sums.iter().flatten().for_each(|sums| sums.pack(&mut values));
            self.share.ranks().sum_f64(&mut values)?;
            let mut rest = &values[..];
            sums.iter_mut().flatten().for_each(|sums| rest = sums.unpack(rest));
        }
        Ok(sums)
    }

    /// The sums of every regression over one of several sets of this rank's images.
    fn own(&self, pivots: &[Pivots], (set, sets): (usize, usize)) -> Result<Vec<Sums>, PassError> {
        let parts = self.share.parts();
        let first = |part: usize| self.share.range().start + parts[..part].iter().sum::<usize>();
        let of_part = |part: usize| {
            let here = within(self.positions, first(part)..first(part + 1));
            let mine: Vec<Position> = here.iter().filter(|p| p.image / 2 % sets == set).copied().collect();
            self.source.sums(pivots, &mine)
        };
        let join = |sums: &mut Result<Vec<Sums>, PassError>, others: Result<Vec<Sums>, PassError>| match others {
            Ok(others) => sums.iter_mut().flatten().zip(&others).for_each(|(sums, others)| sums.join(others)),
            Err(problem) => *sums = Err(problem),
        };
        tree_of(0..parts.len(), &of_part, &join)
    }

    /// The means of inputs and outputs of every regression at a few positions all over the images: good pivots.
    fn pivots(&self) -> Result<Vec<Pivots>, PassError> {
        let few = few(self.positions);
        let own = within(&few, self.share.range());
        let samples = if own.is_empty() { Vec::new() } else { self.source.samples(own)? };
        let values: Vec<f32> = samples.into_iter().flatten().flat_map(Samples::into_values).collect();
        let all = self.share.ranks().gather(bytemuck::cast_slice(&values))?;
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
