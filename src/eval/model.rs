//! Evaluates a model on a dataset through the engine that ships.

use super::error::EvalError;
use super::{Detected, Truth, coco, truth, ultralytics};
use crate::data::{Dataset, Item, Picture as Pixels};
use crate::engine::{Device, Engine, Options};
use crate::graph::Head;
use crate::model::Model;
use crate::ranks::{Ranks, Share};
use crate::size::{ImageSize, MAX_SIDE};
use crate::vision::{ImageError, Letterbox, NmsOptions, Preprocess, detect, detect_decoded};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Figures of a model on a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvalResult {
    /// Mean AP at IoU 0.50 to 0.95, COCO rules.
    pub map50_95: f64,
    /// Mean AP at IoU 0.50, COCO rules.
    pub map50: f64,
    /// Mean AP at IoU 0.50 to 0.95, ultralytics' rules.
    pub map50_95_ultralytics: f64,
    /// Mean AP at IoU 0.50, ultralytics' rules.
    pub map50_ultralytics: f64,
    /// By class that has objects.
    pub per_class: Vec<ClassResult>,
    /// Number of images.
    pub images: usize,
}

/// Figures of a class, COCO rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassResult {
    /// Its name.
    pub name: String,
    /// AP at IoU 0.50 to 0.95.
    pub map50_95: f64,
    /// AP at IoU 0.50.
    pub map50: f64,
    /// Share of its objects that are found at IoU 0.50 with the confidence that people are shown (0.25).
    pub recall: f64,
}

/// A split, decoded and letterboxed once, to evaluate many models on.
pub struct Prepared {
    imgsz: ImageSize,
    names: Vec<String>,
    /// Which images this rank has.
    share: Share,
    pictures: Vec<Picture>,
    truths: Vec<Truth>,
    /// What runs models.
    device: Device,
}

/// An image, fitted into the network's input.
struct Picture {
    pixels: Pixels,
    letterbox: Letterbox,
    /// The input `[3, height, width]`; where memory is short, nothing, and the file is read again.
    bytes: Option<Vec<u8>>,
}

/// Bytes that the pictures of a split may take together.
const MAX_PREPARED: usize = 4 << 30;

/// Pictures that another runtime gets at once.
const AT_ONCE: usize = 16;

/// Reads an image into the letterboxed `[3, height, width]`; gives where it lies in it, and its sides.
fn read(pixels: &Pixels, imgsz: ImageSize, rgb: &mut [f32]) -> Result<(Letterbox, [usize; 2]), ImageError> {
    let image = pixels.load()?;
    let letterbox = Letterbox::new(image.width(), image.height(), imgsz.width, imgsz.height);
    letterbox.forward(&image, rgb);
    Ok((letterbox, [image.width(), image.height()]))
}

/// Whether the COCO annotations of a split, where it has any, can be used.
///
/// # Errors
/// If they cannot be read, or do not belong to the split.
pub fn check_annotations(dataset: &Dataset) -> Result<(), EvalError> {
    dataset.annotations.as_ref().map_or(Ok(()), |path| truth::annotated(path, dataset).map(|_| ()))
}

impl Prepared {
    /// Reads and letterboxes all images of a split to one size. Where the dataset has COCO annotations for
    /// the split, they are the truth, with their crowd regions and areas; else the label files are.
    ///
    /// # Errors
    /// If an image or the annotations cannot be read, or the size is absurd.
    pub fn new(dataset: &Dataset, imgsz: impl Into<ImageSize>) -> Result<Self, EvalError> {
        Self::shared(dataset, imgsz, &Ranks::default())
    }

    /// As [`Prepared::new`], on several ranks: each reads its share of the images, on which it will run models, and all
    /// know what is labelled and found in all of them.
    ///
    /// # Errors
    /// As [`Prepared::new`], and if a rank cannot be reached.
    pub fn shared(dataset: &Dataset, imgsz: impl Into<ImageSize>, ranks: &Ranks) -> Result<Self, EvalError> {
        let imgsz = imgsz.into();
        if !imgsz.all(|side| (1..=MAX_SIDE).contains(&side)) {
            return Err(EvalError::Unfit(format!("image size {imgsz}, expected 1 to {MAX_SIDE} pixels")));
        }
        let room = MAX_PREPARED / (3 * imgsz.area());
        let prepare = |(number, item): (usize, &Item)| {
            let mut tensor = vec![0.0; 3 * imgsz.area()];
            let (letterbox, sides) = read(&item.image, imgsz, &mut tensor)?;
            // 8 bits are all there is; a quarter of the memory.
            let bytes = (number < room).then(|| tensor.iter().map(|v| (v * 255.0).round() as u8).collect());
            Ok((Picture { pixels: item.image.clone(), letterbox, bytes }, sides))
        };
        let share = Share::new(ranks, dataset.items.len());
        let items = &dataset.items[share.range()];
        let prepared: Result<Vec<_>, EvalError> = items.par_iter().enumerate().map(prepare).collect();
        let (pictures, sides): (Vec<_>, Vec<_>) = prepared?.into_iter().unzip();
        let sides = ranks.of_all(sides)?.concat();
        let truths = match &dataset.annotations {
            Some(path) => truth::annotated(path, dataset)?,
            None => truth::labelled(dataset, &sides),
        };
        Ok(Self { imgsz, names: dataset.names.clone(), share, pictures, truths, device: Device::Cpu })
    }

    /// The same images, on which a device runs models; before that it is the CPU.
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.share.images()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything a model finds, in pixels of the source images, by the [`Device::engines`] of `threads` threads, of one
    /// each. `progress` gets the number of images done since the last call.
    ///
    /// # Errors
    /// If the model is no detector of the dataset's classes, cannot be run at this size, an image has become unreadable, or
    /// the device cannot be used.
    pub fn find(
        &self,
        model: &Model,
        threads: usize,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Detected>, EvalError> {
        self.find_on(self.device, model, threads, progress)
    }

    /// As [`Prepared::find`], by engines on another device.
    ///
    /// # Errors
    /// As [`Prepared::find`].
    pub fn find_on(
        &self,
        device: Device,
        model: &Model,
        threads: usize,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Detected>, EvalError> {
        self.check(model)?;
        let preprocess = Preprocess::new(model)?;
        let share = self.pictures.len().div_ceil(device.engines(threads)).max(1);
        let first = self.share.range().start;
        let work = |(part, pictures): (usize, &[Picture])| {
            let ImageSize { height, width } = self.imgsz;
            let options = Options { threads: 1, device, ..Options::default() };
            let mut engine = Engine::new(model, height, width, &options)?;
            let mut all = Vec::new();
            let mut rgb = vec![0.0; 3 * self.imgsz.area()];
            for (at, picture) in pictures.iter().enumerate() {
                self.show(picture, &mut rgb)?;
                preprocess.adapt(&rgb, engine.input_mut());
                engine.run_in_place()?;
                let outputs: Vec<&[f32]> = (0..model.graph.outputs.len()).map(|i| engine.output(i)).collect();
                let found = detect(&model.graph.head, (height, width), &outputs, &NmsOptions::EVALUATION);
                all.extend(found.into_iter().map(|d| {
                    let bbox = picture.letterbox.to_source(d.bbox).into();
                    Detected { image: first + part * share + at, class: d.class, bbox, score: f64::from(d.score) }
                }));
                progress(1);
            }
            Ok(all)
        };
        let parts: Result<Vec<Vec<Detected>>, EvalError> =
            self.pictures.par_chunks(share).enumerate().map(work).collect();
        Ok(self.share.ranks().of_all(parts?.concat())?.concat())
    }

    /// As [`Prepared::find`], with outputs that another runtime computes. `run` gets inputs of the network,
    /// `[C, height, width]`, a few at a time, and gives the decoded output of each, as exporters write it. `head` is that of
    /// the exported network.
    ///
    /// # Errors
    /// As [`Prepared::find`], those of `run`, and if an output has another size than the network gives.
    pub fn find_by<E: From<EvalError>>(
        &self,
        model: &Model,
        head: &Head,
        run: &mut dyn FnMut(&[Vec<f32>]) -> Result<Vec<Vec<f32>>, E>,
    ) -> Result<Vec<Detected>, E> {
        self.check(model)?;
        let preprocess = Preprocess::new(model).map_err(EvalError::from)?;
        let (size, mut found) = (self.imgsz, Vec::new());
        for (part, pictures) in self.pictures.chunks(AT_ONCE).enumerate() {
            let mut inputs = vec![vec![0.0; preprocess.channels() * size.area()]; pictures.len()];
            let mut rgb = vec![0.0; 3 * size.area()];
            for (picture, input) in pictures.iter().zip(&mut inputs) {
                self.show(picture, &mut rgb)?;
                preprocess.adapt(&rgb, input);
            }
            let outputs = run(&inputs)?;
            for (at, (picture, output)) in pictures.iter().zip(&outputs).enumerate() {
                let all = detect_decoded(head, (size.height, size.width), output, &NmsOptions::EVALUATION).ok_or_else(
                    || EvalError::Unfit(format!("{} values came out, the network has another number", output.len())),
                )?;
                found.extend(all.into_iter().map(|d| {
                    let bbox = picture.letterbox.to_source(d.bbox).into();
                    Detected { image: part * AT_ONCE + at, class: d.class, bbox, score: f64::from(d.score) }
                }));
            }
        }
        Ok(found)
    }

    /// Refuses a model that is no detector of the dataset's classes.
    fn check(&self, model: &Model) -> Result<(), EvalError> {
        match *model.graph.head.branch() {
            Head::Detect { nc, .. } if nc == self.names.len() => Ok(()),
            Head::Detect { nc, .. } => {
                let classes = self.names.len();
                Err(EvalError::Unfit(format!("the model finds {nc} classes, but the dataset names {classes}")))
            }
            _ => {
                let task = model.graph.head.task();
                Err(EvalError::Unfit(format!("the task of the model is `{task}`, expected `detect`")))
            }
        }
    }

    /// Writes a picture as a square of red, green and blue.
    fn show(&self, picture: &Picture, rgb: &mut [f32]) -> Result<(), EvalError> {
        match &picture.bytes {
            Some(bytes) => rgb.iter_mut().zip(bytes).for_each(|(v, b)| *v = f32::from(*b) / 255.0),
            None => drop(read(&picture.pixels, self.imgsz, rgb)?),
        }
        Ok(())
    }

    /// The figures of detections.
    pub fn score(&self, found: &[Detected]) -> EvalResult {
        let coco = coco::evaluate(self.names.len(), &self.truths, found);
        let ours = ultralytics::evaluate(&self.truths, found);
        let shown = f64::from(NmsOptions::default().score);
        let recalls = coco::class_recall(self.names.len(), &self.truths, found, shown);
        let classes = self.names.iter().zip(coco.per_class.iter().zip(recalls)).filter(|(_, (c, _))| c.ap >= 0.0);
        EvalResult {
            map50_95: coco.stats[0],
            map50: coco.stats[1],
            map50_95_ultralytics: ours.map50_95,
            map50_ultralytics: ours.map50,
            per_class: classes
                .map(|(name, (c, recall))| ClassResult {
                    name: name.clone(),
                    map50_95: c.ap,
                    map50: c.ap50,
                    recall: recall.unwrap_or(0.0),
                })
                .collect(),
            images: self.len(),
        }
    }

    /// Runs a model and computes its figures.
    ///
    /// # Errors
    /// As [`Prepared::find`].
    pub fn evaluate(&self, model: &Model, threads: usize) -> Result<EvalResult, EvalError> {
        Ok(self.score(&self.find(model, threads, &|_| {})?))
    }

    /// Matches detections once: their mAP50-95 (COCO rules) on any of the images.
    pub(super) fn matches(&self, found: &[Detected]) -> coco::Matches {
        coco::Matches::new(self.names.len(), &self.truths, found)
    }
}

/// Evaluates a model on a split once.
///
/// # Errors
/// As [`Prepared::new`] and [`Prepared::find`].
pub fn evaluate_model(
    model: &Model,
    dataset: &Dataset,
    imgsz: impl Into<ImageSize>,
    threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<EvalResult, EvalError> {
    let prepared = Prepared::new(dataset, imgsz)?;
    Ok(prepared.score(&prepared.find(model, threads, progress)?))
}
