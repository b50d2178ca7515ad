//! One call of a kernel: which one, on how many blocks, with which arguments, and what it reads and writes.

use super::arguments::{KernelArguments, Region};
use super::kernel::{CellKernel, Kernel};
use std::ops::Range;

/// Regions that a launch reads or writes at most.
pub(super) const MAX_READS: usize = 8;
/// See [`MAX_READS`].
pub(super) const MAX_WRITES: usize = 4;

/// One call of a kernel, with all that it needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Launch {
    pub(super) kernel: Kernel,
    pub(super) grid: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub(super) shared: u32,
    pub(super) arguments: KernelArguments,
    /// What it reads and does not write, but for what no launch writes; what is missing has no rows.
    pub(super) reads: [Region; MAX_READS],
    pub(super) writes: [Region; MAX_WRITES],
    /// The byte after the last that is read or written; beyond all memory where a size is too large for the kernel.
    pub(super) end: i64,
}

/// Regions, filled up with such as have no rows.
pub(super) fn regions<const N: usize>(given: &[Region]) -> [Region; N] {
    assert!(given.len() <= N, "a launch names {} regions", given.len());
    std::array::from_fn(|i| given.get(i).copied().unwrap_or_default())
}

/// Whether one of the regions lies in part within these bytes.
fn touch(regions: &[Region], bytes: Range<usize>) -> bool {
    let [first, end] = [bytes.start, bytes.end].map(|byte| i64::try_from(byte).unwrap_or(i64::MAX));
    regions.iter().any(|region| region.rows > 0 && region.at < end && first < region.end())
}

impl Launch {
    /// Bounds check: whether everything lies within so many bytes, and every size within what the kernels count with.
    pub fn in_bounds(&self, bytes: usize) -> bool {
        let regions = self.reads.iter().chain(&self.writes);
        regions.clone().all(|region| region.at >= 0 && region.end() <= self.end)
            && usize::try_from(self.end).is_ok_and(|end| end <= bytes)
            && self.grid[0] < 1 << 31
            && self.grid[1..].iter().all(|n| *n < 1 << 16)
            && self.grid.iter().all(|n| *n > 0)
    }

    /// The kernel's name.
    pub fn name(&self) -> String {
        self.kernel.name()
    }

    /// Bytes that it reads and writes of tensors, each once; at most, where that depends on their values.
    pub fn traffic(&self) -> u64 {
        let bytes = |regions: &[Region]| -> u64 {
            regions.iter().map(|region| (region.rows.max(0) * region.width) as u64).sum()
        };
        match self.kernel {
            // Of the outputs it reads what it writes.
            Kernel::Cells(CellKernel::Take) => 2 * bytes(&self.writes),
            _ => bytes(&self.reads) + bytes(&self.writes),
        }
    }

    /// The first bytes of all that it reads and writes.
    pub fn starts(&self) -> impl Iterator<Item = usize> {
        let regions = self.reads.iter().chain(&self.writes).filter(|region| region.rows > 0);
        regions.map(|region| usize::try_from(region.at).unwrap_or(0))
    }

    /// Whether it writes one of these bytes.
    pub fn writes_to(&self, bytes: Range<usize>) -> bool {
        touch(&self.writes, bytes)
    }

    /// Whether it reads one of these bytes.
    pub fn reads_from(&self, bytes: Range<usize>) -> bool {
        touch(&self.reads, bytes)
    }

    /// Whether one of two must end before the other begins: one writes what the other reads or writes.
    pub fn depends_on(&self, other: &Self) -> bool {
        let touches = |regions: &[Region], written: &Region| regions.iter().any(|region| region.overlaps(written));
        let touched = |launch: &Self, written| touches(&launch.reads, written) || touches(&launch.writes, written);
        other.writes.iter().any(|written| touched(self, written))
            || self.writes.iter().any(|written| touches(&other.reads, written))
    }
}

/// For every launch those before it that it must wait for; those that others already wait for are left out.
pub fn dependencies(launches: &[&Launch]) -> Vec<Vec<usize>> {
    let words = launches.len().div_ceil(64);
    // By launch: all that end before it begins.
    let mut before: Vec<Vec<u64>> = Vec::with_capacity(launches.len());
    let mut needed = Vec::with_capacity(launches.len());
    for (at, launch) in launches.iter().enumerate() {
        let mut known = vec![0u64; words];
        let mut own = Vec::new();
        for earlier in (0..at).rev() {
            let implied = known[earlier / 64] >> (earlier % 64) & 1 == 1;
            if !implied && launch.depends_on(launches[earlier]) {
                own.push(earlier);
                known[earlier / 64] |= 1 << (earlier % 64);
                known.iter_mut().zip(&before[earlier]).for_each(|(a, b)| *a |= b);
            }
        }
        before.push(known);
        needed.push(own);
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(region: &Region) -> Vec<i64> {
        (0..region.rows).flat_map(|row| (0..region.width).map(move |i| region.at + row * region.pitch + i)).collect()
    }

    proptest! {
        #[test]
        fn regions_that_share_a_byte_overlap(a in region(), b in region()) {
            let shared = bytes(&a).iter().any(|byte| bytes(&b).contains(byte));
            prop_assert!(!shared || (a.overlaps(&b) && b.overlaps(&a)));
            // Runs of channels of one tensor are told apart.
            let side = Region { at: a.at + a.width, width: a.pitch - a.width, ..a };
            prop_assert!(side.width == 0 || !a.overlaps(&side));
        }
    }

    prop_compose! {
        fn region()(at in 0i64..40, width in 1i64..6, more in 0i64..6, rows in 1i64..5) -> Region {
            Region { at, pitch: width + more, width, rows }
        }
    }
}
