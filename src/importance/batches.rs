//! Images on their way through the tensor backend.

use candle_core::{Device, Result, Tensor};

/// Images that go through a network in batches.
#[derive(Clone, Copy, Debug)]
pub struct Batches<'a> {
    /// Every image `[C, height, width]`, preprocessed.
    pub images: &'a [Vec<f32>],
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// Images that go through at once.
    pub batch: usize,
    /// Where they are computed.
    pub device: &'a Device,
}

impl<'a> Batches<'a> {
    /// The batches, each with the number of its first image.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &'a [Vec<f32>])> {
        let batch = self.batch.max(1);
        self.images.chunks(batch).enumerate().map(move |(number, part)| (number * batch, part))
    }

    /// A batch as a tensor `[N, channels, height, width]`.
    pub(super) fn tensor(&self, part: &[Vec<f32>], channels: usize) -> Result<Tensor> {
        Tensor::from_vec(part.concat(), (part.len(), channels, self.height, self.width), self.device)
    }
}
