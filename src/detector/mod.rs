//! Predicts what is in an image: letterbox, network, decoding and non-maximum suppression in one place.
//!
//! A [`Detector`] finds boxes, and with them masks, keypoints or rotations where the network gives them; a
//! [`Classifier`] names the whole image. [`Predictor`] is the one of the two that suits a model.

mod classifier;
mod mask;
#[cfg(feature = "tools")]
mod patterns;
#[cfg(not(feature = "tools"))]
#[path = "no_patterns.rs"]
mod patterns;
pub mod pictures;
mod predictions;

pub use classifier::Classifier;
pub use mask::Mask;
pub use predictions::{Labelled, NamedClass, Predictions};

use crate::engine::{Engine, EngineError, Options};
use crate::graph::Head;
use crate::model::Model;
use crate::vision::{
    self, Detection, Extra, Image, ImageError, Letterbox, NmsOptions, Preprocess, PreprocessError, Rotated,
};
use std::path::Path;
use thiserror::Error;

/// An image size that a network cannot take.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("imgsz {side}: expected a multiple of {stride}, for example {}", self.near())]
pub struct SideError {
    /// What was asked for, pixels.
    pub side: usize,
    /// What it must be a multiple of.
    pub stride: usize,
}

/// The largest side of an input image, pixels.
pub const MAX_SIDE: usize = 4096;

impl SideError {
    /// The next side that is allowed.
    fn near(&self) -> usize {
        let most = (MAX_SIDE / self.stride * self.stride).max(self.stride);
        self.side.clamp(1, most).next_multiple_of(self.stride)
    }
}

/// Refuses a side that a network with this stride cannot take.
///
/// # Errors
/// If it is 0, no multiple of the stride, or larger than [`MAX_SIDE`].
pub fn check_side(side: usize, stride: usize) -> Result<usize, SideError> {
    let stride = stride.max(1);
    if side > 0 && side <= MAX_SIDE && side.is_multiple_of(stride) { Ok(side) } else { Err(SideError { side, stride }) }
}

/// The side of the square input image: the one that was asked for, else the model's own, else 640 pixels.
///
/// # Errors
/// As [`check_side`].
pub fn input_side(model: &Model, asked: Option<usize>) -> Result<usize, SideError> {
    check_side(asked.or(model.info.imgsz).unwrap_or(640), model.graph.stride())
}

/// A detector that cannot be built or run.
#[derive(Debug, Error)]
pub enum DetectorError {
    /// The network is a classifier.
    #[error("the model is a classifier, expected a detector")]
    NoDetector,
    /// The network is no classifier of single images of this size.
    #[error("at {side} px the model gives no single answer for an image; expected a classifier at its own size")]
    NoClassifier {
        /// Side of the input image, pixels.
        side: usize,
    },
    /// No image fills its input.
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
    /// The engine refused the network or the image size.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A compiled detector for square input images.
pub struct Detector {
    engine: Engine,
    head: Head,
    outputs: usize,
    side: usize,
    preprocess: Preprocess,
    /// Thresholds on scores and overlaps.
    pub options: NmsOptions,
}

impl Detector {
    /// Compiles a detector for images letterboxed to `side` x `side` pixels.
    ///
    /// # Errors
    /// If the model is no detector, or the engine refuses it or the size.
    pub fn new(model: &Model, side: usize, options: &Options) -> Result<Self, DetectorError> {
        if model.graph.head.boxes().is_none() {
            return Err(DetectorError::NoDetector);
        }
        let preprocess = Preprocess::new(model)?;
        let engine = Engine::new(model, side, side, options)?;
        let (head, outputs) = (model.graph.head.clone(), model.graph.outputs.len());
        Ok(Self { engine, head, outputs, side, preprocess, options: NmsOptions::default() })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Everything in an image, in its own pixels, best first.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn detect(&mut self, image: &Image) -> Result<Vec<Object>, DetectorError> {
        let letterbox = self.prepare(image);
        self.run()?;
        Ok(self.finish(&letterbox))
    }

    /// First phase of [`Detector::detect`]: writes the letterboxed image into the engine's input.
    pub fn prepare(&mut self, image: &Image) -> Letterbox {
        self.preprocess.write(image, self.side, self.engine.input_mut())
    }

    /// Second phase: runs the network.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn run(&mut self) -> Result<(), DetectorError> {
        Ok(self.engine.run_in_place()?)
    }

    /// Third phase: decodes the outputs, and places everything in the image.
    pub fn finish(&self, letterbox: &Letterbox) -> Vec<Object> {
        let outputs: Vec<&[f32]> = (0..self.outputs).map(|i| self.engine.output(i)).collect();
        let found = vision::find(&self.head, (self.side, self.side), &outputs, &self.options);
        let place = |(detection, extra): (Detection, Extra)| {
            let bbox = letterbox.to_source(detection.bbox);
            let detail = match extra {
                Extra::None => Detail::Box,
                Extra::Keypoints(points, _) => Detail::Keypoints(
                    points
                        .into_iter()
                        .map(|[x, y, seen]| {
                            let [x, y] = letterbox.point_to_source([x, y]);
                            [x, y, seen]
                        })
                        .collect(),
                ),
                Extra::Rotated(turned) => Detail::Rotated(letterbox.rotated_to_source(turned)),
                Extra::Coefficients(coefficients) => {
                    let shape = self.engine.output_shape(self.outputs - 1);
                    let prototypes = (self.engine.output(self.outputs - 1), [shape.h, shape.w]);
                    Detail::Mask(Mask::new(&coefficients, prototypes, self.side, letterbox, bbox))
                }
            };
            Object { detection: Detection { bbox, ..detection }, detail }
        };
        // An object without a single pixel is none.
        let there = |object: &Object| !matches!(&object.detail, Detail::Mask(mask) if mask.area() == 0);
        found.into_iter().map(place).filter(there).collect()
    }
}

/// An object in an image, in the image's own pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Class, score and upright box.
    pub detection: Detection,
    /// What the task adds.
    pub detail: Detail,
}

/// What a task adds to a box, in pixels of the image.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    /// Nothing.
    Box,
    /// Which pixels belong to it.
    Mask(Mask),
    /// x, y and the probability of being visible of every keypoint.
    Keypoints(Vec<[f32; 3]>),
    /// The box as it is turned.
    Rotated(Rotated),
}

/// A network that says what is in an image, in whichever way it can.
///
/// ```
/// use secateurs::detector::Predictor;
/// use secateurs::engine::Options;
/// use secateurs::vision::Image;
/// use std::path::Path;
/// # let demo = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/demo.safetensors"));
/// # let model = secateurs::model::from_bytes(std::path::Path::new("demo.safetensors"), demo)?;
///
/// let mut predictor = Predictor::new(&model, 160, &Options::default())?;
/// let grey = Image::new(200, 100, vec![114; 3 * 200 * 100]);
/// let predictions = predictor.find(Path::new("grey.png"), &grey, &model)?;
/// assert_eq!(predictions.detections.map(|found| found.len()), Some(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub enum Predictor {
    /// Objects with places.
    Detector(Detector),
    /// The whole image.
    Classifier(Classifier),
}

impl Predictor {
    /// Compiles a model for square input images of `side` pixels.
    ///
    /// # Errors
    /// If the engine refuses the model or the size.
    pub fn new(model: &Model, side: usize, options: &Options) -> Result<Self, DetectorError> {
        match model.graph.head {
            Head::Classify { .. } => Ok(Self::Classifier(Classifier::new(model, side, options)?)),
            _ => Ok(Self::Detector(Detector::new(model, side, options)?)),
        }
    }

    /// Sets the least score of a detection, and the overlap above which two are one object.
    pub fn set_thresholds(&mut self, score: f32, iou: f32) {
        if let Self::Detector(detector) = self {
            (detector.options.score, detector.options.iou) = (score, iou);
        }
    }

    /// What is in an image; `path` names it.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn find(&mut self, path: &Path, image: &Image, model: &Model) -> Result<Predictions, DetectorError> {
        Ok(match self {
            Self::Detector(detector) => Predictions::objects(path, &detector.detect(image)?, &model.info),
            Self::Classifier(classifier) => Predictions::classes(path, &classifier.classify(image)?, &model.info),
        })
    }
}
