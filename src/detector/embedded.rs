//! A predictor from a model that a program carries, and the module that `secateurs::build` generates around one.

use super::{DetectorError, Predictor, check_size};
use crate::engine::{Device, HAS_CUDA, Options};
use crate::kernels::available;
use crate::model;
use crate::size::ImageSize;
use std::path::Path;

impl Predictor {
    /// A predictor for images of a size, `[height, width]`, from the bytes of a model file such as `include_bytes!` gives them.
    ///
    /// # Errors
    /// If the bytes are no model file, or the network cannot take images of that size.
    pub fn from_bytes(bytes: &[u8], imgsz: impl Into<ImageSize>, options: &Options) -> Result<Self, DetectorError> {
        let model = model::from_bytes(Path::new("the embedded model"), bytes)?;
        Self::new(&model, check_size(imgsz.into(), &model.graph)?, options)
    }

    /// As [`Predictor::from_bytes`], for up to `batch` frames at a time, run as the inference binary of a bundle runs it: on the GPU where this program has
    /// code for it and finds one, else on that many threads, or as many as there are CPUs if those are fewer.
    ///
    /// # Errors
    /// As [`Predictor::from_bytes`].
    pub fn embedded(
        bytes: &[u8],
        imgsz: impl Into<ImageSize>,
        batch: usize,
        threads: usize,
    ) -> Result<Self, DetectorError> {
        let device = if HAS_CUDA && Device::Cuda(0).name().is_ok() { Device::Cuda(0) } else { Device::Cpu };
        let options = Options { threads: threads.min(available()), device, batch, ..Options::default() };
        Self::from_bytes(bytes, imgsz, &options)
    }
}

/// Includes the module that `secateurs::build::embed` generated for a target: its classes, figures and predictor.
///
/// ```ignore
/// mod model {
///     secateurs::model!("jetson");
/// }
/// ```
#[macro_export]
macro_rules! model {
    ($target:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $target, ".rs"));
    };
}
