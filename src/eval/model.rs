//! Evaluates a model on a dataset through the engine that ships.

use super::{Found, Truth, coco, ultralytics};
use crate::data::Dataset;
use crate::engine::{Engine, EngineError, Options};
use crate::files;
use crate::model::Model;
use crate::vision::{Image, ImageError, Letterbox, NmsOptions, detect};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use thiserror::Error;

/// An evaluation that failed.
#[derive(Debug, Error)]
pub enum EvalError {
    /// The network could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An image could not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The COCO annotations do not fit.
    #[error("{path}: {problem}")]
    Annotations {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
    },
}

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
}

/// A split, decoded and letterboxed once, to evaluate many models on.
pub struct Prepared {
    imgsz: usize,
    names: Vec<String>,
    images: Vec<(Vec<u8>, Letterbox)>,
    truths: Vec<Truth>,
}

/// Bytes a prepared split may take in memory.
const MAX_PREPARED: usize = 8 << 30;

impl Prepared {
    /// Reads and letterboxes all images of a split into squares of `imgsz`. Where the dataset has COCO annotations for the split,
    /// they are the truth; else the label files are.
    ///
    /// # Errors
    /// If an image or the annotations cannot be read.
    pub fn new(dataset: &Dataset, imgsz: usize) -> Result<Self, EvalError> {
        let most = MAX_PREPARED / (3 * imgsz * imgsz).max(1);
        let read = |item: &crate::data::Item| {
            let image = Image::open(&item.image)?;
            let letterbox = Letterbox::new(image.width(), image.height(), imgsz, imgsz);
            let mut tensor = vec![0.0; 3 * imgsz * imgsz];
            letterbox.forward(&image, &mut tensor);
            // 8 bits are all there is; a quarter of the memory.
            let bytes = tensor.iter().map(|v| (v * 255.0).round() as u8).collect();
            Ok(((bytes, letterbox), (image.width() as f64, image.height() as f64)))
        };
        let read: Result<Vec<_>, EvalError> = dataset.items.par_iter().take(most).map(read).collect();
        let (images, sides): (Vec<_>, Vec<_>) = read?.into_iter().unzip();
        let truths = match &dataset.annotations {
            Some(path) => annotated(path, dataset)?,
            None => labelled(dataset, &sides),
        };
        Ok(Self { imgsz, names: dataset.names.clone(), images, truths })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Everything a model finds, in pixels of the source images.
    ///
    /// # Errors
    /// If the network cannot be run.
    pub fn find(
        &self,
        model: &Model,
        threads: usize,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Found>, EngineError> {
        let share = self.images.len().div_ceil(threads.max(1)).max(1);
        let work = |(part, images): (usize, &[(Vec<u8>, Letterbox)])| {
            let mut engine = Engine::new(model, self.imgsz, self.imgsz, &Options { threads: 1, ..Options::default() })?;
            let mut input = vec![0.0; 3 * self.imgsz * self.imgsz];
            let mut all = Vec::new();
            for (at, (bytes, letterbox)) in images.iter().enumerate() {
                input.iter_mut().zip(bytes).for_each(|(i, b)| *i = f32::from(*b) / 255.0);
                engine.run(&input)?;
                let outputs: Vec<&[f32]> = (0..model.graph.outputs.len()).map(|i| engine.output(i)).collect();
                let found = detect(&model.graph.head, (self.imgsz, self.imgsz), &outputs, &NmsOptions::EVALUATION);
                all.extend(found.into_iter().map(|d| {
                    let [x0, y0, x1, y1] = letterbox.to_source(d.bbox).map(f64::from);
                    Found {
                        image: part * share + at,
                        class: d.class,
                        bbox: [x0, y0, x1 - x0, y1 - y0],
                        score: f64::from(d.score),
                    }
                }));
                progress(1);
            }
            Ok(all)
        };
        let parts: Result<Vec<Vec<Found>>, EngineError> = self.images.par_chunks(share).enumerate().map(work).collect();
        Ok(parts?.into_iter().flatten().collect())
    }

    /// The figures of detections.
    pub fn score(&self, found: &[Found]) -> EvalResult {
        let coco = coco::evaluate(self.names.len(), &self.truths, found);
        let ours = ultralytics::evaluate(&self.truths, found);
        let classes = self.names.iter().zip(&coco.per_class).filter(|(_, c)| c.ap >= 0.0);
        EvalResult {
            map50_95: coco.stats[0],
            map50: coco.stats[1],
            map50_95_ultralytics: ours.map50_95,
            map50_ultralytics: ours.map50,
            per_class: classes
                .map(|(name, c)| ClassResult { name: name.clone(), map50_95: c.ap, map50: c.ap50 })
                .collect(),
            images: self.images.len(),
        }
    }

    /// Runs a model and computes its figures.
    ///
    /// # Errors
    /// If the network cannot be run.
    pub fn evaluate(&self, model: &Model, threads: usize) -> Result<EvalResult, EngineError> {
        Ok(self.score(&self.find(model, threads, &|_| {})?))
    }

    /// mAP50-95 on the images of a (re)sample, for [`super::bootstrap`].
    pub fn map_of_sample(&self, found: &[Found], sample: &[usize]) -> f64 {
        let mut truths = Vec::new();
        let mut chosen = Vec::new();
        for (new, image) in sample.iter().enumerate() {
            truths.extend(self.truths.iter().filter(|t| t.image == *image).map(|t| Truth { image: new, ..*t }));
            chosen.extend(found.iter().filter(|f| f.image == *image).map(|f| Found { image: new, ..*f }));
        }
        coco::evaluate(self.names.len(), &truths, &chosen).stats[0]
    }
}

/// Evaluates a model on a split; `progress` is told images done and all images.
///
/// # Errors
/// If an image cannot be read or the network cannot be run.
pub fn evaluate_model(
    model: &Model,
    dataset: &Dataset,
    imgsz: usize,
    threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<EvalResult, EvalError> {
    let prepared = Prepared::new(dataset, imgsz)?;
    Ok(prepared.score(&prepared.find(model, threads, progress)?))
}

fn labelled(dataset: &Dataset, sides: &[(f64, f64)]) -> Vec<Truth> {
    let of = |(image, (item, (w, h))): (usize, (&crate::data::Item, &(f64, f64)))| {
        let truth = move |label: &crate::data::Label| {
            let [cx, cy, bw, bh] = [label.cx, label.cy, label.w, label.h].map(f64::from);
            let bbox = [(cx - bw / 2.0) * w, (cy - bh / 2.0) * h, bw * w, bh * h];
            Truth { image, class: label.class, bbox, area: bbox[2] * bbox[3], crowd: false }
        };
        item.labels.iter().map(truth).collect::<Vec<_>>()
    };
    dataset.items.iter().zip(sides).enumerate().flat_map(of).collect()
}

#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    annotations: Vec<CocoObject>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: i64,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: i64,
    name: String,
}

#[derive(Deserialize)]
struct CocoObject {
    image_id: i64,
    category_id: i64,
    bbox: [f64; 4],
    area: f64,
    #[serde(default)]
    iscrowd: u8,
}

/// Truth from a COCO file: images by file name, categories by name, else by their order.
fn annotated(path: &PathBuf, dataset: &Dataset) -> Result<Vec<Truth>, EvalError> {
    let fail = |problem: String| EvalError::Annotations { path: path.clone(), problem };
    let bytes = files::read(path, 1 << 30).map_err(|e| fail(e.to_string()))?;
    let mut coco: Coco = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
    coco.categories.sort_by_key(|c| c.id);
    let class = |(order, category): (usize, &CocoCategory)| {
        let named = dataset.names.iter().position(|name| *name == category.name);
        (category.id, named.unwrap_or(order))
    };
    let classes: HashMap<i64, usize> = coco.categories.iter().enumerate().map(class).collect();
    let of_file = |name: &str| dataset.items.iter().position(|item| item.image.file_name().is_some_and(|f| f == name));
    let images: HashMap<i64, usize> =
        coco.images.iter().filter_map(|i| Some((i.id, of_file(i.file_name.rsplit('/').next()?)?))).collect();
    if images.len() < dataset.items.len() {
        return Err(fail(format!(
            "knows {} of the {} images of the split; remove the file to use the label files",
            images.len(),
            dataset.items.len()
        )));
    }
    let truth = |o: &CocoObject| {
        let (image, class) = (*images.get(&o.image_id)?, *classes.get(&o.category_id)?);
        Some(Truth { image, class, bbox: o.bbox, area: o.area, crowd: o.iscrowd != 0 })
    };
    Ok(coco.annotations.iter().filter_map(truth).collect())
}
