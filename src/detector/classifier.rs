//! Classifies an image: its likeliest classes with their probabilities.

use super::DetectorError;
use crate::engine::{Engine, Options};
use crate::model::Model;
use crate::vision::{Image, Preprocess};

/// How many classes are named.
const TOP: usize = 5;

/// A compiled classifier for square input images.
pub struct Classifier {
    engine: Engine,
    side: usize,
    preprocess: Preprocess,
}

impl Classifier {
    /// Compiles a classifier for images of `side` x `side` pixels.
    ///
    /// # Errors
    /// If the model is no classifier at this size, or the engine refuses it.
    pub fn new(model: &Model, side: usize, options: &Options) -> Result<Self, DetectorError> {
        let none = DetectorError::NoClassifier { side };
        if model.graph.head.boxes().is_some() {
            return Err(none);
        }
        let preprocess = Preprocess::new(model)?;
        let engine = Engine::new(model, side, side, options)?;
        if engine.output_shape(0).area() != 1 {
            return Err(none);
        }
        Ok(Self { engine, side, preprocess })
    }

    /// The likeliest classes of an image and their probabilities, best first. The largest square in the image's middle
    /// is looked at.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn classify(&mut self, image: &Image) -> Result<Vec<(usize, f32)>, DetectorError> {
        self.preprocess.write(image, self.side, self.engine.input_mut());
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
