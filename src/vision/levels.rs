//! The outputs of a head that finds boxes, level by level.
//!
//! The distance of each box side from the cell's centre is the mean of a distribution over bins (Li et al.,
//! "Generalized Focal Loss", NeurIPS 2020), or with a single bin a plain number, in units of the level's stride.

use super::boxes::Xyxy;
use crate::graph::{Boxes, Head};

/// One level of the outputs of a head that finds boxes.
pub struct Level<'a> {
    /// Its position among the levels.
    pub number: usize,
    /// Logits of the distances, `[4 * reg_max, cells]`.
    boxes: &'a [f32],
    /// Logits of the classes, `[nc, cells]`.
    pub classes: &'a [f32],
    width: usize,
    /// Cells.
    pub area: usize,
    /// Pixels per cell.
    pub stride: f32,
    reg_max: usize,
    /// Number of its first cell among those of all levels.
    pub first_cell: usize,
}

/// The levels of a head that finds boxes, finest first, as far as the outputs have the sizes they must have.
pub fn levels<'a>(
    head: &'a Head,
    (height, width): (usize, usize),
    outputs: &'a [&'a [f32]],
) -> impl Iterator<Item = Level<'a>> {
    let none = Boxes { nc: 0, reg_max: 0, strides: &[] };
    let Boxes { nc, reg_max, strides } = head.boxes().unwrap_or(none);
    let mut first_cell = 0;
    strides.iter().zip(outputs.chunks_exact(2)).enumerate().filter_map(move |(number, (stride, pair))| {
        let (h, w) = (height.div_ceil(*stride), width.div_ceil(*stride));
        if pair[0].len() != 4 * reg_max * h * w || pair[1].len() != nc * h * w {
            return None;
        }
        let level = Level {
            number,
            boxes: pair[0],
            classes: pair[1],
            width: w,
            area: h * w,
            stride: *stride as f32,
            reg_max,
            first_cell,
        };
        first_cell += h * w;
        Some(level)
    })
}

/// Cells of all levels.
pub(super) fn cells(head: &Head, (height, width): (usize, usize)) -> usize {
    let strides = head.boxes().map_or(&[][..], |boxes| boxes.strides);
    strides.iter().map(|stride| height.div_ceil(*stride) * width.div_ceil(*stride)).sum()
}

impl Level<'_> {
    /// The centre of a cell, in cells.
    pub fn centre(&self, cell: usize) -> [f32; 2] {
        [(cell % self.width) as f32 + 0.5, (cell / self.width) as f32 + 0.5]
    }

    /// The box of a cell, pixels of the network's input.
    pub fn bbox(&self, cell: usize) -> Xyxy {
        let ([x, y], [left, top, right, bottom]) = (self.centre(cell), self.distances(cell));
        Xyxy([x - left, y - top, x + right, y + bottom]).map(|v| v * self.stride)
    }

    /// Distances from the centre of a cell to the sides, left, top, right, bottom, in cells.
    pub fn distances(&self, cell: usize) -> [f32; 4] {
        [0, 1, 2, 3].map(|side: usize| {
            if self.reg_max == 1 {
                return self.boxes[side * self.area + cell];
            }
            let bin = |b: usize| self.boxes[(side * self.reg_max + b) * self.area + cell];
            let top = (0..self.reg_max).map(bin).fold(f32::MIN, f32::max);
            let (mut sum, mut mean) = (0.0, 0.0);
            for b in 0..self.reg_max {
                let e = (bin(b) - top).exp();
                sum += e;
                mean += e * b as f32;
            }
            mean / sum
        })
    }
}

pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
