//! Evaluates a model that segments, finds keypoints or rotated boxes, through the engine that ships.
//!
//! The truth are the label files. Masks are judged by the pixels of their outlines, keypoints by their similarity with
//! 0.53 times the box as the object's area (labels know no other), rotated boxes by probabilistic IoU.

use super::coco::{self, ClassStats};
use super::error::EvalError;
use super::objects::{Detected, Truth};
use super::overlap::{MaskPairs, Overlap, PoseArea, PosePairs, RotatedPairs};
use super::rle::Rle;
use super::ultralytics;
use crate::data::{Dataset, Item, Shapes};
use crate::detector::{Detail, Detector, DetectorError, Object};
use crate::engine::Options;
use crate::graph::Head;
use crate::model::Model;
use crate::size::ImageSize;
use crate::vision::{Gaussian, NmsOptions, NormalisedXywh, Rotated, Xywh, sigmas};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Mean average precision of one kind of place: boxes, masks, keypoints or rotated boxes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Over overlaps from 0.50 to 0.95, COCO's rules; -1 where nothing is labelled.
    pub map50_95: f64,
    /// At 0.50, COCO's rules.
    pub map50: f64,
    /// Over overlaps from 0.50 to 0.95, ultralytics' rules.
    pub map50_95_ultralytics: f64,
    /// At 0.50, ultralytics' rules.
    pub map50_ultralytics: f64,
}

/// Figures of a model of one of these tasks on a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task, as ultralytics names it.
    pub task: String,
    /// Of the upright boxes; nothing where boxes are rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boxes: Option<Figures>,
    /// Of masks, keypoints or rotated boxes.
    pub shapes: Figures,
    /// By class that has objects.
    pub per_class: Vec<TaskClass>,
    /// Number of images.
    pub images: usize,
}

impl TaskResult {
    /// What is judged beside the boxes, in words.
    pub fn judged(&self) -> &'static str {
        match self.task.as_str() {
            "segment" => "masks",
            "pose" => "keypoints",
            _ => "rotated boxes",
        }
    }
}

/// Figures of a class, COCO's rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskClass {
    /// Its name.
    pub name: String,
    /// mAP50-95 of its upright boxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boxes: Option<f64>,
    /// mAP50-95 of its masks, keypoints or rotated boxes.
    pub shapes: f64,
}

/// The shape of an object or of a detection, pixels.
enum Shape {
    Mask(Rle),
    Points(Vec<[f64; 3]>),
    Rotated(Gaussian, f64),
}

/// What is labelled and what is found in one image.
#[derive(Default)]
struct Judged {
    truths: Vec<(Truth, Shape)>,
    found: Vec<(Detected, Shape)>,
}

/// The share of its box that an object is taken to fill.
const FILLED: f64 = 0.53;

/// Evaluates a model on a split, by `threads` engines of one thread each. `progress` gets how many more images are
/// done.
///
/// # Errors
/// If model and dataset do not go together, the model cannot be run at this size, or an image cannot be read.
pub fn evaluate_task(
    model: &Model,
    dataset: &Dataset,
    imgsz: impl Into<ImageSize>,
    threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<TaskResult, EvalError> {
    let (head, imgsz) = (model.graph.head.branch(), imgsz.into());
    check(head, dataset)?;
    let share = dataset.items.len().div_ceil(threads.max(1)).max(1);
    let work = |(part, items): (usize, &[Item])| {
        let mut detector = Detector::new(model, imgsz, &Options { threads: 1, ..Options::default() })?;
        detector.options = NmsOptions::EVALUATION;
        let mut judged = Judged::default();
        for (at, item) in items.iter().enumerate() {
            let image = item.image.load()?;
            let size = [image.width(), image.height()];
            let number = part * share + at;
            judged.truths.extend(labelled(item, number, size));
            judged.found.extend(detector.detect(&image)?.iter().filter_map(|object| found(object, number, size)));
            progress(1);
        }
        Ok(judged)
    };
    let parts: Result<Vec<Judged>, DetectorError> = dataset.items.par_chunks(share).enumerate().map(work).collect();
    let mut all = Judged::default();
    for part in parts? {
        all.truths.extend(part.truths);
        all.found.extend(part.found);
    }
    Ok(score(head, dataset, all))
}

/// Refuses a model and a dataset that do not go together.
fn check(head: &Head, dataset: &Dataset) -> Result<(), EvalError> {
    let (nc, classes) = (head.classes(), dataset.names.len());
    if nc != classes {
        return Err(EvalError::Unfit(format!("the model finds {nc} classes, but the dataset names {classes}")));
    }
    let fits = |item: &Item| match (head, &item.shapes) {
        (Head::Segment { .. }, Shapes::Outlines(all)) => all.len() == item.labels.len(),
        (Head::Obb { .. }, Shapes::Corners(all)) => all.len() == item.labels.len(),
        (Head::Pose { keypoints, .. }, Shapes::Keypoints(all)) => {
            all.len() == item.labels.len() && all.iter().all(|points| points.len() == *keypoints)
        }
        (Head::Segment { .. } | Head::Obb { .. } | Head::Pose { .. }, Shapes::None) => item.labels.is_empty(),
        _ => false,
    };
    match dataset.items.iter().find(|item| !fits(item)) {
        None => Ok(()),
        Some(item) => {
            let (task, image) = (head.task(), item.image.display());
            Err(EvalError::Unfit(format!("the labels of {image} are not those of the model's task, `{task}`")))
        }
    }
}

/// The objects of an image of this width and height.
fn labelled(item: &Item, image: usize, size: [usize; 2]) -> Vec<(Truth, Shape)> {
    let sides = size.map(|side| side as f64);
    let pixels = |[x, y]: [f32; 2]| [f64::from(x) * sides[0], f64::from(y) * sides[1]];
    let one = |(at, label): (usize, &crate::data::Label)| {
        let bbox = NormalisedXywh([label.cx, label.cy, label.w, label.h]).to_pixels(sides);
        let (shape, area) = match &item.shapes {
            Shapes::None => return None,
            Shapes::Outlines(all) => {
                let outline: Vec<[f64; 2]> = all.get(at)?.iter().map(|point| pixels(*point)).collect();
                let mask = Rle::from_outline(&outline, size);
                let area = mask.area() as f64;
                (Shape::Mask(mask), area)
            }
            Shapes::Keypoints(all) => {
                let point = |[x, y, seen]: &[f32; 3]| {
                    let [x, y] = pixels([*x, *y]);
                    [x, y, f64::from(*seen)]
                };
                (Shape::Points(all.get(at)?.iter().map(point).collect()), FILLED * bbox.area())
            }
            Shapes::Corners(all) => {
                let shape = rotated(&Rotated::around(&all.get(at)?.map(|corner| pixels(corner).map(|v| v as f32))));
                let area = if let Shape::Rotated(_, area) = shape { area } else { 0.0 };
                (shape, area)
            }
        };
        Some((Truth { image, class: label.class, bbox, area, crowd: false }, shape))
    };
    item.labels.iter().enumerate().filter_map(one).collect()
}

fn rotated(bbox: &Rotated) -> Shape {
    Shape::Rotated(bbox.gaussian(), f64::from(bbox.size[0]) * f64::from(bbox.size[1]))
}

/// A detection as the metrics want it; nothing of one without a shape.
fn found(object: &Object, image: usize, size: [usize; 2]) -> Option<(Detected, Shape)> {
    let detection = object.detection;
    let shape = match &object.detail {
        Detail::Box => return None,
        Detail::Mask(mask) => Shape::Mask(Rle::from_counts(mask.counts(), size[0] * size[1])),
        Detail::Keypoints(points) => Shape::Points(points.iter().map(|point| point.map(f64::from)).collect()),
        Detail::Rotated(bbox) => rotated(bbox),
    };
    let bbox = Xywh::from(detection.bbox);
    Some((Detected { image, class: detection.class, bbox, score: f64::from(detection.score) }, shape))
}

fn score(head: &Head, dataset: &Dataset, judged: Judged) -> TaskResult {
    let (truths, truth_shapes): (Vec<Truth>, Vec<Shape>) = judged.truths.into_iter().unzip();
    let (found, found_shapes): (Vec<Detected>, Vec<Shape>) = judged.found.into_iter().unzip();
    let classes = dataset.names.len();
    let of_boxes = || {
        let (coco, ours) = (coco::evaluate(classes, &truths, &found), ultralytics::evaluate(&truths, &found));
        (figures([coco.stats[0], coco.stats[1]], &ours), coco.per_class)
    };
    let by = |overlap: &dyn Overlap, theirs: &dyn Overlap, poses: bool| {
        let ours = ultralytics::evaluate_by(&truths, &found, theirs);
        let (stats, per_class) = if poses {
            let coco = coco::evaluate_poses(classes, &truths, &found, overlap);
            ([coco.stats[0], coco.stats[1]], coco.per_class)
        } else {
            let coco = coco::evaluate_by(classes, &truths, &found, overlap);
            ([coco.stats[0], coco.stats[1]], coco.per_class)
        };
        (figures(stats, &ours), per_class)
    };
    let (shapes, boxes) = match head {
        Head::Segment { .. } => {
            let [truth_masks, found_masks] = [truth_shapes, found_shapes].map(masks);
            let (truth_masks, found_masks) = (&truth_masks[..], &found_masks[..]);
            let overlap = MaskPairs { truths: &truths, truth_masks, found_masks };
            (by(&overlap, &overlap, false), Some(of_boxes()))
        }
        Head::Pose { keypoints, dims, .. } => {
            let truth_points: Vec<Vec<[f64; 3]>> = truth_shapes.into_iter().map(points).collect();
            let flat = |shape| points(shape).into_iter().map(|[x, y, _]| [x, y]).collect();
            let found_points: Vec<Vec<[f64; 2]>> = found_shapes.into_iter().map(flat).collect();
            let (truth_points, found_points) = (&truth_points[..], &found_points[..]);
            let sigmas = &sigmas(*keypoints, *dims)[..];
            let area = PoseArea::Annotated;
            let overlap = PosePairs { truths: &truths, found: &found, truth_points, found_points, sigmas, area };
            let theirs = PosePairs { area: PoseArea::Box, ..overlap };
            (by(&overlap, &theirs, true), Some(of_boxes()))
        }
        _ => {
            let turned = |shape: &Shape| match shape {
                Shape::Rotated(bbox, area) => (*bbox, *area),
                _ => (Gaussian::new([0.0; 2], [0.0; 2], 0.0), 0.0),
            };
            let truths: Vec<Gaussian> = truth_shapes.iter().map(|shape| turned(shape).0).collect();
            let (found, areas): (Vec<Gaussian>, Vec<f64>) = found_shapes.iter().map(turned).unzip();
            let overlap = RotatedPairs { truths: &truths, found: &found, areas: &areas };
            (by(&overlap, &overlap, false), None)
        }
    };
    let class = |(class, name): (usize, &String)| {
        let boxes = boxes.as_ref().and_then(|(_, per_class)| per_class.get(class)).map(|c: &ClassStats| c.ap);
        let shapes = shapes.1.get(class)?.ap;
        let there = shapes >= 0.0 || boxes.is_some_and(|ap| ap >= 0.0);
        there.then(|| TaskClass { name: name.clone(), boxes, shapes })
    };
    TaskResult {
        task: head.task().into(),
        per_class: dataset.names.iter().enumerate().filter_map(class).collect(),
        shapes: shapes.0,
        boxes: boxes.map(|(figures, _)| figures),
        images: dataset.items.len(),
    }
}

fn figures([map50_95, map50]: [f64; 2], ours: &ultralytics::Stats) -> Figures {
    Figures { map50_95, map50, map50_95_ultralytics: ours.map50_95, map50_ultralytics: ours.map50 }
}

fn masks(shapes: Vec<Shape>) -> Vec<Rle> {
    let mask = |shape| if let Shape::Mask(mask) = shape { mask } else { Rle::default() };
    shapes.into_iter().map(mask).collect()
}

fn points(shape: Shape) -> Vec<[f64; 3]> {
    if let Shape::Points(points) = shape { points } else { Vec::new() }
}
