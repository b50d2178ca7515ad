//! Launches of the kernels that take from a network's outputs what a detection reads of them: of the cells that have a class
//! above a threshold, one after the other in a table.

use super::arguments::{CellArguments, CellLevel, KernelArguments, MAX_LEVELS, Region, count, int};
use super::kernel::{CellKernel, Kernel};
use super::launch::{Launch, regions};

/// Cells of a table, at most: with 80 classes and 16 bins a side it has 297 kB, a sixteenth of the outputs for an image of
/// 640 px. YOLO11n has 233 above a score of 0.25 at most, on 234 photos of COCO, and 30 in the middle.
pub const MAX_CHOSEN: usize = 512;

/// Rows of the table that a block takes, as `cells.h` has it.
const TAKEN_ROWS: i64 = 8;

/// Cells of a word of bits.
const WORD: usize = 32;

/// The outputs of one level of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellPlanes {
    /// First bytes of its outputs: boxes, classes, and what the task adds (any, where that has no planes). Each is planes of
    /// f32, one after the other.
    pub at: [usize; 3],
    /// Its cells.
    pub area: usize,
}

/// A table of chosen cells. Positions count bytes; all are multiples of 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellTable {
    /// Finest level first; at most [`MAX_LEVELS`].
    pub levels: Vec<CellPlanes>,
    /// Planes of the three outputs of a level.
    pub planes: [usize; 3],
    /// Columns: the cells that it has room for, at most [`MAX_CHOSEN`].
    pub columns: usize,
    /// Where the threshold lies, an f32 that a class must be above.
    pub least: usize,
    /// Working space of [`CellTable::bits_len`] values.
    pub bits: usize,
    /// The table, [`CellTable::table_len`] values: how many cells pass, as an integer; if there are no more than columns their
    /// numbers, `[columns]`, ascending, and their values, `[planes of all three outputs, columns]`. What lies behind the last
    /// cell of a row is not defined.
    pub table: usize,
}

impl CellTable {
    /// Cells of all levels.
    pub fn cells(&self) -> usize {
        self.levels.iter().map(|level| level.area).sum()
    }

    /// Rows of values.
    pub fn rows(&self) -> usize {
        self.planes.iter().sum()
    }

    /// Values of the table.
    pub fn table_len(&self) -> usize {
        1 + self.columns * (1 + self.rows())
    }

    /// Values of the working space.
    pub fn bits_len(&self) -> usize {
        self.cells().div_ceil(WORD)
    }

    fn arguments(&self) -> CellArguments {
        assert!(self.levels.len() <= MAX_LEVELS && self.columns <= MAX_CHOSEN, "{self:?}");
        let byte = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
        let mut arguments = CellArguments {
            least: byte(self.least),
            found: byte(self.bits),
            table: byte(self.table),
            count: int(self.levels.len()),
            cells: int(self.cells()),
            most: int(self.columns),
            ..CellArguments::default()
        };
        [arguments.boxes, arguments.classes, arguments.extra] = self.planes.map(int);
        let mut first = 0;
        for (to, level) in arguments.levels.iter_mut().zip(&self.levels) {
            let [boxes, classes, extra] = level.at.map(byte);
            *to = CellLevel { boxes, classes, extra, first: int(first), area: int(level.area) };
            first += level.area;
        }
        arguments
    }

    /// The bytes of an output of every level.
    fn outputs(&self, which: usize) -> impl Iterator<Item = Region> {
        let planes = self.planes[which];
        self.levels.iter().map(move |level| values(level.at[which], planes.saturating_mul(level.area)))
    }

    fn launch(&self, kernel: CellKernel, blocks: u32, reads: &[Region], write: Region) -> Launch {
        let all = (0..3).flat_map(|which| self.outputs(which));
        let own = [(self.least, 1), (self.bits, self.bits_len()), (self.table, self.table_len())];
        let ends = all.chain(own.map(|(at, len)| values(at, len))).map(|region| region.end());
        // Beyond all memory where the kernels cannot count so far.
        let end = if self.cells() < 1 << 30 { ends.max().unwrap_or(0) } else { i64::MAX };
        Launch {
            kernel: Kernel::Cells(kernel),
            grid: [blocks, 1, 1],
            shared: 0,
            arguments: KernelArguments::Cells(self.arguments()),
            reads: regions(reads),
            writes: regions(&[write]),
            end,
        }
    }

    /// Finds the cells that have a class above the threshold.
    ///
    /// # Panics
    /// If there are more levels or columns than a table can have: a mistake of the caller. So it is with the next.
    pub fn find(&self) -> Launch {
        let classes: Vec<Region> = self.outputs(1).collect();
        let bits = values(self.bits, self.bits_len());
        self.launch(CellKernel::Find, count(self.cells() as i64, WORD as i64), &classes, bits)
    }

    /// Puts those that were found into the table.
    pub fn take(&self) -> Launch {
        // Of levels that lie side by side one region, of others several: all from the first to the last.
        let all = || (0..3).flat_map(|which| self.outputs(which)).filter(|region| region.width > 0);
        let [first, end] = [all().map(|region| region.at).min(), all().map(|region| region.end()).max()];
        let width = end.unwrap_or(0) - first.unwrap_or(0);
        let outputs = Region { at: first.unwrap_or(0), pitch: width, width, rows: 1 };
        let reads = [outputs, values(self.bits, self.bits_len())];
        let blocks = count(self.rows() as i64, TAKEN_ROWS);
        self.launch(CellKernel::Take, blocks, &reads, values(self.table, self.table_len()))
    }
}

/// So many values from a byte on.
fn values(at: usize, len: usize) -> Region {
    let width = i64::try_from(len.saturating_mul(4)).unwrap_or(i64::MAX);
    Region { at: i64::try_from(at).unwrap_or(i64::MAX), pitch: width, width, rows: 1 }
}
