//! Outputs of some cells only, for a detection, which looks no further into cells without a likely class.

use super::{Engine, EngineError, Executor};

/// The cells that outputs have values of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cells<'a> {
    /// Their numbers, ascending; those of all levels are counted through, finest level first.
    pub numbers: &'a [u32],
    /// Values from a row of an output to the next, of which the first are those of the cells, in their order.
    pub columns: usize,
}

impl Engine {
    /// Lets later runs give only what a detection reads, where the device can choose: of the outputs that belong to cells
    /// those of cells with a class logit above `least`. `None`: all outputs again, as before the first call.
    ///
    /// A CUDA device chooses for detectors with non-maximum suppression, unless the options name further tensors; a few
    /// hundred cells at most, and of an image with more all outputs are given. [`Engine::cells_of`] says which it was.
    ///
    /// # Errors
    /// If a CUDA device fails.
    pub fn select_cells(&mut self, least: Option<f32>) -> Result<(), EngineError> {
        match &mut self.executor {
            Executor::Cpu(_) => Ok(()),
            Executor::Cuda(network) => network.select_cells(least),
        }
    }

    /// The cells that the last run gave outputs of for an image: each output that belongs to cells is then `[C, columns]`,
    /// the others are whole. `None`: all of them, `[C, h, w]`.
    ///
    /// # Panics
    /// If the batch has no such image.
    pub fn cells_of(&self, image: usize) -> Option<Cells<'_>> {
        match &self.executor {
            Executor::Cpu(_) => None,
            Executor::Cuda(network) => network.cells_of(image),
        }
    }
}
