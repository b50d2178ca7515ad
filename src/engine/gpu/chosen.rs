//! What a detection reads of the outputs: those of cells that have a class above a threshold, which the device finds and
//! puts into a table, and what belongs to no cell, such as the prototypes of masks. All outputs of an image of 640 px are more than
//! ten times as much to copy.
//!
//! The outputs lie in the device's memory so that a frame copies either all of them, or what follows those of cells:
//!
//! ```text
//! | outputs of cells | other outputs | table | bits | threshold |
//! |---------- all outputs ----------|
//!                    |- of chosen cells -----|
//! ```
//!
//! A table has a fixed number of columns. An image with more cells above the threshold gives all outputs.

use super::super::compile::Slot;
use super::super::{Cells, Options};
use super::Planned;
use crate::graph::{Graph, Head, NodeId, Shape};
use crate::kernels::cuda::{CellPlanes, CellTable, MAX_CHOSEN, MAX_LEVELS};
use std::ops::Range;

/// There are at least so many cells to a column of the table: what is copied is then less than all outputs.
const CELLS_PER_COLUMN: usize = 4;

/// The table of the chosen cells, and how the outputs lie.
pub(super) struct Chosen {
    /// The last output.
    node: NodeId,
    /// By slot: its rows of the table; none of what belongs to no cell.
    rows: Vec<Option<Range<usize>>>,
    /// By level: first values of its outputs, and its cells.
    levels: Vec<([usize; 3], usize)>,
    /// Planes of boxes, of classes, and of what the task adds.
    planes: [usize; 3],
    columns: usize,
    /// The first value of what belongs to no cell, and the value after all outputs.
    others: Range<usize>,
}

impl Chosen {
    /// Lays out the slots anew, so that those of cells come first. `None` where all outputs are always given: of classifiers
    /// and end-to-end heads, whose best cells follow from all of them, to callers that read or give other tensors, and where
    /// there are a few cells only.
    pub fn arrange(
        graph: &Graph,
        (height, width): (usize, usize),
        options: &Options,
        slots: &mut [Slot],
    ) -> Option<Self> {
        let Options { keep, given, .. } = options;
        if !keep.is_empty() || !given.is_empty() || matches!(graph.head, Head::EndToEnd { .. }) {
            return None;
        }
        let boxes = graph.head.boxes().filter(|boxes| boxes.nc > 0 && boxes.strides.len() <= MAX_LEVELS)?;
        let (count, planes) = (boxes.strides.len(), [4 * boxes.reg_max, boxes.nc, graph.head.extra()]);
        let mut rows = vec![None; slots.len()];
        let mut of_levels = Vec::with_capacity(count);
        for (level, stride) in boxes.strides.iter().enumerate() {
            let (h, w) = (height.div_ceil(*stride), width.div_ceil(*stride));
            let mut own = [None; 3];
            let numbers = [2 * level, 2 * level + 1, 2 * count + level];
            for (which, number) in numbers.into_iter().enumerate().filter(|(which, _)| planes[*which] > 0) {
                let node = graph.outputs.get(number)?;
                let slot = slots.iter().position(|slot| slot.node == *node)?;
                let first: usize = planes[..which].iter().sum();
                let is_new = rows[slot].replace(first..first + planes[which]).is_none();
                if !is_new || slots[slot].shape != (Shape { c: planes[which], h, w }) {
                    return None;
                }
                own[which] = Some(slot);
            }
            of_levels.push((own, h * w));
        }
        let cells: usize = of_levels.iter().map(|(_, area)| area).sum();
        let columns = (cells / CELLS_PER_COLUMN).min(MAX_CHOSEN);
        if columns == 0 {
            return None;
        }
        let mut lay_out = |mut end: usize, belongs: bool| {
            for (slot, _) in slots.iter_mut().zip(&rows).filter(|(_, rows)| rows.is_some() == belongs) {
                slot.offset = end;
                end = slot.end();
            }
            end
        };
        let first = lay_out(0, true);
        let others = first..lay_out(first, false);
        let offset = |slot: Option<usize>| slot.map_or(0, |slot| slots[slot].offset);
        let levels = of_levels.into_iter().map(|(own, area)| (own.map(offset), area)).collect();
        Some(Self { node: *graph.outputs.last()?, rows, levels, planes, columns, others })
    }

    /// The table for outputs that begin at a value of the memory.
    fn table(&self, outputs_at: usize) -> CellTable {
        let level = |(offsets, area): &([usize; 3], usize)| CellPlanes {
            at: offsets.map(|offset| 4 * (outputs_at + offset)),
            area: *area,
        };
        let levels = self.levels.iter().map(level).collect();
        let at = 4 * (outputs_at + self.others.end);
        let mut table = CellTable { levels, planes: self.planes, columns: self.columns, least: 0, bits: 0, table: at };
        table.bits = at + 4 * table.table_len();
        table.least = table.bits + 4 * table.bits_len();
        table
    }

    /// Values of table, bits and threshold.
    pub fn len(&self) -> usize {
        let table = self.table(0);
        table.table_len() + table.bits_len() + 1
    }

    /// Where the threshold lies, for outputs that begin at a value of the memory.
    pub fn least_at(&self, outputs_at: usize) -> usize {
        self.table(outputs_at).least / 4
    }

    /// What a frame copies: first value, and how many.
    pub fn results(&self, outputs_at: usize) -> (usize, usize) {
        (outputs_at + self.others.start, self.others.len() + self.table(outputs_at).table_len())
    }

    /// The launches after those of the network.
    pub fn launches(&self, outputs_at: usize) -> [Planned; 2] {
        let table = self.table(outputs_at);
        [("find-cells", table.find()), ("take-cells", table.take())].map(|(name, launch)| Planned {
            node: self.node,
            name,
            launch,
        })
    }

    /// How many cells of an image passed, of its results; `None` if more than the table has room for.
    pub fn count(&self, results: &[f32]) -> Option<usize> {
        let count = results[self.others.len()].to_bits() as usize;
        (count <= self.columns).then_some(count)
    }

    /// The first `count` cells of the table.
    pub fn cells<'a>(&self, results: &'a [f32], count: usize) -> Cells<'a> {
        let first = self.others.len() + 1;
        Cells { numbers: bytemuck::cast_slice(&results[first..first + count]), columns: self.columns }
    }

    /// An output, `[C, columns]` or, where it belongs to no cell, `[C, h, w]`.
    pub fn output<'a>(&self, results: &'a [f32], slots: &[Slot], slot: usize) -> &'a [f32] {
        let Some(rows) = &self.rows[slot] else {
            let Range { start, end } = slots[slot].range();
            return &results[start - self.others.start..end - self.others.start];
        };
        let values = &results[self.others.len() + 1 + self.columns..];
        &values[rows.start * self.columns..rows.end * self.columns]
    }
}
