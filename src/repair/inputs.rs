//! The tensors that a layer reads, over the calibration images.

use crate::ranks::Share;

/// The tensors that a convolution reads: one `[C, height, width]` per image of this rank.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// One tensor per image.
    pub images: &'a [Vec<f32>],
    /// Which of the calibration images these are.
    pub share: &'a Share,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}
