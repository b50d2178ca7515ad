//! From a photo to detections: letterbox, network, decoding and suppression of duplicates in one place.

use crate::engine::{Engine, EngineError, Options};
use crate::graph::Head;
use crate::model::{Info, Model};
use crate::vision::{self, Detection, Image, ImageError, Letterbox, NmsOptions, draw};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An image size that a network cannot take.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("imgsz {side}: expected a multiple of {stride}, for example {}", side.next_multiple_of(*stride))]
pub struct SideError {
    /// What was asked for, pixels.
    pub side: usize,
    /// What it must be a multiple of.
    pub stride: usize,
}

/// The side of the square input image: the one that was asked for, else the model's own, else 640 pixels.
///
/// # Errors
/// If it is no multiple of the network's stride.
pub fn input_side(model: &Model, asked: Option<usize>) -> Result<usize, SideError> {
    let (side, stride) = (asked.or(model.info.imgsz).unwrap_or(640), model.graph.stride().max(1));
    if side.is_multiple_of(stride) { Ok(side) } else { Err(SideError { side, stride }) }
}

/// A detector that cannot be built or run.
#[derive(Debug, Error)]
pub enum DetectorError {
    /// The network is a classifier.
    #[error("the model is a classifier, expected a detector")]
    NoDetector,
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
    /// Thresholds on scores and overlaps.
    pub options: NmsOptions,
}

impl Detector {
    /// Compiles a detector for images letterboxed to `side` x `side` pixels.
    ///
    /// # Errors
    /// If the model is no detector, or the engine refuses it or the size.
    pub fn new(model: &Model, side: usize, threads: usize) -> Result<Self, DetectorError> {
        if !matches!(model.graph.head, Head::Detect { .. }) {
            return Err(DetectorError::NoDetector);
        }
        let engine = Engine::new(model, side, side, &Options { threads, ..Options::default() })?;
        let (head, outputs) = (model.graph.head.clone(), model.graph.outputs.len());
        Ok(Self { engine, head, outputs, side, options: NmsOptions::default() })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Everything in an image, in its own pixels, best first.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn detect(&mut self, image: &Image) -> Result<Vec<Detection>, DetectorError> {
        let letterbox = self.prepare(image);
        self.run()?;
        Ok(self.finish(&letterbox))
    }

    /// First phase of [`Detector::detect`]: writes the letterboxed image into the engine's input.
    pub fn prepare(&mut self, image: &Image) -> Letterbox {
        let letterbox = Letterbox::new(image.width(), image.height(), self.side, self.side);
        letterbox.forward(image, self.engine.input_mut());
        letterbox
    }

    /// Second phase: runs the network.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn run(&mut self) -> Result<(), DetectorError> {
        Ok(self.engine.run_in_place()?)
    }

    /// Third phase: decodes the outputs, and places the boxes in the image.
    pub fn finish(&self, letterbox: &Letterbox) -> Vec<Detection> {
        let outputs: Vec<&[f32]> = (0..self.outputs).map(|i| self.engine.output(i)).collect();
        let found = vision::detect(&self.head, (self.side, self.side), &outputs, &self.options);
        found.into_iter().map(|d| Detection { bbox: letterbox.to_source(d.bbox), ..d }).collect()
    }
}

/// The detections of one image with the names of their classes, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The image file.
    pub image: PathBuf,
    /// What was found, best first.
    pub detections: Vec<Named>,
}

/// A detection with the name of its class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Named {
    /// Number of the class.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels of the image.
    pub bbox: [f32; 4],
}

impl Found {
    /// Names the detections of an image.
    pub fn new(image: &Path, detections: &[Detection], info: &Info) -> Self {
        let named =
            |d: &Detection| Named { class: d.class, name: info.class_name(d.class), score: d.score, bbox: d.bbox };
        Self { image: image.into(), detections: detections.iter().map(named).collect() }
    }

    /// Draws the boxes with names and scores into the image and saves it in a folder under the image file's own name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, pixels: &mut Image, folder: &Path) -> Result<PathBuf, ImageError> {
        for d in self.detections.iter().rev() {
            let colour = draw::colour(d.class);
            draw::outline(pixels, d.bbox, colour);
            draw::caption(pixels, d.bbox, &format!("{} {:.2}", d.name, d.score), colour);
        }
        let path = folder.join(self.image.file_name().unwrap_or("image.png".as_ref()));
        pixels.save(&path)?;
        Ok(path)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}: {} found", self.image.display(), self.detections.len())?;
        for d in &self.detections {
            let [x0, y0, x1, y1] = d.bbox;
            writeln!(f, "  {:5.1} %  {:<16} {x0:.1},{y0:.1} to {x1:.1},{y1:.1}", 100.0 * d.score, d.name)?;
        }
        Ok(())
    }
}
