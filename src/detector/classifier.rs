//! Classifies an image: its likeliest classes with their probabilities.

use super::{DetectorError, SizeError, check_batch, enter};
use crate::engine::{Engine, Options};
use crate::model::Model;
use crate::size::ImageSize;
use crate::vision::{Frame, Image, Preprocess, PreprocessBuffers};

/// How many classes are named.
const TOP: usize = 5;

/// Number of a class, and its probability.
pub type Scored = (usize, f32);

/// A compiled classifier for square input images.
pub struct Classifier {
    engine: Engine,
    size: ImageSize,
    preprocess: Preprocess,
    /// The frame in RGB.
    frame: Image,
    buffers: PreprocessBuffers,
}

impl Classifier {
    /// Compiles a classifier for square images.
    ///
    /// # Errors
    /// If the model is no classifier at this size, the size is no square, or the engine refuses it.
    pub fn new(model: &Model, size: impl Into<ImageSize>, options: &Options) -> Result<Self, DetectorError> {
        let size = size.into();
        let none = DetectorError::NoClassifier { size };
        if model.graph.head.boxes().is_some() {
            return Err(none);
        }
        if !size.is_square() {
            return Err(SizeError::Square { size }.into());
        }
        let preprocess = Preprocess::new(model)?;
        let engine = Engine::new(model, size.height, size.width, options)?;
        if engine.output_shape(0).area() != 1 {
            return Err(none);
        }
        Ok(Self { engine, size, preprocess, frame: Image::default(), buffers: PreprocessBuffers::default() })
    }

    /// The likeliest classes of an image and their probabilities, best first. The square in the image's middle is looked
    /// at.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn classify(&mut self, image: &Image) -> Result<Vec<Scored>, DetectorError> {
        enter(&self.preprocess, (image, self.size), (&mut self.engine, 0), &mut self.buffers);
        self.engine.run_images(1)?;
        let mut classes = Vec::new();
        self.finish(0, &mut classes);
        Ok(classes)
    }

    /// As [`Classifier::classify`] of a camera's frame, in place of what `classes` holds. The second frame of a size
    /// and every later one allocate nothing, where `classes` is given again.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn classify_frame(&mut self, frame: &Frame, classes: &mut Vec<Scored>) -> Result<(), DetectorError> {
        self.prepare_frame(0, frame);
        self.engine.run_images(1)?;
        self.finish(0, classes);
        Ok(())
    }

    /// As [`Classifier::classify_frame`], of up to as many frames as [`Options::batch`] says: `classes` gets one list for
    /// each, in their order.
    ///
    /// # Errors
    /// If there are more frames, or the engine fails.
    pub fn classify_frames(&mut self, frames: &[Frame], classes: &mut Vec<Vec<Scored>>) -> Result<(), DetectorError> {
        check_batch(frames.len(), self.engine.batch())?;
        frames.iter().enumerate().for_each(|(slot, frame)| self.prepare_frame(slot, frame));
        self.engine.run_images(frames.len())?;
        classes.resize_with(frames.len(), Vec::new);
        classes.iter_mut().enumerate().for_each(|(slot, classes)| self.finish(slot, classes));
        Ok(())
    }

    fn prepare_frame(&mut self, slot: usize, frame: &Frame) {
        frame.write_to(&mut self.frame);
        enter(&self.preprocess, (&self.frame, self.size), (&mut self.engine, slot), &mut self.buffers);
    }

    /// The likeliest classes of image `slot` of the batch.
    fn finish(&mut self, slot: usize, classes: &mut Vec<Scored>) {
        let logits = self.engine.output_of(slot, 0);
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|v| (v - top).exp()).sum();
        classes.clear();
        classes.extend(logits.iter().map(|v| (v - top).exp() / total).enumerate());
        // Of equal ones the first comes first.
        classes.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        classes.truncate(TOP);
    }
}
