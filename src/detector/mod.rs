//! Predicts what is in an image: letterbox, network, decoding and non-maximum suppression in one place.
//!
//! A [`Detector`] finds boxes, and with them masks, keypoints or rotations where the network gives them; a
//! [`Classifier`] names the whole image. [`Predictor`] is the one of the two that suits a model.
//!
//! A program that looks through a camera makes one predictor, and gives it frame after frame:
//!
//! ```
//! use secateurs::detector::Predictor;
//! use secateurs::engine::Options;
//! use secateurs::vision::{Frame, PixelFormat};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let model_file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/demo.safetensors"));
//! // let model_file = include_bytes!("model.safetensors");
//! let mut predictor = Predictor::from_bytes(model_file, [160, 160], &Options::default())?;
//! let (width, height) = (320, 240);
//! let mut nv12 = vec![128; width * height * 3 / 2]; // the camera's buffer
//! let mut found = Vec::new();
//! for _ in 0..3 {
//!     nv12.fill(100); // the next frame
//!     let frame = Frame::new(PixelFormat::Nv12, width, height, width, &nv12)?;
//!     predictor.detect(&frame, &mut found)?; // allocates for the first frame only
//!     for object in &found {
//!         println!("class {}, {:?}", object.detection.class, object.detection.bbox);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod classifier;
mod embedded;
mod mask;
#[cfg(feature = "tools")]
mod patterns;
#[cfg(not(feature = "tools"))]
#[path = "no_patterns.rs"]
mod patterns;
pub mod pictures;
mod predictions;

pub use classifier::{Classifier, Scored};
pub use mask::Mask;
pub use predictions::{Labelled, NamedClass, Predictions};

use crate::engine::{Engine, EngineError, Options};
use crate::graph::{Graph, Head};
use crate::model::{FileError, Model};
use crate::size::{ImageSize, MAX_SIDE};
use crate::vision::{
    self, Detection, Extra, FindBuffers, Frame, Image, ImageError, Letterbox, NmsOptions, Outputs, Preprocess,
    PreprocessBuffers, PreprocessError, Rotated,
};
use std::path::Path;
use thiserror::Error;

/// An image size that a network cannot take.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SizeError {
    /// Sides that its cells do not fill.
    #[error(
        "imgsz {size}: expected {} of {stride}, for example {}",
        if .size.is_square() { "a multiple" } else { "multiples" },
        near(*.size, *.stride)
    )]
    Stride {
        /// What was asked for.
        size: ImageSize,
        /// What both sides must be multiples of.
        stride: usize,
    },
    /// A classifier, which sees the square in the middle of an image, is to see a rectangle.
    #[error("imgsz {size}: a classifier sees a square: expected one side, for example {}", .size.height.min(.size.width))]
    Square {
        /// What was asked for.
        size: ImageSize,
    },
}

/// The next size that is allowed.
fn near(size: ImageSize, stride: usize) -> ImageSize {
    let most = (MAX_SIDE / stride * stride).max(stride);
    size.map(|side| side.clamp(1, most).next_multiple_of(stride))
}

/// Refuses a size that a network cannot take.
///
/// # Errors
/// If a side is 0, no multiple of the network's stride, or larger than [`MAX_SIDE`]; if a classifier is to see what is no
/// square.
pub fn check_size(size: ImageSize, graph: &Graph) -> Result<ImageSize, SizeError> {
    let stride = graph.stride().max(1);
    if !size.all(|side| (1..=MAX_SIDE).contains(&side) && side.is_multiple_of(stride)) {
        return Err(SizeError::Stride { size, stride });
    }
    match graph.head {
        Head::Classify { .. } if !size.is_square() => Err(SizeError::Square { size }),
        _ => Ok(size),
    }
}

/// The size of the input image: the one that was asked for, else the model's own, else 640 pixels square.
///
/// # Errors
/// As [`check_size`].
pub fn input_size(model: &Model, asked: Option<ImageSize>) -> Result<ImageSize, SizeError> {
    check_size(asked.or(model.info.imgsz).unwrap_or(ImageSize::square(640)), &model.graph)
}

/// A detector that cannot be built or run.
#[derive(Debug, Error)]
pub enum DetectorError {
    /// The network is a classifier.
    #[error("the model is a classifier, expected a detector")]
    NoDetector,
    /// The network is no classifier of single images of this size.
    #[error("at {size} px the model gives no single answer for an image; expected a classifier at its own size")]
    NoClassifier {
        /// Size of the input image.
        size: ImageSize,
    },
    /// The model file cannot be used.
    #[error(transparent)]
    Model(#[from] FileError),
    /// The network cannot take images of that size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// More frames than a batch has images.
    #[error("{frames} frames at a time, expected up to {batch}, the batch that the network was made ready for")]
    Batch {
        /// Frames given.
        frames: usize,
        /// Images of a batch.
        batch: usize,
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

/// Refuses more frames than a batch has images.
fn check_batch(frames: usize, batch: usize) -> Result<(), DetectorError> {
    if frames <= batch { Ok(()) } else { Err(DetectorError::Batch { frames, batch }) }
}

/// Writes an image into an engine as image `slot` of its batch: as bytes where the engine takes them and they are exact.
fn enter(
    preprocess: &Preprocess,
    (image, size): (&Image, ImageSize),
    (engine, slot): (&mut Engine, usize),
    buffers: &mut PreprocessBuffers,
) -> Letterbox {
    if preprocess.is_bytes()
        && let Some(bytes) = engine.bytes_mut(slot)
    {
        return preprocess.bytes_with(image, size, bytes, buffers);
    }
    preprocess.write_with(image, size, engine.image_mut(slot), buffers)
}

/// A compiled detector for input images of one size.
pub struct Detector {
    engine: Engine,
    head: Head,
    outputs: usize,
    size: ImageSize,
    preprocess: Preprocess,
    buffers: Buffers,
    /// Thresholds on scores and overlaps.
    pub options: NmsOptions,
}

/// What a detector uses again from frame to frame.
#[derive(Default)]
struct Buffers {
    /// The frame in RGB.
    image: Image,
    preprocess: PreprocessBuffers,
    /// Where the frames of a batch lie in the input.
    letterboxes: Vec<Letterbox>,
    find: FindBuffers,
    /// Objects of earlier frames, whose masks and keypoints have memory; the next one to be used comes last.
    spare: Vec<Object>,
    /// The weighted sum of mask prototypes.
    sum: Vec<f32>,
}

/// More than the outputs of any head: at most three for each of eight levels, and the prototypes.
const MAX_OUTPUTS: usize = 32;

impl Detector {
    /// Compiles a detector for images letterboxed to a size.
    ///
    /// # Errors
    /// If the model is no detector, or the engine refuses it or the size.
    pub fn new(model: &Model, size: impl Into<ImageSize>, options: &Options) -> Result<Self, DetectorError> {
        let size = size.into();
        if model.graph.head.boxes().is_none() {
            return Err(DetectorError::NoDetector);
        }
        let preprocess = Preprocess::new(model)?;
        let engine = Engine::new(model, size.height, size.width, options)?;
        let (head, outputs) = (model.graph.head.clone(), model.graph.outputs.len());
        let (buffers, options) = (Buffers::default(), NmsOptions::default());
        Ok(Self { engine, head, outputs, size, preprocess, buffers, options })
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
        let letterbox = self.prepare(0, image);
        self.run(1)?;
        Ok(self.finish(0, &letterbox))
    }

    /// First phase of [`Detector::detect`]: writes the letterboxed image into the engine's input, as image `slot` of the
    /// batch.
    ///
    /// # Panics
    /// If the batch has no such image.
    pub fn prepare(&mut self, slot: usize, image: &Image) -> Letterbox {
        enter(&self.preprocess, (image, self.size), (&mut self.engine, slot), &mut self.buffers.preprocess)
    }

    /// The objects of a camera's frame, in its own pixels, best first, in place of what `found` holds. The second frame
    /// of a size and every later one allocate nothing, where `found` is given again; masks and keypoints allocate until
    /// as many objects, as large, have been seen.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn detect_frame(&mut self, frame: &Frame, found: &mut Vec<Object>) -> Result<(), DetectorError> {
        let letterbox = self.prepare_frame(0, frame);
        self.run(1)?;
        self.finish_frame(0, &letterbox, found);
        Ok(())
    }

    /// As [`Detector::detect_frame`], of up to as many frames as [`Options::batch`] says, those of several cameras: `found`
    /// gets one list for each, in their order.
    ///
    /// # Errors
    /// If there are more frames, or the engine fails.
    pub fn detect_frames(&mut self, frames: &[Frame], found: &mut Vec<Vec<Object>>) -> Result<(), DetectorError> {
        check_batch(frames.len(), self.engine.batch())?;
        let mut letterboxes = std::mem::take(&mut self.buffers.letterboxes);
        letterboxes.clear();
        letterboxes.extend(frames.iter().enumerate().map(|(slot, frame)| self.prepare_frame(slot, frame)));
        let done = self.run(frames.len());
        found.resize_with(frames.len(), Vec::new);
        if done.is_ok() {
            for (slot, (letterbox, found)) in letterboxes.iter().zip(found).enumerate() {
                self.finish_frame(slot, letterbox, found);
            }
        }
        self.buffers.letterboxes = letterboxes;
        done
    }

    fn prepare_frame(&mut self, slot: usize, frame: &Frame) -> Letterbox {
        let Buffers { image, preprocess, .. } = &mut self.buffers;
        frame.write_to(image);
        enter(&self.preprocess, (&*image, self.size), (&mut self.engine, slot), preprocess)
    }

    fn finish_frame(&mut self, slot: usize, letterbox: &Letterbox, found: &mut Vec<Object>) {
        let most = self.options.max_det.min(MAX_FOUND);
        found.reserve(most.saturating_sub(found.len()));
        self.buffers.spare.reserve(most.saturating_sub(self.buffers.spare.len()));
        self.finish_to(slot, letterbox, found);
    }

    /// Second phase: runs the network on the first `count` images of the batch. A GPU then gives outputs of the cells above
    /// the options' score alone: until [`Detector::finish`] that must not be lowered.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn run(&mut self, count: usize) -> Result<(), DetectorError> {
        self.engine.select_cells(Some(vision::least_logit(self.options.score)))?;
        Ok(self.engine.run_images(count)?)
    }

    /// Third phase: decodes the outputs for image `slot` of the batch, and places everything in the image.
    ///
    /// # Panics
    /// If the batch has no such image.
    pub fn finish(&mut self, slot: usize, letterbox: &Letterbox) -> Vec<Object> {
        let mut found = Vec::new();
        self.finish_to(slot, letterbox, &mut found);
        found
    }

    /// As [`Detector::finish`], in place of what `found` holds.
    fn finish_to(&mut self, slot: usize, letterbox: &Letterbox, found: &mut Vec<Object>) {
        let Self { engine, head, size, options, .. } = self;
        let Buffers { find, spare, sum, .. } = &mut self.buffers;
        // What nobody needs goes; the rest is turned over, so that an object gets the memory of its forerunner.
        spare.truncate(options.max_det);
        spare.extend(found.drain(..).rev());
        let mut outputs: [&[f32]; MAX_OUTPUTS] = [&[]; MAX_OUTPUTS];
        let outputs = &mut outputs[..self.outputs.min(MAX_OUTPUTS)];
        outputs.iter_mut().enumerate().for_each(|(i, output)| *output = engine.output_of(slot, i));
        let all = Outputs { values: outputs, cells: engine.cells_of(slot) };
        vision::find_with(head, (size.height, size.width), all, options, find, |detection, extra| {
            let mut object = spare.pop().unwrap_or_default();
            let bbox = letterbox.to_source(detection.bbox);
            object.detection = Detection { bbox, ..detection };
            object.detail = match (extra, std::mem::take(&mut object.detail)) {
                (Extra::None, _) => Detail::Box,
                (Extra::Rotated(turned), _) => Detail::Rotated(letterbox.rotated_to_source(*turned)),
                (Extra::Keypoints(points, _), before) => Detail::Keypoints(before.keypoints(points, letterbox)),
                (Extra::Coefficients(coefficients), before) => {
                    let shape = engine.output_shape(outputs.len() - 1);
                    let prototypes = (outputs[outputs.len() - 1], [shape.h, shape.w]);
                    let mut mask = if let Detail::Mask(mask) = before { mask } else { Mask::default() };
                    mask.fill(coefficients, prototypes, *size, letterbox, bbox, sum);
                    Detail::Mask(mask)
                }
            };
            // An object without a single pixel is none.
            match &object.detail {
                Detail::Mask(mask) if mask.area() == 0 => spare.push(object),
                _ => found.push(object),
            }
        });
    }
}

/// The most objects of a frame that memory is taken for beforehand.
const MAX_FOUND: usize = 1000;

/// An object in an image, in the image's own pixels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// Class, score and upright box.
    pub detection: Detection,
    /// What the task adds.
    pub detail: Detail,
}

/// What a task adds to a box, in pixels of the image.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Detail {
    /// Nothing.
    #[default]
    Box,
    /// Which pixels belong to it.
    Mask(Mask),
    /// x, y and the probability of being visible of every keypoint.
    Keypoints(Vec<[f32; 3]>),
    /// The box as it is turned.
    Rotated(Rotated),
}

impl Detail {
    /// Keypoints of the network's input in pixels of the image, in the memory of these.
    fn keypoints(self, points: &[[f32; 3]], letterbox: &Letterbox) -> Vec<[f32; 3]> {
        let mut placed = if let Self::Keypoints(placed) = self { placed } else { Vec::new() };
        placed.clear();
        placed.extend(points.iter().map(|[x, y, seen]| {
            let [x, y] = letterbox.point_to_source([*x, *y]);
            [x, y, *seen]
        }));
        placed
    }
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
    Detector(Box<Detector>),
    /// The whole image.
    Classifier(Box<Classifier>),
}

impl Predictor {
    /// Compiles a model for input images of a size: one side of a square, or `[height, width]`.
    ///
    /// # Errors
    /// If the engine refuses the model or the size.
    pub fn new(model: &Model, size: impl Into<ImageSize>, options: &Options) -> Result<Self, DetectorError> {
        match model.graph.head {
            Head::Classify { .. } => Ok(Self::Classifier(Box::new(Classifier::new(model, size, options)?))),
            _ => Ok(Self::Detector(Box::new(Detector::new(model, size, options)?))),
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

    /// The objects of a camera's frame, in place of what `found` holds, as [`Detector::detect_frame`].
    ///
    /// # Errors
    /// If the network is a classifier, or the engine fails.
    pub fn detect(&mut self, frame: &Frame, found: &mut Vec<Object>) -> Result<(), DetectorError> {
        match self {
            Self::Detector(detector) => detector.detect_frame(frame, found),
            Self::Classifier(_) => Err(DetectorError::NoDetector),
        }
    }

    /// The objects of frames of several cameras at a time, as [`Detector::detect_frames`].
    ///
    /// # Errors
    /// If the network is a classifier, there are more frames than its batch has images, or the engine fails.
    pub fn detect_batch(&mut self, frames: &[Frame], found: &mut Vec<Vec<Object>>) -> Result<(), DetectorError> {
        match self {
            Self::Detector(detector) => detector.detect_frames(frames, found),
            Self::Classifier(_) => Err(DetectorError::NoDetector),
        }
    }

    /// The likeliest classes of frames of several cameras at a time, as [`Classifier::classify_frames`].
    ///
    /// # Errors
    /// If the network is a detector, there are more frames than its batch has images, or the engine fails.
    pub fn classify_batch(&mut self, frames: &[Frame], classes: &mut Vec<Vec<Scored>>) -> Result<(), DetectorError> {
        match self {
            Self::Detector(detector) => Err(DetectorError::NoClassifier { size: detector.size }),
            Self::Classifier(classifier) => classifier.classify_frames(frames, classes),
        }
    }

    /// The likeliest classes of a camera's frame, in place of what `classes` holds, as [`Classifier::classify_frame`].
    ///
    /// # Errors
    /// If the network is a detector, or the engine fails.
    pub fn classify(&mut self, frame: &Frame, classes: &mut Vec<(usize, f32)>) -> Result<(), DetectorError> {
        match self {
            Self::Detector(detector) => Err(DetectorError::NoClassifier { size: detector.size }),
            Self::Classifier(classifier) => classifier.classify_frame(frame, classes),
        }
    }
}
