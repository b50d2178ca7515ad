//! Boxes in images, by the convention that their type names, and how much two of them overlap.

use super::gaussian::Gaussian;
use serde::{Deserialize, Serialize};

/// Left, top, right, bottom in pixels. Serialises as an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Xyxy(pub [f32; 4]);

impl Xyxy {
    /// Applies a function to every side.
    pub fn map(self, f: impl FnMut(f32) -> f32) -> Self {
        Self(self.0.map(f))
    }

    /// Whether every side is a finite number.
    pub fn is_finite(&self) -> bool {
        self.0.iter().all(|side| side.is_finite())
    }

    /// Square pixels.
    pub fn area(&self) -> f32 {
        let [left, top, right, bottom] = self.0;
        (right - left) * (bottom - top)
    }

    /// Intersection over union, 0 to 1; 0 where both boxes are empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let (a, b) = (&self.0, &other.0);
        let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
        let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
        let both = width * height;
        let union = self.area() + other.area() - both;
        if union > 0.0 { both / union } else { 0.0 }
    }
}

/// Left, top, width, height in pixels, as in COCO's annotations. Serialises as an array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Xywh(pub [f64; 4]);

impl From<Xyxy> for Xywh {
    fn from(bbox: Xyxy) -> Self {
        let [left, top, right, bottom] = bbox.0.map(f64::from);
        Self([left, top, right - left, bottom - top])
    }
}

impl Xywh {
    /// Square pixels.
    pub fn area(&self) -> f64 {
        self.0[2] * self.0[3]
    }

    /// Area of the intersection of two boxes, square pixels.
    pub fn intersection(&self, other: &Self) -> f64 {
        let (a, b) = (&self.0, &other.0);
        let side = |i: usize| (a[i] + a[i + 2]).min(b[i] + b[i + 2]) - a[i].max(b[i]);
        side(0).max(0.0) * side(1).max(0.0)
    }

    /// Intersection over union, 0 to 1. `epsilon` square pixels are added to the union (ultralytics: 1e-7, COCO: none);
    /// without them, two empty boxes give no number (NaN).
    pub fn iou(&self, other: &Self, epsilon: f64) -> f64 {
        let both = self.intersection(other);
        both / (self.area() + other.area() - both + epsilon)
    }

    /// Share of the box that lies inside a region, 0 to 1: COCO's overlap with a crowd.
    pub fn share_inside(&self, region: &Self) -> f64 {
        self.intersection(region) / self.area()
    }
}

/// Centre x, centre y, width, height as shares of the image, as in YOLO's label files (ultralytics: `xywhn`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NormalisedXywh(pub [f32; 4]);

impl NormalisedXywh {
    /// The box in an image of this width and height, pixels.
    pub fn to_pixels(&self, [width, height]: [f64; 2]) -> Xywh {
        let [cx, cy, w, h] = self.0.map(f64::from);
        Xywh([(cx - w / 2.0) * width, (cy - h / 2.0) * height, w * width, h * height])
    }

    /// The box in the image mirrored left to right.
    pub fn mirrored(&self) -> Self {
        let [cx, cy, w, h] = self.0;
        Self([1.0 - cx, cy, w, h])
    }
}

/// A box turned around its centre.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rotated {
    /// x and y in pixels.
    pub centre: [f32; 2],
    /// Width and height before the turn, pixels.
    pub size: [f32; 2],
    /// Clockwise on the screen, radians, in -pi/4 to 3 pi/4.
    pub angle: f32,
}

impl Rotated {
    /// The corners, clockwise.
    pub fn corners(&self) -> [[f32; 2]; 4] {
        let (sin, cos) = self.angle.sin_cos();
        [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]].map(|[u, v]: [f32; 2]| {
            let (x, y) = (u * self.size[0], v * self.size[1]);
            [self.centre[0] + x * cos - y * sin, self.centre[1] + x * sin + y * cos]
        })
    }

    /// The upright box around it.
    pub fn hull(&self) -> Xyxy {
        let corners = self.corners();
        let least = |axis: usize| corners.iter().map(|c| c[axis]).fold(f32::INFINITY, f32::min);
        let most = |axis: usize| corners.iter().map(|c| c[axis]).fold(f32::NEG_INFINITY, f32::max);
        Xyxy([least(0), least(1), most(0), most(1)])
    }

    /// Its normal distribution, in pixels.
    pub fn gaussian(&self) -> Gaussian {
        Gaussian::new(self.centre.map(f64::from), self.size.map(f64::from), f64::from(self.angle))
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        [self.centre, self.size].iter().flatten().chain([&self.angle]).all(|v| v.is_finite())
    }

    /// Overlap of two rotated boxes, 0 to 1: [`Gaussian::iou`].
    pub fn overlap(&self, other: &Self) -> f32 {
        self.gaussian().iou(&other.gaussian()) as f32
    }
}

/// An object found in an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Class number.
    pub class: usize,
    /// Confidence, 0 to 1.
    pub score: f32,
    /// Where it is, pixels.
    pub bbox: Xyxy,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::PI;

    #[test]
    fn overlaps_of_rotated_boxes() {
        let bbox = |x: f32, w: f32, h: f32, angle: f32| Rotated { centre: [x, 5.0], size: [w, h], angle };
        let one = bbox(3.0, 4.0, 2.0, 0.3);
        assert!((one.overlap(&one) - 1.0).abs() < 1e-3);
        // A half turn and a quarter turn with swapped sides change nothing.
        assert!((one.overlap(&bbox(3.0, 4.0, 2.0, 0.3 + PI)) - 1.0).abs() < 1e-3);
        assert!((one.overlap(&bbox(3.0, 2.0, 4.0, 0.3 + PI / 2.0)) - 1.0).abs() < 1e-3);
        assert!(one.overlap(&bbox(300.0, 4.0, 2.0, 0.3)) < 1e-3);
        let nearer = one.overlap(&bbox(3.5, 4.0, 2.0, 0.3));
        assert!(nearer > one.overlap(&bbox(4.5, 4.0, 2.0, 0.3)) && nearer < 0.95, "{nearer}");
    }

    #[test]
    fn corners_turn_around_the_centre() {
        let bbox = Rotated { centre: [10.0, 20.0], size: [4.0, 2.0], angle: PI / 2.0 };
        let near = |a: f32, b: f32| (a - b).abs() < 1e-4;
        assert!(bbox.hull().0.iter().zip([9.0, 18.0, 11.0, 22.0]).all(|(a, b)| near(*a, b)), "{:?}", bbox.hull());
        assert!(near(bbox.corners()[0][0], 11.0) && near(bbox.corners()[0][1], 18.0), "{:?}", bbox.corners());
    }
}
