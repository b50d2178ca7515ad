//! A frame as one CUDA graph: the copies of the image and of the results, from and to page-locked memory, and between
//! them all launches, each after those that it depends on and beside all others. Made once, and launched for every
//! frame. Where something else happens between its launches, a frame is cut into several graphs, of which the first and
//! the last have the copies.

use super::driver::Device;
use super::functions::{CopyNode, CopySide, CudaError, ERROR_OUT_OF_MEMORY, KernelNode};
use super::launch::{Launch, dependencies};
use super::recording::{PageLocked, Recording, Transfers, device_side, host_side};
use std::ffi::c_void;
use std::ptr;

/// Launches between two copies, all of which read and write the reserved memory.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// What is copied before and after them.
    pub transfers: Transfers,
    /// The launches, in an order that they may run in.
    pub launches: Vec<&'a Launch>,
}

/// The copies of a graph: of each the place in page-locked memory, and positions in the device's memory.
struct Copies {
    input: Option<(*mut f32, (usize, usize))>,
    results: Option<(*mut f32, (usize, usize))>,
}

impl Device {
    /// Records the frames of a batch of images in place of those before: each of them in every way that an image can go, of
    /// which the first one copies the most. The memory must be reserved.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If a launch or a copy works outside the memory: a mistake of the caller.
    pub fn record(&mut self, ways: &[Frame<'_>], batch: usize) -> Result<(), CudaError> {
        self.enter()?;
        self.forget_recording();
        let Some(Frame { transfers: Transfers { input, results }, .. }) = ways.first() else { return Ok(()) };
        (self.recording.image, self.recording.ways) = ([input.1, results.1], ways.len());
        self.recording.input = self.page_locked(input.1.saturating_mul(batch))?;
        self.recording.results = self.page_locked(results.1.saturating_mul(batch))?;
        let needed: Vec<_> = ways.iter().map(|way| dependencies(&way.launches)).collect();
        for image in 0..batch {
            let host = self.recording.host(image);
            for (Frame { transfers, launches }, needed) in ways.iter().zip(&needed) {
                assert!(
                    transfers.input.1 <= input.1 && transfers.results.1 <= results.1,
                    "the first way copies the most"
                );
                let copies =
                    Copies { input: Some((host[0], transfers.input)), results: Some((host[1], transfers.results)) };
                let graph = self.instantiate(&copies, launches, needed)?;
                self.recording.graphs.push(graph);
            }
        }
        Ok(())
    }

    /// Records frames that each have page-locked memory of their own, in place of those before. Each is cut before the
    /// launches of these numbers, which ascend and are neither 0 nor that of all launches. The memory must be reserved.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// As [`Device::record`].
    pub fn record_frames(&mut self, frames: &[(Frame<'_>, Vec<usize>)]) -> Result<(), CudaError> {
        self.enter()?;
        self.forget_frames();
        for (Frame { transfers, launches }, cuts) in frames {
            let [input, results] = [transfers.input.1, transfers.results.1];
            self.frames.push(Recording { input: self.page_locked(input)?, ..Recording::default() });
            let at = self.frames.len() - 1;
            self.frames[at].results = self.page_locked(results)?;
            let host = [self.frames[at].input.part(0, input), self.frames[at].results.part(0, results)];
            let bounds = [&[0], &cuts[..], &[launches.len()]].concat();
            for part in bounds.windows(2) {
                let copies = Copies {
                    input: (part[0] == 0).then_some((host[0], transfers.input)),
                    results: (part[1] == launches.len()).then_some((host[1], transfers.results)),
                };
                let launches = &launches[part[0]..part[1]];
                let graph = self.instantiate(&copies, launches, &dependencies(launches))?;
                self.frames[at].graphs.push(graph);
            }
            self.frames[at].bounds = bounds;
        }
        Ok(())
    }

    /// What a frame copies to the device.
    ///
    /// # Panics
    /// If [`Device::record_frames`] recorded no such frame; so it is with the next two.
    pub fn frame_input_mut(&mut self, frame: usize) -> &mut [f32] {
        let PageLocked { start, len } = self.frames[frame].input;
        // SAFETY: `page_locked` allocated and filled so many values, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// What a frame copied from the device.
    pub fn frame_results(&self, frame: usize) -> &[f32] {
        let PageLocked { start, len } = self.frames[frame].results;
        // SAFETY: as in `frame_input_mut`; no frame runs now, since `run_parts` waits for its end.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Runs a frame and waits for its end.
    ///
    /// # Errors
    /// Those of the driver and of the kernels.
    pub fn run_frame(&mut self, frame: usize) -> Result<(), CudaError> {
        self.run_parts(frame, |_, _| Ok(()), |_, started| started)
    }

    /// Runs a frame and does not return before it has ended. `between` starts what belongs between its launches: it
    /// is called with 0, with each of the frame's cuts, and with the number of all launches, when so many of them are
    /// started. `wait` gets what came of that, and may wait in its own way; after an error nothing that was started
    /// may wait for ever.
    ///
    /// # Errors
    /// Those of the driver and of the kernels, of `between` and of `wait`.
    pub fn run_parts<E: From<CudaError>>(
        &mut self,
        frame: usize,
        between: impl FnMut(&Self, usize) -> Result<(), E>,
        wait: impl FnOnce(&Self, Result<(), E>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.enter()?;
        let started = self.start_parts(frame, between);
        let waited = wait(self, started);
        // Whatever came of it: the memory of the host that the frame uses is the caller's again.
        let ended = self.wait();
        waited.and(ended.map_err(E::from))
    }

    fn start_parts<E: From<CudaError>>(
        &self,
        frame: usize,
        mut between: impl FnMut(&Self, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let Recording { graphs, bounds, .. } = &self.frames[frame];
        between(self, 0)?;
        for (graph, bound) in graphs.iter().zip(&bounds[1..]) {
            // SAFETY: graph and stream are held.
            let code = unsafe { (self.functions.cuGraphLaunch)(graph.as_ptr(), self.stream) };
            self.call("cuGraphLaunch", code)?;
            between(self, *bound)?;
        }
        Ok(())
    }

    /// The graph of launches between copies.
    fn instantiate(
        &mut self,
        copies: &Copies,
        launches: &[&Launch],
        needed: &[Vec<usize>],
    ) -> Result<ptr::NonNull<c_void>, CudaError> {
        let mut graph = ptr::null_mut();
        // SAFETY: the function writes the handle.
        self.call("cuGraphCreate", unsafe { (self.functions.cuGraphCreate)(&mut graph, 0) })?;
        let built = self.build(graph, copies, launches, needed);
        let mut instance = ptr::null_mut();
        let made = built.and_then(|()| {
            // SAFETY: the graph is ours; what is made of it does not need it any more.
            let code = unsafe { (self.functions.cuGraphInstantiateWithFlags)(&mut instance, graph, 0) };
            self.call("cuGraphInstantiate", code)
        });
        // SAFETY: as above.
        unsafe { (self.functions.cuGraphDestroy)(graph) };
        let none = CudaError::Call { call: "cuGraphInstantiate", problem: "there is no graph".into() };
        made.and_then(|()| ptr::NonNull::new(instance).ok_or(none))
    }

    fn build(
        &mut self,
        graph: *mut c_void,
        Copies { input, results }: &Copies,
        launches: &[&Launch],
        needed: &[Vec<usize>],
    ) -> Result<(), CudaError> {
        let sides =
            |(host, (at, len)): (*mut f32, (usize, usize))| (host_side(host), device_side(self.address(at, len)), len);
        let copied = match input.map(sides) {
            Some((from, to, len)) => Some(self.add_copy(graph, from, to, len, &[])?),
            None => None,
        };
        let results = results.map(sides);
        let mut nodes: Vec<*mut c_void> = Vec::with_capacity(launches.len());
        let mut is_last = vec![true; launches.len()];
        for (launch, needed) in launches.iter().zip(needed) {
            needed.iter().for_each(|index| is_last[*index] = false);
            // Who waits for nobody may read the image.
            let mut before: Vec<*mut c_void> = needed.iter().map(|index| nodes[*index]).collect();
            if before.is_empty() {
                before.extend(copied);
            }
            nodes.push(self.add_launch(graph, launch, &before)?);
        }
        let last: Vec<_> = nodes.iter().zip(is_last).filter(|(_, last)| *last).map(|(node, _)| *node).collect();
        let last = if last.is_empty() { copied.into_iter().collect() } else { last };
        match results {
            Some((to, from, len)) => self.add_copy(graph, from, to, len, &last).map(|_| ()),
            None => Ok(()),
        }
    }

    fn add_copy(
        &self,
        graph: *mut c_void,
        from: CopySide,
        to: CopySide,
        values: usize,
        before: &[*mut c_void],
    ) -> Result<*mut c_void, CudaError> {
        let width = 4 * values;
        let side = |side: CopySide| CopySide { pitch: width, height: 1, ..side };
        let copy = CopyNode { from: side(from), to: side(to), width, height: 1, depth: 1 };
        let (mut node, f) = (ptr::null_mut(), &self.functions);
        // SAFETY: the function copies the struct; both sides hold so many values.
        let code =
            unsafe { (f.cuGraphAddMemcpyNode)(&mut node, graph, before.as_ptr(), before.len(), &copy, self.context) };
        self.call("cuGraphAddMemcpyNode", code).map(|()| node)
    }

    fn add_launch(
        &mut self,
        graph: *mut c_void,
        launch: &Launch,
        before: &[*mut c_void],
    ) -> Result<*mut c_void, CudaError> {
        let (function, mut arguments) = (self.function(launch), launch.arguments);
        let mut pointers = self.pointers(&mut arguments);
        let kernel = KernelNode {
            function,
            grid: launch.grid,
            threads: [launch.kernel.threads(), 1, 1],
            shared: launch.shared,
            arguments: pointers.as_mut_ptr(),
            extra: ptr::null_mut(),
        };
        let (mut node, f) = (ptr::null_mut(), &self.functions);
        // SAFETY: the function copies the struct and the arguments. `function` checked that the launch accesses nothing
        // outside our memory.
        let code = unsafe { (f.cuGraphAddKernelNode)(&mut node, graph, before.as_ptr(), before.len(), &kernel) };
        self.call("cuGraphAddKernelNode", code).map(|()| node)
    }

    /// The images that the next frames read; each way reads from the beginning of an image's part.
    pub fn input_mut(&mut self) -> &mut [f32] {
        let PageLocked { start, len } = self.recording.input;
        // SAFETY: `page_locked` allocated and filled so many values (or the length is 0), and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// The results of the last frames, image after image.
    pub fn results(&self) -> &[f32] {
        let PageLocked { start, len } = self.recording.results;
        // SAFETY: as in `input_mut`; no frame runs now, since `run_frames` waits for their end.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Runs the recorded frames of images from number `first` on, one after the other, each the way that is named, and waits
    /// for their end.
    ///
    /// # Errors
    /// Those of the driver and of the kernels.
    ///
    /// # Panics
    /// If no such way was recorded.
    pub fn run_frames(&mut self, first: usize, ways: &[usize]) -> Result<(), CudaError> {
        self.enter()?;
        let count = self.recording.ways.max(1);
        for (graphs, way) in self.recording.graphs.chunks_exact(count).skip(first).zip(ways) {
            let graph = graphs[*way];
            // SAFETY: graph and stream are held.
            let code = unsafe { (self.functions.cuGraphLaunch)(graph.as_ptr(), self.stream) };
            self.call("cuGraphLaunch", code)?;
        }
        self.wait()
    }

    /// Copies what lies at these positions of the device's memory to where the results of an image begin.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If it is more than the results of an image.
    pub fn fetch_results(&mut self, (at, len): (usize, usize), image: usize) -> Result<(), CudaError> {
        self.enter()?;
        assert!(len <= self.recording.image[1], "{len} values for an image of {}", self.recording.image[1]);
        let (from, [_, to]) = (self.address(at, len), self.recording.host(image));
        // SAFETY: both sides hold so many values; nothing runs now that writes them.
        let code = unsafe { (self.functions.cuMemcpyDtoH_v2)(to.cast(), from, 4 * len) };
        self.call("cuMemcpyDtoH", code)
    }

    /// Runs the frame of an image launch after launch, and returns the milliseconds of each by the device's clock: first those of
    /// the image's copy, last those of the results'.
    ///
    /// # Errors
    /// Those of the driver and of the kernels.
    pub fn time_frame(
        &mut self,
        transfers: Transfers,
        launches: &[&Launch],
        image: usize,
    ) -> Result<Vec<f64>, CudaError> {
        self.enter()?;
        let mut events = Events::new(self, launches.len() + 3)?;
        let times = events.time(self, transfers, launches, image);
        events.destroy(self);
        times
    }

    /// Runs a launch and returns its milliseconds by the device's clock.
    ///
    /// # Errors
    /// Those of the driver and of the kernel.
    pub(super) fn time_launch(&mut self, launch: &Launch) -> Result<f64, CudaError> {
        self.enter()?;
        let mut events = Events::new(self, 2)?;
        let times =
            events.time_launches(self, &[launch], 0).and_then(|()| self.wait()).and_then(|()| events.times(self));
        events.destroy(self);
        Ok(times?.into_iter().sum())
    }

    fn page_locked(&self, len: usize) -> Result<PageLocked, CudaError> {
        let (mut start, bytes) = (ptr::null_mut(), len.max(1).saturating_mul(4));
        // SAFETY: the function writes the address.
        match unsafe { (self.functions.cuMemAllocHost_v2)(&mut start, bytes) } {
            ERROR_OUT_OF_MEMORY => return Err(CudaError::OutOfMemory { bytes }),
            code => self.call("cuMemAllocHost", code)?,
        }
        // SAFETY: so many bytes are ours.
        unsafe { ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(PageLocked { start: start.cast(), len })
    }

    /// Gives back what was recorded.
    pub(super) fn forget_recording(&mut self) {
        let recording = std::mem::take(&mut self.recording);
        self.forget(recording);
    }

    /// Gives back what [`Device::record_frames`] recorded.
    pub(super) fn forget_frames(&mut self) {
        std::mem::take(&mut self.frames).into_iter().for_each(|recording| self.forget(recording));
    }

    fn forget(&self, Recording { input, results, graphs, .. }: Recording) {
        // SAFETY: all of it is ours, and not used again. What fails here has no consequence any more.
        unsafe {
            for graph in graphs {
                (self.functions.cuGraphExecDestroy)(graph.as_ptr());
            }
            for memory in [input, results].into_iter().filter(|memory| memory.start != PageLocked::default().start) {
                (self.functions.cuMemFreeHost)(memory.start.cast());
            }
        }
    }
}

/// Marks in the stream, whose times the device notes.
struct Events(Vec<*mut c_void>);

impl Events {
    fn new(device: &Device, count: usize) -> Result<Self, CudaError> {
        let mut events = Self(Vec::with_capacity(count));
        for _ in 0..count {
            let mut event = ptr::null_mut();
            // SAFETY: the function writes the handle.
            let made = device.call("cuEventCreate", unsafe { (device.functions.cuEventCreate)(&mut event, 0) });
            if let Err(error) = made {
                events.destroy(device);
                return Err(error);
            }
            events.0.push(event);
        }
        Ok(events)
    }

    fn destroy(&mut self, device: &Device) {
        for event in self.0.drain(..) {
            // SAFETY: the event is ours, and not used again.
            unsafe { (device.functions.cuEventDestroy_v2)(event) };
        }
    }

    fn record(&self, device: &Device, index: usize) -> Result<(), CudaError> {
        // SAFETY: event and stream are held.
        let code = unsafe { (device.functions.cuEventRecord)(self.0[index], device.stream) };
        device.call("cuEventRecord", code)
    }

    fn time(
        &mut self,
        device: &mut Device,
        transfers: Transfers,
        launches: &[&Launch],
        image: usize,
    ) -> Result<Vec<f64>, CudaError> {
        let [input, results] = [transfers.input, transfers.results].map(|(at, len)| device.address(at, len));
        let (lens, stream) = ([transfers.input.1, transfers.results.1], device.stream);
        let [from, to] = device.recording.host(image);
        let bytes = lens.map(|len| 4 * len);
        self.record(device, 0)?;
        // SAFETY: both sides hold so many bytes until the stream is waited for below.
        let code = unsafe { (device.functions.cuMemcpyHtoDAsync_v2)(input, from.cast(), bytes[0], stream) };
        device.call("cuMemcpyHtoDAsync", code)?;
        self.time_launches(device, launches, 1)?;
        // SAFETY: as above.
        let code = unsafe { (device.functions.cuMemcpyDtoHAsync_v2)(to.cast(), results, bytes[1], stream) };
        device.call("cuMemcpyDtoHAsync", code)?;
        self.record(device, launches.len() + 2)?;
        device.wait()?;
        self.times(device)
    }

    /// Records the event of a position, then after every launch the next.
    fn time_launches(&self, device: &mut Device, launches: &[&Launch], first: usize) -> Result<(), CudaError> {
        self.record(device, first)?;
        for (index, launch) in launches.iter().enumerate() {
            device.launch(launch)?;
            self.record(device, first + index + 1)?;
        }
        Ok(())
    }

    /// Milliseconds between all events, which must have happened.
    fn times(&self, device: &Device) -> Result<Vec<f64>, CudaError> {
        let mut times = Vec::with_capacity(self.0.len());
        for pair in self.0.windows(2) {
            let mut millis = 0.0;
            // SAFETY: both events were recorded.
            let code = unsafe { (device.functions.cuEventElapsedTime)(&mut millis, pair[0], pair[1]) };
            device.call("cuEventElapsedTime", code)?;
            times.push(f64::from(millis));
        }
        Ok(times)
    }
}
