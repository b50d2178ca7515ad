//! What tasks add to a box: masks, keypoints, a rotation.

use super::boxes::Rotated;
use super::levels::{Level, Outputs, sigmoid};
use crate::graph::Head;
use std::f32::consts::PI;

/// What a task knows about an object beyond its box, in pixels of the network's input.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Extra {
    /// Nothing.
    #[default]
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
    pub(super) fn of(head: &Head, level: &Level, outputs: Outputs, column: usize) -> Self {
        Self::None.turned_into(head, level, outputs, column)
    }

    /// As [`Extra::of`], in the memory of another one of the same kind.
    pub(super) fn turned_into(self, head: &Head, level: &Level, outputs: Outputs, column: usize) -> Self {
        let Some(boxes) = head.boxes() else { return Self::None };
        let rows = head.extra();
        let output = outputs.values.get(2 * boxes.strides.len() + level.number).filter(|o| level.has_rows(o, rows));
        let Some(output) = output else { return Self::None };
        // Without a distribution the head gives plain numbers.
        let plain = boxes.reg_max == 1;
        let value = |row: usize| level.value(output, row, column);
        let [x, y] = level.centre(column);
        match head.branch() {
            Head::Detect { .. } | Head::Classify { .. } | Head::EndToEnd { .. } => Self::None,
            Head::Segment { .. } => {
                let mut values = if let Self::Coefficients(values) = self { values } else { Vec::new() };
                values.clear();
                values.extend((0..rows).map(value));
                Self::Coefficients(values)
            }
            Head::Pose { keypoints, dims, .. } => {
                let point = |k: usize| {
                    let place = |axis: usize, centre: f32| match value(k * dims + axis) {
                        offset if plain => (offset + centre) * level.stride,
                        offset => (2.0 * offset + centre - 0.5) * level.stride,
                    };
                    let visible = if *dims == 3 { sigmoid(value(k * dims + 2)) } else { 1.0 };
                    [place(0, x), place(1, y), visible]
                };
                let mut points = if let Self::Keypoints(points, _) = self { points } else { Vec::new() };
                points.clear();
                points.extend((0..*keypoints).map(point));
                Self::Keypoints(points, *dims)
            }
            Head::Obb { .. } => {
                let angle = if plain { value(0) } else { (sigmoid(value(0)) - 0.25) * PI };
                let ([left, top, right, bottom], (sin, cos)) = (level.distances(column), angle.sin_cos());
                let (along, down) = ((right - left) / 2.0, (bottom - top) / 2.0);
                let centre = [x + along * cos - down * sin, y + along * sin + down * cos].map(|v| v * level.stride);
                let size = [left + right, top + bottom].map(|v| v * level.stride);
                Self::Rotated(Rotated { centre, size, angle })
            }
        }
    }
}
