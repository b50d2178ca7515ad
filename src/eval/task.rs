//! Evaluates models that segment, find keypoints or rotated boxes, through the engine that ships.
//!
//! The truth are the label files. Masks are judged by the pixels of their outlines, keypoints by their similarity with
//! 0.53 times the box as the object's area (labels know no other), rotated boxes by probabilistic IoU.

use super::coco::{self, ClassStats, Matches};
use super::error::EvalError;
use super::metric::Metric;
use super::overlap::Overlap;
use super::shapes::{Found, Labelled, List, with_overlaps};
use super::ultralytics;
use crate::data::{Dataset, Item, Picture, Shapes};
use crate::detector::Detector;
use crate::engine::{Device, Options};
use crate::graph::Head;
use crate::model::Model;
use crate::ranks::{Ranks, Share};
use crate::size::ImageSize;
use crate::vision::NmsOptions;
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
    /// What is judged beside the boxes.
    pub fn metric(&self) -> Metric {
        Metric::of_task(&self.task)
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
    /// Share of its objects whose shape is found at an overlap of 0.50 with the confidence that people are shown (0.25).
    #[serde(default)]
    pub recall: f64,
}

/// A split with outlines, keypoints or rotated boxes, to evaluate many models on.
pub struct ShapeSet {
    head: Head,
    names: Vec<String>,
    imgsz: ImageSize,
    /// Which images this rank has.
    share: Share,
    pictures: Vec<Picture>,
    labelled: Labelled,
    /// What runs models.
    device: Device,
}

impl ShapeSet {
    /// Reads what is labelled in the images of a split, for models with this head.
    ///
    /// # Errors
    /// If head and labels do not go together, or an image cannot be read.
    pub fn new(head: &Head, dataset: &Dataset, imgsz: ImageSize) -> Result<Self, EvalError> {
        Self::shared(head, dataset, imgsz, &Ranks::default())
    }

    /// As [`ShapeSet::new`], on several ranks: each reads its share of the images, on which it will run models, and all
    /// know what is labelled and found in all of them.
    ///
    /// # Errors
    /// As [`ShapeSet::new`], and if a rank cannot be reached.
    pub fn shared(head: &Head, dataset: &Dataset, imgsz: ImageSize, ranks: &Ranks) -> Result<Self, EvalError> {
        let head = head.branch();
        check(head, dataset)?;
        let share = Share::new(ranks, dataset.items.len());
        let (items, first) = (&dataset.items[share.range()], share.range().start);
        let read = |(image, item): (usize, &Item)| {
            let pixels = item.image.load()?;
            let mut labelled = Labelled::none(list(head)?);
            labelled.add(item, first + image, [pixels.width(), pixels.height()]);
            Ok(labelled)
        };
        let own: Result<Vec<Labelled>, EvalError> = items.par_iter().enumerate().map(read).collect();
        let mut labelled = Labelled::none(list(head)?);
        ranks.of_all(own?)?.into_iter().flatten().for_each(|of_image| labelled.extend(of_image));
        let pictures = items.iter().map(|item| item.image.clone()).collect();
        let (head, names, device) = (head.clone(), dataset.names.clone(), Device::Cpu);
        Ok(Self { head, names, imgsz, share, pictures, labelled, device })
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

    /// Everything a model finds, by the [`Device::engines`] of `threads` threads, of one each. `progress` gets how many more
    /// images are done.
    ///
    /// # Errors
    /// If the model has another task or other classes, cannot be run at this size, an image cannot be read, or the device
    /// cannot be used.
    pub fn find(&self, model: &Model, threads: usize, progress: &(dyn Fn(usize) + Sync)) -> Result<Found, EvalError> {
        let head = model.graph.head.branch();
        if (head.task(), head.classes()) != (self.head.task(), self.head.classes()) {
            let (task, classes, wanted) = (head.task(), head.classes(), &self.head);
            return Err(EvalError::Unfit(format!(
                "the model's task is `{task}` with {classes} classes, expected `{}` with {}",
                wanted.task(),
                wanted.classes()
            )));
        }
        let share = self.pictures.len().div_ceil(self.device.engines(threads)).max(1);
        let first = self.share.range().start;
        let work = |(part, pictures): (usize, &[Picture])| {
            let options = Options { threads: 1, device: self.device, ..Options::default() };
            let mut detector = Detector::new(model, self.imgsz, &options)?;
            detector.options = NmsOptions::EVALUATION;
            let mut found = Found::none(list(head)?);
            for (at, picture) in pictures.iter().enumerate() {
                let image = picture.load()?;
                found.add(&detector.detect(&image)?, first + part * share + at, [image.width(), image.height()]);
                progress(1);
            }
            Ok(found)
        };
        let parts: Result<Vec<Found>, EvalError> = self.pictures.par_chunks(share).enumerate().map(work).collect();
        let mut all = Found::none(list(head)?);
        self.share.ranks().of_all(parts?)?.into_iter().flatten().for_each(|part| all.extend(part));
        Ok(all)
    }

    /// The figures of what a model found.
    pub fn score(&self, found: &Found) -> TaskResult {
        let (truths, classes) = (&self.labelled.truths[..], self.names.len());
        let boxes = (!matches!(self.head, Head::Obb { .. })).then(|| {
            let ours = ultralytics::evaluate(truths, &found.boxes);
            let coco = coco::evaluate(classes, truths, &found.boxes);
            (figures([coco.stats[0], coco.stats[1]], &ours), coco.per_class)
        });
        let judge = |overlap: &dyn Overlap, theirs: &dyn Overlap| {
            let ours = ultralytics::evaluate_by(truths, &found.boxes, theirs);
            let shown = f64::from(NmsOptions::default().score);
            let recalls = coco::class_recall_by(classes, truths, &found.boxes, overlap, shown);
            let (stats, per_class) = if self.poses() {
                let coco = coco::evaluate_poses(classes, truths, &found.boxes, overlap);
                ([coco.stats[0], coco.stats[1]], coco.per_class)
            } else {
                let coco = coco::evaluate_by(classes, truths, &found.boxes, overlap);
                ([coco.stats[0], coco.stats[1]], coco.per_class)
            };
            (figures(stats, &ours), per_class, recalls)
        };
        let none = Figures { map50_95: -1.0, map50: -1.0, map50_95_ultralytics: -1.0, map50_ultralytics: -1.0 };
        let judged = with_overlaps(&self.head, &self.labelled, found, judge);
        let (shapes, per_class, recalls) = judged.unwrap_or((none, Vec::new(), Vec::new()));
        let class = |(class, name): (usize, &String)| {
            let boxes = boxes.as_ref().and_then(|(_, per_class)| per_class.get(class)).map(|c: &ClassStats| c.ap);
            let shapes = per_class.get(class)?.ap;
            let there = shapes >= 0.0 || boxes.is_some_and(|ap| ap >= 0.0);
            let recall = recalls.get(class).copied().flatten().unwrap_or(0.0);
            there.then(|| TaskClass { name: name.clone(), boxes, shapes, recall })
        };
        TaskResult {
            task: self.head.task().into(),
            per_class: self.names.iter().enumerate().filter_map(class).collect(),
            shapes,
            boxes: boxes.as_ref().map(|(figures, _)| *figures),
            images: self.len(),
        }
    }

    /// Matches what was found once: its mAP50-95 of masks, keypoints or rotated boxes (COCO's rules) on any of the images.
    pub(super) fn matches(&self, found: &Found) -> Option<Matches> {
        let (classes, truths) = (self.names.len(), &self.labelled.truths[..]);
        with_overlaps(&self.head, &self.labelled, found, |overlap, _| match self.poses() {
            true => Matches::of_poses(classes, truths, &found.boxes, overlap),
            false => Matches::by(classes, truths, &found.boxes, overlap),
        })
    }

    fn poses(&self) -> bool {
        matches!(self.head, Head::Pose { .. })
    }
}

/// Evaluates a model on a split once, by `threads` engines of one thread each. `progress` gets how many more images are
/// done.
///
/// # Errors
/// As [`ShapeSet::new`] and [`ShapeSet::find`].
pub fn evaluate_task(
    model: &Model,
    dataset: &Dataset,
    imgsz: impl Into<ImageSize>,
    threads: usize,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<TaskResult, EvalError> {
    let set = ShapeSet::new(&model.graph.head, dataset, imgsz.into())?;
    Ok(set.score(&set.find(model, threads, progress)?))
}

/// Shapes of the kind that a head finds.
fn list(head: &Head) -> Result<List, EvalError> {
    List::of(head).ok_or_else(|| {
        EvalError::Unfit(format!("the task of the model is `{}`, expected segment, pose or obb", head.task()))
    })
}

/// Refuses a head and a dataset that do not go together.
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

fn figures([map50_95, map50]: [f64; 2], ours: &ultralytics::Stats) -> Figures {
    Figures { map50_95, map50, map50_95_ultralytics: ours.map50_95, map50_ultralytics: ours.map50 }
}
