//! What tasks add to a box: masks, keypoints, a rotation.

use super::decode::{Level, levels, sigmoid};
use super::{Candidate, Candidates, Detection, NmsOptions, decode, nms};
use crate::graph::Head;
use serde::Serialize;
use std::f32::consts::PI;

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
    /// The corners, in turn.
    pub fn corners(&self) -> [[f32; 2]; 4] {
        let (sin, cos) = self.angle.sin_cos();
        [[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]].map(|[u, v]: [f32; 2]| {
            let (x, y) = (u * self.size[0], v * self.size[1]);
            [self.centre[0] + x * cos - y * sin, self.centre[1] + x * sin + y * cos]
        })
    }

    /// The upright box around it: left, top, right, bottom.
    pub fn hull(&self) -> [f32; 4] {
        let corners = self.corners();
        let least = |axis: usize| corners.iter().map(|c| c[axis]).fold(f32::INFINITY, f32::min);
        let most = |axis: usize| corners.iter().map(|c| c[axis]).fold(f32::NEG_INFINITY, f32::max);
        [least(0), least(1), most(0), most(1)]
    }

    /// Overlap of two rotated boxes, 0 to 1, as that of normal distributions with their centres and extents
    /// (Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union", 2021).
    pub fn overlap(&self, other: &Self) -> f32 {
        let covariance = |r: &Self| {
            let (sin, cos) = f64::from(r.angle).sin_cos();
            let [a, b] = r.size.map(|side| f64::from(side).powi(2) / 12.0);
            [a * cos * cos + b * sin * sin, a * sin * sin + b * cos * cos, (a - b) * sin * cos]
        };
        let determinant = |[a, b, c]: [f64; 3]| (a * b - c * c).max(0.0);
        let (p, q) = (covariance(self), covariance(other));
        let mean: [f64; 3] = std::array::from_fn(|i| (p[i] + q[i]) / 2.0);
        let [dx, dy] = [0, 1].map(|i| f64::from(self.centre[i] - other.centre[i]));
        let det = determinant(mean).max(1e-12);
        let apart = (mean[1] * dx * dx - 2.0 * mean[2] * dx * dy + mean[0] * dy * dy) / det / 8.0;
        let unlike = (det / (determinant(p) * determinant(q)).sqrt().max(1e-12)).ln().max(0.0) / 2.0;
        (1.0 - (1.0 - (-(apart + unlike)).exp()).max(0.0).sqrt()) as f32
    }
}

/// What a task knows about an object beyond its box, in pixels of the network's input.
#[derive(Clone, Debug, PartialEq)]
pub enum Extra {
    /// Nothing.
    None,
    /// The weights of the mask prototypes.
    Coefficients(Vec<f32>),
    /// x, y and the probability of being visible of every keypoint (1 where the head does not tell), and how many of
    /// the three values the head gives.
    Keypoints(Vec<[f32; 3]>, usize),
    /// The rotated box.
    Rotated(Rotated),
}

impl Extra {
    /// That of one cell of a level; nothing where an output is missing or of the wrong size.
    pub(super) fn of(head: &Head, level: &Level, outputs: &[&[f32]], cell: usize) -> Self {
        let Some(boxes) = head.boxes() else { return Self::None };
        let rows = head.extra();
        let output = outputs.get(2 * boxes.strides.len() + level.number).filter(|o| o.len() == rows * level.area);
        let Some(output) = output else { return Self::None };
        let value = |row: usize| output[row * level.area + cell];
        let [x, y] = level.centre(cell);
        match head {
            Head::Detect { .. } | Head::Classify { .. } => Self::None,
            Head::Segment { .. } => Self::Coefficients((0..rows).map(value).collect()),
            Head::Pose { keypoints, dims, .. } => {
                let point = |k: usize| {
                    let place = |axis: usize, centre: f32| (2.0 * value(k * dims + axis) + centre - 0.5) * level.stride;
                    let visible = if *dims == 3 { sigmoid(value(k * dims + 2)) } else { 1.0 };
                    [place(0, x), place(1, y), visible]
                };
                Self::Keypoints((0..*keypoints).map(point).collect(), *dims)
            }
            Head::Obb { .. } => {
                let angle = (sigmoid(value(0)) - 0.25) * PI;
                let ([left, top, right, bottom], (sin, cos)) = (level.distances(cell), angle.sin_cos());
                let (along, down) = ((right - left) / 2.0, (bottom - top) / 2.0);
                let centre = [x + along * cos - down * sin, y + along * sin + down * cos].map(|v| v * level.stride);
                let size = [left + right, top + bottom].map(|v| v * level.stride);
                Self::Rotated(Rotated { centre, size, angle })
            }
        }
    }
}

/// Objects in pixels of the network's input, best first: the boxes that stay, and what the task adds to each. The box of
/// a rotated object is the upright one around it.
pub fn find(head: &Head, size: (usize, usize), outputs: &[&[f32]], options: &NmsOptions) -> Vec<(Detection, Extra)> {
    let wanted = Candidates { score: options.score, multi_label: options.multi_label };
    let candidates = decode(head, size, outputs, &wanted);
    let levels = levels(head, size, outputs);
    let extra = |candidate: &Candidate| {
        let level = levels.iter().rfind(|level| level.first_cell <= candidate.cell);
        level.map_or(Extra::None, |level| Extra::of(head, level, outputs, candidate.cell - level.first_cell))
    };
    if matches!(head, Head::Obb { .. }) {
        return turned(candidates, &extra, options);
    }
    nms(candidates, options).iter().map(|kept| (kept.detection, extra(kept))).collect()
}

/// Suppression of rotated boxes by their own overlap.
fn turned(
    mut candidates: Vec<Candidate>,
    extra: &dyn Fn(&Candidate) -> Extra,
    options: &NmsOptions,
) -> Vec<(Detection, Extra)> {
    candidates.sort_by(|a, b| b.detection.score.total_cmp(&a.detection.score));
    let mut kept: Vec<(Detection, Rotated)> = Vec::new();
    for candidate in candidates {
        if kept.len() >= options.max_det {
            break;
        }
        let Extra::Rotated(bbox) = extra(&candidate) else { continue };
        let detection = Detection { bbox: bbox.hull(), ..candidate.detection };
        let rival = |better: &Detection| options.agnostic || better.class == detection.class;
        if kept.iter().all(|(better, its)| !rival(better) || its.overlap(&bbox) <= options.iou) {
            kept.push((detection, bbox));
        }
    }
    kept.into_iter().map(|(detection, bbox)| (detection, Extra::Rotated(bbox))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(bbox.hull().iter().zip([9.0, 18.0, 11.0, 22.0]).all(|(a, b)| near(*a, b)), "{:?}", bbox.hull());
        assert!(near(bbox.corners()[0][0], 11.0) && near(bbox.corners()[0][1], 18.0), "{:?}", bbox.corners());
    }
}
