//! The two streams of a device: the main one computes, and what goes to other GPUs meanwhile goes through the side
//! stream. What is started in one of them waits for the other only where it is told so.

use super::driver::{Device, Side};
use super::functions::{CudaError, EVENT_DISABLE_TIMING, STREAM_NON_BLOCKING};
use std::ffi::c_void;
use std::ptr;

/// A stream of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Launches, frames and copies.
    Main,
    /// What runs beside them, once [`Device::open_side`] has opened it.
    Side,
}

impl Device {
    /// Opens the side stream.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn open_side(&mut self) -> Result<(), CudaError> {
        self.enter()?;
        if self.side.is_some() {
            return Ok(());
        }
        let (mut stream, mut event) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the function writes the handle; so does the next.
        let code = unsafe { (self.functions.cuStreamCreate)(&mut stream, STREAM_NON_BLOCKING) };
        self.call("cuStreamCreate", code)?;
        // SAFETY: as above.
        let code = unsafe { (self.functions.cuEventCreate)(&mut event, EVENT_DISABLE_TIMING) };
        let made = self.call("cuEventCreate", code);
        self.side = Some(Side { stream, event });
        made
    }

    /// Has what is started in stream `after` from now on wait for what was started in stream `before`.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If the side stream is not open: a mistake of the caller.
    pub fn order(&self, before: Stream, after: Stream) -> Result<(), CudaError> {
        self.enter()?;
        let [before, after] = [before, after].map(|stream| self.handle(stream));
        let event = self.side.as_ref().map_or(ptr::null_mut(), |side| side.event);
        // SAFETY: event and streams are held. A wait is for the event as it was recorded last, also where it is
        // recorded again later.
        let recorded = unsafe { (self.functions.cuEventRecord)(event, before) };
        self.call("cuEventRecord", recorded)?;
        // SAFETY: as above.
        self.call("cuStreamWaitEvent", unsafe { (self.functions.cuStreamWaitEvent)(after, event, 0) })
    }

    /// The driver's handle of a stream.
    ///
    /// # Panics
    /// As [`Device::order`].
    pub(super) fn handle(&self, stream: Stream) -> *mut c_void {
        match (stream, &self.side) {
            (Stream::Main, _) => self.stream,
            (Stream::Side, Some(side)) => side.stream,
            (Stream::Side, None) => panic!("the side stream is not open"),
        }
    }

    /// Waits for the side stream, and gives it back.
    pub(super) fn close_side(&mut self) {
        let Some(Side { stream, event }) = self.side.take() else { return };
        // SAFETY: both are ours, or null, and not used again. What fails here has no consequence any more.
        unsafe {
            (self.functions.cuStreamSynchronize)(stream);
            (self.functions.cuStreamDestroy_v2)(stream);
            if !event.is_null() {
                (self.functions.cuEventDestroy_v2)(event);
            }
        }
    }
}
