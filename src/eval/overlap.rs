//! How much a detection and an object overlap: as boxes, masks, keypoints or rotated boxes.

use super::objects::{Detected, Truth};
use super::rle::Rle;
use crate::vision::Gaussian;

/// The overlap of detections and objects, which are named by their positions.
pub trait Overlap: Sync {
    /// Overlap of a detection and an object, 0 to 1.
    fn of(&self, found: usize, truth: usize) -> f64;

    /// Area of a detection, square pixels.
    fn area(&self, found: usize) -> f64;

    /// Whether an object counts neither way, for another reason than being a crowd.
    fn ignores(&self, _truth: usize) -> bool {
        false
    }
}

/// Boxes as COCO compares them: with a crowd, the share of the detection that lies inside.
pub struct BoxPairs<'a> {
    /// The objects.
    pub truths: &'a [Truth],
    /// The detections.
    pub found: &'a [Detected],
}

impl Overlap for BoxPairs<'_> {
    fn of(&self, found: usize, truth: usize) -> f64 {
        let (found, truth) = (&self.found[found].bbox, &self.truths[truth]);
        if truth.crowd { found.share_inside(&truth.bbox) } else { found.iou(&truth.bbox, 0.0) }
    }

    fn area(&self, found: usize) -> f64 {
        self.found[found].bbox.area()
    }
}

/// Added to unions, square pixels, by ultralytics.
const EPS: f64 = 1e-7;

/// Boxes as ultralytics compares them.
pub(super) struct Guarded<'a> {
    pub truths: &'a [Truth],
    pub found: &'a [Detected],
}

impl Overlap for Guarded<'_> {
    fn of(&self, found: usize, truth: usize) -> f64 {
        self.found[found].bbox.iou(&self.truths[truth].bbox, EPS)
    }

    fn area(&self, found: usize) -> f64 {
        self.found[found].bbox.area()
    }
}

/// Masks: intersection over union of their pixels; with a crowd, the share of the detection that lies inside.
pub struct MaskPairs<'a> {
    /// The objects, of which only the crowds matter here.
    pub truths: &'a [Truth],
    /// The pixels of every object.
    pub truth_masks: &'a [Rle],
    /// The pixels of every detection.
    pub found_masks: &'a [Rle],
}

impl Overlap for MaskPairs<'_> {
    fn of(&self, found: usize, truth: usize) -> f64 {
        let (crowd, found, truth) = (self.truths[truth].crowd, &self.found_masks[found], &self.truth_masks[truth]);
        let both = found.intersection(truth) as f64;
        let all = if crowd { found.area() as f64 } else { (found.area() + truth.area()) as f64 - both };
        if all > 0.0 { both / all } else { 0.0 }
    }

    fn area(&self, found: usize) -> f64 {
        self.found_masks[found].area() as f64
    }
}

/// Rotated boxes: probabilistic IoU, as ultralytics compares them.
pub struct RotatedPairs<'a> {
    /// The objects.
    pub truths: &'a [Gaussian],
    /// The detections.
    pub found: &'a [Gaussian],
    /// Area of every detection.
    pub areas: &'a [f64],
}

impl Overlap for RotatedPairs<'_> {
    fn of(&self, found: usize, truth: usize) -> f64 {
        self.truths[truth].iou(&self.found[found])
    }

    fn area(&self, found: usize) -> f64 {
        self.areas[found]
    }
}

/// Which area of an object its keypoints are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoseArea {
    /// The annotated one, as COCO.
    Annotated,
    /// 0.53 times that of its box, as ultralytics.
    Box,
}

/// Keypoints: object keypoint similarity.
pub struct PosePairs<'a> {
    /// The objects.
    pub truths: &'a [Truth],
    /// The detections.
    pub found: &'a [Detected],
    /// x, y and how visible, of every keypoint of every object; 0: not labelled.
    pub truth_points: &'a [Vec<[f64; 3]>],
    /// x and y of every keypoint of every detection.
    pub found_points: &'a [Vec<[f64; 2]>],
    /// How much annotators differ, per keypoint, as a share of an object's size.
    pub sigmas: &'a [f64],
    /// What sets the scale.
    pub area: PoseArea,
}

/// The share of its box that ultralytics takes an object to fill.
const FILLED: f64 = 0.53;

impl PosePairs<'_> {
    fn labelled(&self, truth: usize) -> usize {
        self.truth_points[truth].iter().filter(|point| point[2] > 0.0).count()
    }
}

impl Overlap for PosePairs<'_> {
    fn of(&self, found: usize, truth: usize) -> f64 {
        let labelled = self.labelled(truth);
        let object = &self.truths[truth];
        let [x, y, w, h] = object.bbox.0;
        let area = match self.area {
            PoseArea::Annotated => object.area + f64::EPSILON,
            PoseArea::Box if labelled == 0 => return 0.0,
            PoseArea::Box => FILLED * w * h + EPS,
        };
        // Without labelled keypoints COCO takes any place within a box of three times the size.
        let beyond = |v: f64, low: f64, side: f64| (low - side - v).max(0.0) + (v - low - 2.0 * side).max(0.0);
        let points = self.truth_points[truth].iter().zip(&self.found_points[found]).zip(self.sigmas);
        let (mut sum, mut count) = (0.0, 0.0);
        for (([tx, ty, seen], [fx, fy]), sigma) in points {
            let [dx, dy] = match (labelled, *seen > 0.0) {
                (0, _) => [beyond(*fx, x, w), beyond(*fy, y, h)],
                (_, true) => [fx - tx, fy - ty],
                (_, false) => continue,
            };
            sum += (-(dx * dx + dy * dy) / (2.0 * (2.0 * sigma).powi(2) * area)).exp();
            count += 1.0;
        }
        if count > 0.0 { sum / count } else { 0.0 }
    }

    fn area(&self, found: usize) -> f64 {
        let points = &self.found_points[found];
        let side = |axis: usize| {
            let of = points.iter().map(|point| point[axis]);
            of.clone().fold(f64::NEG_INFINITY, f64::max) - of.fold(f64::INFINITY, f64::min)
        };
        if points.is_empty() { self.found[found].bbox.area() } else { side(0) * side(1) }
    }

    fn ignores(&self, truth: usize) -> bool {
        self.labelled(truth) == 0
    }
}
