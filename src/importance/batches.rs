//! Images that go through a network in batches, which ranks share.

use crate::ranks::{Ranks, Share};
use bytemuck::Pod;
use candle_core::{Device, Error, Result, Tensor};

/// Images that go through a network in batches, which ranks share.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    /// Every image `[C, height, width]`, preprocessed.
    pub images: &'a [Vec<f32>],
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// Images that go through at once.
    pub batch: usize,
    /// The ranks: each runs its batches, and all have the result.
    pub ranks: Ranks,
}

impl<'a> Batches<'a> {
    /// This rank's batches, each with the number of its first image.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &'a [Vec<f32>])> {
        let (batch, images) = (self.batch.max(1), self.images);
        let mine = Share::new(&self.ranks, images.len().div_ceil(batch)).range();
        mine.map(move |number| number * batch)
            .map(move |first| (first, &images[first..images.len().min(first + batch)]))
    }

    /// How many images this rank's batches have.
    pub(super) fn own(&self) -> usize {
        self.iter().map(|(_, part)| part.len()).sum()
    }

    /// What all ranks have found in their batches, in the order of these.
    pub(super) fn gather<T: Pod>(&self, own: Vec<T>) -> Result<Vec<T>> {
        if self.ranks.size() == 1 {
            return Ok(own);
        }
        let all = self.ranks.gather(bytemuck::cast_slice(&own)).map_err(Error::wrap)?;
        Ok(all.iter().flat_map(|bytes| bytemuck::pod_collect_to_vec::<u8, T>(bytes)).collect())
    }

    /// A batch as a tensor `[N, channels, height, width]`.
    pub(super) fn tensor(&self, part: &[Vec<f32>], channels: usize) -> Result<Tensor> {
        Tensor::from_vec(part.concat(), (part.len(), channels, self.height, self.width), &Device::Cpu)
    }
}
