//! The tensors that a layer reads, over the calibration images.

/// The tensors that a convolution reads: one `[C, height, width]` per image.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// One tensor per image.
    pub images: &'a [Vec<f32>],
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}
