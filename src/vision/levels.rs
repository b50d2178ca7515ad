//! The outputs of a head that finds boxes, level by level.
//!
//! The distance of each box side from the cell's centre is the mean of a distribution over bins (Li et al.,
//! "Generalized Focal Loss", NeurIPS 2020), or with a single bin a plain number, in units of the level's stride.

use super::boxes::Xyxy;
use crate::engine::Cells;
use crate::graph::{Boxes, Head};
use std::ops::Range;

/// The raw outputs of one image.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// In the graph's order, each `[C, h, w]`; where `cells` lists some, those that belong to cells are `[C, columns]`.
    pub values: &'a [&'a [f32]],
    /// The cells that there are values of; `None`: all.
    pub cells: Option<Cells<'a>>,
}

impl<'a> From<&'a [&'a [f32]]> for Outputs<'a> {
    /// All outputs, whole.
    fn from(values: &'a [&'a [f32]]) -> Self {
        Self { values, cells: None }
    }
}

/// One level of the outputs of a head that finds boxes. Its cells are told by their columns: of whole outputs the number of
/// the cell within the level, else its position among those of the level that there are values of.
pub struct Level<'a> {
    /// Its position among the levels.
    pub number: usize,
    /// Logits of the distances, `[4 * reg_max, pitch]`.
    boxes: &'a [f32],
    /// Logits of the classes, `[nc, pitch]`.
    classes: &'a [f32],
    width: usize,
    /// Cells.
    pub area: usize,
    /// Pixels per cell.
    pub stride: f32,
    reg_max: usize,
    /// Number of its first cell among those of all levels.
    pub first_cell: usize,
    /// Values from one row to the next, and where in each row those of the level are.
    pitch: usize,
    columns: Range<usize>,
    /// By column: the number of the cell among those of all levels; without, all cells have one.
    cells: Option<&'a [u32]>,
}

/// The levels of a head that finds boxes, finest first, as far as the outputs have the sizes they must have.
pub fn levels<'a>(
    head: &'a Head,
    (height, width): (usize, usize),
    outputs: impl Into<Outputs<'a>>,
) -> impl Iterator<Item = Level<'a>> {
    let none = Boxes { nc: 0, reg_max: 0, strides: &[] };
    let Boxes { nc, reg_max, strides } = head.boxes().unwrap_or(none);
    let Outputs { values, cells } = outputs.into();
    let mut first_cell = 0;
    strides.iter().zip(values.chunks_exact(2)).enumerate().filter_map(move |(number, (stride, pair))| {
        let (h, w) = (height.div_ceil(*stride), width.div_ceil(*stride));
        let pitch = cells.map_or(h * w, |cells| cells.columns);
        if pair[0].len() != 4 * reg_max * pitch || pair[1].len() != nc * pitch {
            return None;
        }
        let columns = cells.map_or(0..h * w, |Cells { numbers, .. }| {
            let before = |end: usize| numbers.partition_point(|number| (*number as usize) < end);
            before(first_cell)..before(first_cell + h * w)
        });
        let level = Level {
            number,
            boxes: pair[0],
            classes: pair[1],
            width: w,
            area: h * w,
            stride: *stride as f32,
            reg_max,
            first_cell,
            pitch,
            cells: cells.map(|cells| &cells.numbers[columns.clone()]),
            columns,
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

impl<'a> Level<'a> {
    /// How many cells there are values of.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// The number of a cell among those of all levels.
    pub fn cell(&self, column: usize) -> usize {
        self.cells.map_or(self.first_cell + column, |cells| cells[column] as usize)
    }

    /// The column of a cell by its number among those of all levels; `None` if there are no values of it.
    pub fn column(&self, cell: usize) -> Option<usize> {
        let within = cell.checked_sub(self.first_cell).filter(|within| *within < self.area)?;
        self.cells.map_or(Some(within), |cells| cells.binary_search(&u32::try_from(cell).ok()?).ok())
    }

    /// Values of the level's cells, row after row, of an output `[C, h, w]` or `[C, columns]` of the level.
    pub(super) fn rows<'b>(&self, output: &'b [f32]) -> impl Iterator<Item = &'b [f32]> + use<'b> {
        let columns = self.columns.clone();
        output.chunks_exact(self.pitch.max(1)).map(move |row| &row[columns.clone()])
    }

    /// A value of such an output.
    pub(super) fn value(&self, output: &[f32], row: usize, column: usize) -> f32 {
        output[row * self.pitch + self.columns.start + column]
    }

    /// Whether an output has so many rows.
    pub(super) fn has_rows(&self, output: &[f32], rows: usize) -> bool {
        output.len() == rows * self.pitch
    }

    /// Classes.
    pub fn classes(&self) -> usize {
        self.classes.len() / self.pitch.max(1)
    }

    /// The logits of every class, class after class.
    pub fn logits(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        self.rows(self.classes)
    }

    /// The logit of a class of a cell.
    pub fn logit(&self, class: usize, column: usize) -> f32 {
        self.value(self.classes, class, column)
    }

    /// The centre of a cell, in cells.
    pub fn centre(&self, column: usize) -> [f32; 2] {
        let cell = self.cell(column) - self.first_cell;
        [(cell % self.width) as f32 + 0.5, (cell / self.width) as f32 + 0.5]
    }

    /// The box of a cell, pixels of the network's input.
    pub fn bbox(&self, column: usize) -> Xyxy {
        let ([x, y], [left, top, right, bottom]) = (self.centre(column), self.distances(column));
        Xyxy([x - left, y - top, x + right, y + bottom]).map(|v| v * self.stride)
    }

    /// Distances from the centre of a cell to the sides, left, top, right, bottom, in cells.
    pub fn distances(&self, column: usize) -> [f32; 4] {
        [0, 1, 2, 3].map(|side: usize| {
            if self.reg_max == 1 {
                return self.value(self.boxes, side, column);
            }
            let bin = |b: usize| self.value(self.boxes, side * self.reg_max + b, column);
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

#[cfg(test)]
mod tests;
