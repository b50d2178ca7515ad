//! Launches over one arena whose addresses follow from when every buffer is used.
//!
//! A program is emitted twice. The first time all buffers lie one after the other, and the launches show when each is
//! read or written; then every buffer gets its place, and the second time the launches have their final addresses.

use crate::engine::arena::{Span, assign};
use crate::kernels::cuda::Launch;

/// A run of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer(usize);

/// Values of every rank, `len` of them from the start of a buffer on, which are brought together in another buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gather {
    pub from: Buffer,
    pub to: Buffer,
    pub len: usize,
}

/// Takes up launches.
pub(super) struct Recorder {
    /// First byte of the arena.
    base: usize,
    /// Bytes of every buffer.
    sizes: Vec<usize>,
    /// First byte of every buffer, from `base` on; those that [`Recorder::second`] knows before they are asked for.
    offsets: Vec<usize>,
    second: bool,
    /// Copies of the host and of other ranks: a buffer, and the number of launches before which it happens.
    copies: Vec<(Buffer, usize)>,
    pub launches: Vec<Launch>,
    /// What ranks bring together, each with the number of launches before which it happens.
    pub gathers: Vec<(usize, Gather)>,
}

impl Recorder {
    /// For the first time.
    pub fn first(base: usize) -> Self {
        let none = Vec::new;
        let (copies, launches, gathers) = (Vec::new(), Vec::new(), Vec::new());
        Self { base, sizes: none(), offsets: none(), second: false, copies, launches, gathers }
    }

    /// For the second time, and the bytes of the arena.
    pub fn second(self) -> (Self, usize) {
        let (offsets, len) = assign(&self.spans());
        let offsets = offsets.into_iter().map(|offset| 4 * offset).collect();
        (Self { offsets, second: true, ..Self::first(self.base) }, 4 * len)
    }

    /// A buffer of so many bytes.
    pub fn buffer(&mut self, bytes: usize) -> Buffer {
        if !self.second {
            let behind = self.offsets.last().map_or(0, |last| last + self.sizes[self.sizes.len() - 1]);
            self.offsets.push(behind);
        }
        self.sizes.push(bytes.max(1).next_multiple_of(64));
        Buffer(self.sizes.len() - 1)
    }

    /// Its first byte.
    pub fn at(&self, buffer: Buffer) -> usize {
        self.base + self.offsets[buffer.0]
    }

    pub fn push(&mut self, launches: impl IntoIterator<Item = Launch>) {
        self.launches.extend(launches);
    }

    /// The host copies to or from a buffer before the next launch.
    pub fn copies(&mut self, buffer: Buffer) {
        self.copies.push((buffer, self.launches.len()));
    }

    /// Ranks bring values together before the next launch.
    pub fn gather(&mut self, gather: Gather) {
        self.copies(gather.from);
        self.copies(gather.to);
        self.gathers.push((self.launches.len(), gather));
    }

    /// When every buffer is used.
    fn spans(&self) -> Vec<Option<Span>> {
        let mut spans: Vec<Option<Span>> = vec![None; self.sizes.len()];
        let mut mark = |buffer: usize, moment: usize| {
            let len = self.sizes[buffer] / 4;
            let span = spans[buffer].get_or_insert(Span { first: moment, last: moment, len });
            (span.first, span.last) = (span.first.min(moment), span.last.max(moment));
        };
        // Launches have odd moments, copies before them even ones.
        for (index, launch) in self.launches.iter().enumerate() {
            for start in launch.starts().filter_map(|start| start.checked_sub(self.base)) {
                let behind = self.offsets.partition_point(|offset| *offset <= start);
                if behind > 0 {
                    mark(behind - 1, 2 * index + 1);
                }
            }
        }
        self.copies.iter().for_each(|(buffer, before)| mark(buffer.0, 2 * before));
        spans
    }
}
