//! What a recorded frame holds: a CUDA graph, and page-locked memory of the host that it reads and writes.

use super::functions::{Address, CopySide, MEMORY_DEVICE, MEMORY_HOST};
use std::ffi::c_void;
use std::ptr;

/// What a frame copies of one image: positions in the device's memory, in values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfers {
    /// The image: first value, and how many.
    pub input: (usize, usize),
    /// The results.
    pub results: (usize, usize),
}

/// Page-locked memory of the host.
pub(super) struct PageLocked {
    pub start: *mut f32,
    pub len: usize,
}

impl PageLocked {
    /// Where the part of an image of a batch begins, of `len` values each.
    pub fn part(&self, image: usize, len: usize) -> *mut f32 {
        assert!((image + 1) * len <= self.len, "image {image} of {} values", self.len);
        // In place of `add`, which would need proof that the memory is there: it may be empty.
        self.start.wrapping_add(image * len)
    }
}

impl Default for PageLocked {
    fn default() -> Self {
        Self { start: ptr::NonNull::dangling().as_ptr(), len: 0 }
    }
}

/// The graphs of a batch's frames, with what they read and write on the host.
#[derive(Default)]
pub struct Recording {
    pub(super) input: PageLocked,
    pub(super) results: PageLocked,
    /// Values of the host's memory that an image has for itself: of what goes in, and of the results.
    pub(super) image: [usize; 2],
    /// Ways that an image can go.
    pub(super) ways: usize,
    /// By image of a batch, way after way; or the parts of one frame.
    pub(super) graphs: Vec<ptr::NonNull<c_void>>,
    /// Of a frame in parts: the number of the launch before which each begins, and the number of all launches.
    pub(super) bounds: Vec<usize>,
}

impl Recording {
    /// Where an image of the batch begins on the host, and where its results do.
    pub fn host(&self, image: usize) -> [*mut f32; 2] {
        [self.input.part(image, self.image[0]), self.results.part(image, self.image[1])]
    }
}

/// The host's side of a copy.
pub(super) fn host_side(start: *mut f32) -> CopySide {
    CopySide { kind: MEMORY_HOST, host: start.cast(), ..device_side(0) }
}

/// The device's side of a copy.
pub(super) fn device_side(device: Address) -> CopySide {
    let none = ptr::null_mut();
    CopySide {
        place: [0; 4],
        kind: MEMORY_DEVICE,
        host: none,
        device,
        array: none,
        reserved: none,
        pitch: 0,
        height: 0,
    }
}
