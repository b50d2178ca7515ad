//! Masks, keypoints and rotated boxes, labelled and found, and how they overlap.

use super::objects::{Detected, Truth};
use super::overlap::{MaskPairs, Overlap, PoseArea, PosePairs, RotatedPairs};
use super::rle::Rle;
use crate::data::{Item, Label, Shapes};
use crate::detector::{Detail, Object};
use crate::graph::Head;
use crate::vision::{Gaussian, NormalisedXywh, Rotated, Xywh, sigmas};
use serde::{Deserialize, Serialize};

/// The share of its box that an object is taken to fill.
const FILLED: f64 = 0.53;

/// The shapes of objects or detections, all of one kind, pixels.
#[derive(Serialize, Deserialize)]
pub(super) enum List {
    /// Pixels.
    Masks(Vec<Rle>),
    /// x, y and how visible.
    Points(Vec<Vec<[f64; 3]>>),
    /// Rotated boxes, and their areas.
    Rotated(Vec<Gaussian>, Vec<f64>),
}

/// The shape of one object or detection, pixels.
enum Shape {
    Mask(Rle),
    Points(Vec<[f64; 3]>),
    Rotated(Gaussian, f64),
}

/// What is labelled in images.
#[derive(Serialize, Deserialize)]
pub(super) struct Labelled {
    pub truths: Vec<Truth>,
    pub shapes: List,
}

/// What a model finds in images.
#[derive(Serialize, Deserialize)]
pub struct Found {
    /// Classes, scores and upright boxes.
    pub boxes: Vec<Detected>,
    pub(super) shapes: List,
}

impl List {
    /// None of the kind that a head finds; none where it finds boxes alone.
    pub fn of(head: &Head) -> Option<Self> {
        match head.branch() {
            Head::Segment { .. } => Some(Self::Masks(Vec::new())),
            Head::Pose { .. } => Some(Self::Points(Vec::new())),
            Head::Obb { .. } => Some(Self::Rotated(Vec::new(), Vec::new())),
            Head::Detect { .. } | Head::Classify { .. } | Head::EndToEnd { .. } => None,
        }
    }

    /// Adds a shape; one of another kind becomes an empty one.
    fn push(&mut self, shape: Shape) {
        match (self, shape) {
            (Self::Masks(all), Shape::Mask(mask)) => all.push(mask),
            (Self::Masks(all), _) => all.push(Rle::default()),
            (Self::Points(all), Shape::Points(points)) => all.push(points),
            (Self::Points(all), _) => all.push(Vec::new()),
            (Self::Rotated(all, areas), Shape::Rotated(bbox, area)) => {
                all.push(bbox);
                areas.push(area);
            }
            (Self::Rotated(all, areas), _) => {
                all.push(Gaussian::new([0.0; 2], [0.0; 2], 0.0));
                areas.push(0.0);
            }
        }
    }

    fn extend(&mut self, next: Self) {
        match (self, next) {
            (Self::Masks(all), Self::Masks(next)) => all.extend(next),
            (Self::Points(all), Self::Points(next)) => all.extend(next),
            (Self::Rotated(all, areas), Self::Rotated(next, more)) => {
                all.extend(next);
                areas.extend(more);
            }
            _ => {}
        }
    }
}

impl Labelled {
    pub fn none(shapes: List) -> Self {
        Self { truths: Vec::new(), shapes }
    }

    /// Adds the objects of an image of this number, width and height.
    pub fn add(&mut self, item: &Item, image: usize, size: [usize; 2]) {
        for (at, label) in item.labels.iter().enumerate() {
            if let Some((truth, shape)) = object(item, (at, label), image, size) {
                self.truths.push(truth);
                self.shapes.push(shape);
            }
        }
    }

    pub fn extend(&mut self, next: Self) {
        self.truths.extend(next.truths);
        self.shapes.extend(next.shapes);
    }
}

impl Found {
    pub(super) fn none(shapes: List) -> Self {
        Self { boxes: Vec::new(), shapes }
    }

    /// Adds the objects that are found in an image of this number, width and height; those without a shape are none.
    pub(super) fn add(&mut self, objects: &[Object], image: usize, size: [usize; 2]) {
        for object in objects {
            let shape = match &object.detail {
                Detail::Box => continue,
                Detail::Mask(mask) => Shape::Mask(Rle::from_counts(mask.counts(), size[0] * size[1])),
                Detail::Keypoints(points) => Shape::Points(points.iter().map(|point| point.map(f64::from)).collect()),
                Detail::Rotated(bbox) => rotated(bbox),
            };
            let detection = object.detection;
            let (bbox, score) = (Xywh::from(detection.bbox), f64::from(detection.score));
            self.boxes.push(Detected { image, class: detection.class, bbox, score });
            self.shapes.push(shape);
        }
    }

    pub(super) fn extend(&mut self, next: Self) {
        self.boxes.extend(next.boxes);
        self.shapes.extend(next.shapes);
    }
}

/// The overlaps of what is found and what is labelled by COCO's rules and by those of ultralytics; nothing where the
/// two are not of a kind. `head` says how keypoints are shaped.
pub(super) fn with_overlaps<T>(
    head: &Head,
    labelled: &Labelled,
    found: &Found,
    judge: impl FnOnce(&dyn Overlap, &dyn Overlap) -> T,
) -> Option<T> {
    let (truths, boxes) = (&labelled.truths[..], &found.boxes[..]);
    match (&labelled.shapes, &found.shapes) {
        (List::Masks(truth_masks), List::Masks(found_masks)) => {
            let overlap = MaskPairs { truths, truth_masks, found_masks };
            Some(judge(&overlap, &overlap))
        }
        (List::Rotated(truths, _), List::Rotated(found, areas)) => {
            let overlap = RotatedPairs { truths, found, areas };
            Some(judge(&overlap, &overlap))
        }
        (List::Points(truth_points), List::Points(points)) => {
            let Head::Pose { keypoints, dims, .. } = head.branch() else { return None };
            let flat = |points: &Vec<[f64; 3]>| points.iter().map(|[x, y, _]| [*x, *y]).collect();
            let found_points: Vec<Vec<[f64; 2]>> = points.iter().map(flat).collect();
            let (found_points, sigmas) = (&found_points[..], &sigmas(*keypoints, *dims)[..]);
            let area = PoseArea::Annotated;
            let overlap = PosePairs { truths, found: boxes, truth_points, found_points, sigmas, area };
            let theirs = PosePairs { area: PoseArea::Box, ..overlap };
            Some(judge(&overlap, &theirs))
        }
        _ => None,
    }
}

/// An object of an image of this width and height; nothing of one without a shape.
fn object(item: &Item, (at, label): (usize, &Label), image: usize, size: [usize; 2]) -> Option<(Truth, Shape)> {
    let sides = size.map(|side| side as f64);
    let pixels = |[x, y]: [f32; 2]| [f64::from(x) * sides[0], f64::from(y) * sides[1]];
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
}

fn rotated(bbox: &Rotated) -> Shape {
    Shape::Rotated(bbox.gaussian(), f64::from(bbox.size[0]) * f64::from(bbox.size[1]))
}
