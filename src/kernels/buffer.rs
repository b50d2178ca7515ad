//! Aligned memory, and views of tensors in it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Alignment of a buffer in values (64 bytes).
pub(super) const ALIGN: usize = 16;

/// Contiguous f32 values, aligned to 64 bytes.
pub struct Buffer {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: a buffer owns its memory as a `Vec<f32>` does.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Zeros. `None` if there is not enough memory.
    pub fn zeroed(len: usize) -> Option<Self> {
        if len == 0 {
            return Some(Self { start: NonNull::dangling(), len: 0 });
        }
        let layout = Self::layout(len)?;
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        NonNull::new(start.cast()).map(|start| Self { start, len })
    }

    /// Bytes that a buffer of `len` values takes.
    pub fn bytes(len: usize) -> usize {
        len.next_multiple_of(ALIGN) * size_of::<f32>()
    }

    fn layout(len: usize) -> Option<Layout> {
        let len = len.checked_next_multiple_of(ALIGN)?.checked_mul(size_of::<f32>())?;
        Layout::from_size_align(len, ALIGN * size_of::<f32>()).ok()
    }

    /// The values.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `start` points to `len` initialised values that this buffer owns (or `len` is 0).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The values, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    pub(super) fn ptr(&self) -> *mut f32 {
        self.start.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len).filter(|l| l.size() > 0) {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

/// Address of a tensor in a buffer: `h * w` pixels of `c` channels, pixel `p` from `offset + p * pitch` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// First value.
    pub offset: usize,
    /// Values from one pixel to the next, at least `c`.
    pub pitch: usize,
    /// Channels.
    pub c: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
}

impl View {
    /// A tensor of its own, from `offset` on.
    pub fn dense(offset: usize, c: usize, h: usize, w: usize) -> Self {
        Self { offset, pitch: c, c, h, w }
    }

    /// A run of channels.
    pub fn channels(self, start: usize, len: usize) -> Self {
        Self { offset: self.offset + start, c: len, ..self }
    }

    /// Number of pixels.
    pub fn area(&self) -> usize {
        self.h * self.w
    }

    /// First value and the one after the last.
    fn range(&self) -> (usize, usize) {
        match self.area() {
            0 => (self.offset, self.offset),
            area => (self.offset, self.offset + (area - 1) * self.pitch + self.c),
        }
    }

    /// Bounds check: refuses a view that does not lie in the buffer.
    ///
    /// # Panics
    /// If it does not: an error of the engine, never of its input.
    pub(super) fn check(&self, buffer: &Buffer) {
        assert!(self.c > 0 && self.c <= self.pitch && self.range().1 <= buffer.len, "{self:?} of {}", buffer.len);
    }

    /// Whether no value belongs to both.
    pub(super) fn disjoint(&self, other: &View) -> bool {
        let ((a, a_end), (b, b_end)) = (self.range(), other.range());
        if a_end <= b || b_end <= a {
            return true;
        }
        // Interleaved: runs of channels of the same tensor.
        let apart = (other.offset as i64 - self.offset as i64).rem_euclid(self.pitch as i64) as usize;
        self.pitch == other.pitch && apart >= self.c && apart + other.c <= self.pitch
    }

    /// The first value in the buffer.
    ///
    /// # Safety
    /// The view must have passed [`View::check`] for this buffer.
    pub(super) unsafe fn ptr(&self, buffer: &Buffer) -> *mut f32 {
        // SAFETY: the caller checked that the offset lies inside.
        unsafe { buffer.ptr().add(self.offset) }
    }
}
