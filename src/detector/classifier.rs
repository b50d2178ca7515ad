//! From a photo to the classes it may show.

use super::DetectorError;
use crate::engine::{Engine, Options};
use crate::model::{Model, Normalise};
use crate::vision::{Image, Letterbox};

/// How many classes are named.
const TOP: usize = 5;

/// A compiled classifier for square input images.
pub struct Classifier {
    engine: Engine,
    side: usize,
    normalise: Option<Normalise>,
}

impl Classifier {
    /// Compiles a classifier for images of `side` x `side` pixels.
    ///
    /// # Errors
    /// If the model is no classifier at this size, or the engine refuses it.
    pub fn new(model: &Model, side: usize, options: &Options) -> Result<Self, DetectorError> {
        let none = DetectorError::NoClassifier { side };
        if model.graph.head.boxes().is_some() || model.graph.input_channels() != 3 {
            return Err(none);
        }
        let engine = Engine::new(model, side, side, options)?;
        if engine.output_shape(0).area() != 1 {
            return Err(none);
        }
        Ok(Self { engine, side, normalise: model.info.normalise })
    }

    /// The likeliest classes of an image and their probabilities, best first. The largest square in the image's middle
    /// is looked at.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn classify(&mut self, image: &Image) -> Result<Vec<(usize, f32)>, DetectorError> {
        let square = image.centre_square();
        let input = self.engine.input_mut();
        Letterbox::new(square.width(), square.height(), self.side, self.side).forward(&square, input);
        if let Some(normalise) = self.normalise {
            normalise.apply(input);
        }
        self.engine.run_in_place()?;
        let logits = self.engine.output(0);
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|v| (v - top).exp()).sum();
        let mut all: Vec<(usize, f32)> = logits.iter().map(|v| (v - top).exp() / total).enumerate().collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(TOP);
        Ok(all)
    }
}
