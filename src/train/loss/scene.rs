//! An image as the assignment sees it: which cells lie inside an object, and how well their predictions overlap it.

use super::batch::{Batch, Convention, Level, Shapes, Task, Truth};
use super::{boxes, keypoints, masks, rotated};
use std::collections::BTreeMap;

/// Objects count as at least this wide and high, in pixels, when cells are looked for inside them.
const MIN_SIDE: f64 = 16.0;
/// The margin of the inside test.
const EPS: f64 = 1e-9;
/// Mask overlaps are computed for this many times the cells that an object may take.
const MASK_CANDIDATES: usize = 3;
/// YOLO26's pose: a level answers for objects whose longer side has this many of its cells.
const POSE_CELLS: [f64; 2] = [2.0, 12.0];

/// One image: outputs, objects, and the boxes that were decoded so far.
pub(super) struct Scene<'a> {
    pub batch: &'a Batch<'a>,
    pub image: usize,
    pub levels: Vec<Level<'a>>,
    pub truths: &'a [Truth],
    /// By cell, pixels: corners, or centre, size and angle.
    decoded: BTreeMap<usize, [f64; 5]>,
}

impl<'a> Scene<'a> {
    pub fn new(batch: &'a Batch<'a>, image: usize, truths: &'a [Truth]) -> Self {
        Self { batch, image, levels: batch.levels(image), truths, decoded: BTreeMap::new() }
    }

    /// The cells (level, cell) with their centre inside an object, in order.
    pub fn inside(&self, object: usize) -> Vec<(usize, usize)> {
        let truth = &self.truths[object];
        let [cx, cy, w, h, angle] = truth.turned();
        let half = [w, h].map(|side| side.max(MIN_SIDE) / 2.0);
        let (sin, cos) = angle.sin_cos();
        let reach = [half[0] * cos.abs() + half[1] * sin.abs(), half[0] * sin.abs() + half[1] * cos.abs()];
        let mut cells = Vec::new();
        for (number, level) in self.levels.iter().enumerate().filter(|(_, level)| self.answers(level, truth)) {
            // Rows and columns whose centres may be inside; the exact test follows.
            let range = |centre: f64, reach: f64, side: usize| {
                let at = |v: f64| (v / level.stride).floor().clamp(0.0, side as f64) as usize;
                at(centre - reach - level.stride)..at(centre + reach + level.stride).saturating_add(1).min(side)
            };
            for row in range(cy, reach[1], level.h) {
                for column in range(cx, reach[0], level.w) {
                    let cell = row * level.w + column;
                    let [dx, dy] = {
                        let [x, y] = level.centre(cell).map(|v| v * level.stride);
                        [x - cx, y - cy]
                    };
                    let (along, across) = (dx * cos + dy * sin, dy * cos - dx * sin);
                    if (half[0] - along.abs()).min(half[1] - across.abs()) > EPS {
                        cells.push((number, cell));
                    }
                }
            }
        }
        cells
    }

    /// Whether a level answers for objects of this size.
    fn answers(&self, level: &Level<'_>, truth: &Truth) -> bool {
        let branch = self.batch.branch;
        if !matches!(branch.task, Task::Pose { .. }) || branch.convention != Convention::Direct {
            return true;
        }
        let [w, h] = truth.size();
        let cells = w.max(h) / level.stride;
        (POSE_CELLS[0]..=POSE_CELLS[1]).contains(&cells)
    }

    /// The box that a cell predicts, pixels.
    fn decoded(&mut self, number: usize, cell: usize) -> [f64; 5] {
        let (level, branch) = (&self.levels[number], self.batch.branch);
        *self.decoded.entry(level.first + cell).or_insert_with(|| match branch.task {
            Task::Obb => {
                let [x, y, w, h, angle] = rotated::decode(level, cell, branch).bbox;
                [x * level.stride, y * level.stride, w * level.stride, h * level.stride, angle]
            }
            _ => {
                let [x1, y1, x2, y2] = boxes::decode(level, cell, branch.reg_max).map(|v| v * level.stride);
                [x1, y1, x2, y2, 0.0]
            }
        })
    }

    /// How much the predictions of cells overlap an object, 0 to 1.
    pub fn overlaps(&mut self, object: usize, cells: &[(usize, usize)]) -> Vec<f64> {
        let truth = self.truths[object];
        let (batch, branch) = (self.batch, self.batch.branch);
        match (branch.task, branch.convention, batch.shapes) {
            (Task::Obb, ..) => {
                let overlap = |(level, cell): &(usize, usize)| {
                    rotated::overlap(self.decoded(*level, *cell), truth.turned(), 0.0).max(0.0)
                };
                cells.iter().map(overlap).collect()
            }
            (Task::Pose { dims, .. }, Convention::Direct, Shapes::Keypoints(points)) => {
                let points = keypoints::in_pixels(&points[truth.label], batch.size());
                let overlap = |(level, cell): &(usize, usize)| {
                    keypoints::similarity(&self.levels[*level], *cell, dims, &points, truth.size())
                };
                cells.iter().map(overlap).collect()
            }
            (Task::Segment { .. }, Convention::Direct, Shapes::Masks(_)) => self.mask_overlaps(object, cells),
            _ => self.box_overlaps(&truth, cells),
        }
    }

    fn box_overlaps(&mut self, truth: &Truth, cells: &[(usize, usize)]) -> Vec<f64> {
        let mut overlap = |(level, cell): &(usize, usize)| {
            let [x1, y1, x2, y2, _] = self.decoded(*level, *cell);
            boxes::ciou([x1, y1, x2, y2], truth.bbox).max(0.0)
        };
        cells.iter().map(&mut overlap).collect()
    }

    /// Means of the overlaps of boxes and of masks; the latter count as 0 where many boxes fit better.
    fn mask_overlaps(&mut self, object: usize, cells: &[(usize, usize)]) -> Vec<f64> {
        let truth = self.truths[object];
        let boxes = self.box_overlaps(&truth, cells);
        let mut order: Vec<usize> = (0..cells.len()).collect();
        order.sort_by(|a, b| boxes[*b].total_cmp(&boxes[*a]));
        let mut overlaps: Vec<f64> = boxes.iter().map(|overlap| overlap / 2.0).collect();
        for at in order.into_iter().take(MASK_CANDIDATES * self.batch.branch.top) {
            let (number, cell) = cells[at];
            let [x1, y1, x2, y2, _] = self.decoded(number, cell);
            let target = masks::Plane::of(self.batch, self.image, object, truth.label);
            let level = &self.levels[number];
            overlaps[at] += masks::overlap(self.batch, self.image, (level, cell), [x1, y1, x2, y2], &target) / 2.0;
        }
        overlaps
    }
}
