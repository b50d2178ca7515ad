//! How a batch of images is split over ranks, so that sums do not depend on how many there are.
//!
//! A batch has [`PARTS`] parts, whatever the number of ranks. What a rank adds up over images of a part it adds in
//! their order; parts are added as a tree of pairs ([`tree`]), whose upper levels are those of [`Ranks::sum_f32`]: one, two
//! and four ranks give the same bits. With another number of ranks a rank's images are one part.

use super::{RankError, Ranks};
use std::ops::Range;

/// Parts of a batch.
pub const PARTS: usize = 4;

/// The images of a batch that are a rank's.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    ranks: Ranks,
    images: usize,
}

impl Share {
    /// Of a batch of `images`. Ranks have as many images as another, or one more.
    pub fn new(ranks: &Ranks, images: usize) -> Self {
        Self { ranks: ranks.clone(), images }
    }

    /// Images of the whole batch.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The ranks.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Which images of the batch are this rank's.
    pub fn range(&self) -> Range<usize> {
        self.of(self.ranks.rank())
    }

    fn of(&self, rank: usize) -> Range<usize> {
        let bound = |rank: usize| rank * self.images / self.ranks.size();
        bound(rank)..bound(rank + 1)
    }

    /// Number of images of each part that is this rank's, in their order; parts may be empty.
    pub fn parts(&self) -> Vec<usize> {
        let (rank, size) = (self.ranks.rank(), self.ranks.size());
        if !PARTS.is_multiple_of(size) {
            return vec![self.range().len()];
        }
        let (each, bound) = (PARTS / size, |part: usize| part * self.images / PARTS);
        (rank * each..(rank + 1) * each).map(|part| bound(part + 1) - bound(part)).collect()
    }

    /// Values of every image of the batch in their order, of those of this rank's images, as many for each image.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    pub fn gather(&self, own: Vec<f64>) -> Result<Vec<f64>, RankError> {
        if self.ranks.size() == 1 {
            return Ok(own);
        }
        let each = own.len() / self.range().len().max(1);
        let lens: Vec<usize> = (0..self.ranks.size()).map(|rank| each * self.of(rank).len()).collect();
        self.ranks.gather_f64(&own, &lens)
    }
}

/// As [`tree`], of parts that are made one after the other: at a time few of them are there.
pub fn tree_of<T>(parts: Range<usize>, make: &dyn Fn(usize) -> T, join: &dyn Fn(&mut T, T)) -> T {
    if parts.len() < 2 {
        return make(parts.start);
    }
    let middle = parts.start + parts.len().next_power_of_two() / 2;
    let mut sum = tree_of(parts.start..middle, make, join);
    join(&mut sum, tree_of(middle..parts.end, make, join));
    sum
}

/// The sum of vectors of one length, added in pairs, the pairs' sums in pairs, and so on. Empty if there are none.
pub fn tree(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    while parts.len() > 1 {
        let mut sums = Vec::with_capacity(parts.len().div_ceil(2));
        let mut rest = parts.into_iter();
        while let Some(mut sum) = rest.next() {
            let other = rest.next().unwrap_or_default();
            sum.iter_mut().zip(&other).for_each(|(sum, other)| *sum += other);
            sums.push(sum);
        }
        parts = sums;
    }
    parts.pop().unwrap_or_default()
}
