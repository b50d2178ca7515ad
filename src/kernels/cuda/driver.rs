//! NVIDIA's driver, opened at run time: nothing of CUDA is linked, and where there is no driver that is an error like
//! any other (NVIDIA, "CUDA Driver API Reference Manual").

use super::arguments::{Arguments, CellArguments, KernelArguments, Params};
use super::functions::{
    ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, ATTRIBUTE_MULTIPROCESSORS, Address,
    CudaError, ERROR_OUT_OF_MEMORY, Functions, NOT_FOUND, NOT_READY, OLDEST_CAPABILITY_MAJOR, STREAM_NON_BLOCKING, ok,
    text,
};
use super::kernel::Kernel;
use super::launch::Launch;
use super::library;
use super::recording::Recording;
use super::training::Training;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

/// A device of a driver, with the kernels loaded, one allocation of its memory, and at most one recorded frame.
pub struct Device {
    pub(super) functions: Functions,
    device: c_int,
    name: String,
    pub(super) context: *mut c_void,
    module: *mut c_void,
    pub(super) stream: *mut c_void,
    pub(super) side: Option<Side>,
    kernels: Vec<(Kernel, *mut c_void)>,
    memory: Address,
    values: usize,
    pub(super) recording: Recording,
    /// Frames that belong together: see [`Device::record_frames`].
    pub(super) frames: Vec<Recording>,
}

/// The stream beside the main one, and the event by which one of both waits for the other.
pub(super) struct Side {
    pub stream: *mut c_void,
    pub event: *mut c_void,
}

// SAFETY: the driver's handles belong to no thread, and every call makes the context the calling thread's own first.
unsafe impl Send for Device {}

impl Device {
    /// Opens the device of this number, counted from 0, of the driver `library` (the system's own is `libcuda.so.1`), and
    /// loads the kernels from `code`: PTX, a cubin or a fat binary of `kernels.cu`.
    ///
    /// # Errors
    /// If there is no driver or no device, or it is older than Ampere, or it cannot run that code.
    pub fn open(library: &Path, code: &[u8], ordinal: u32) -> Result<Self, CudaError> {
        let functions = open(library)?;
        let mut opened = Self {
            functions,
            device: 0,
            name: String::new(),
            context: ptr::null_mut(),
            module: ptr::null_mut(),
            stream: ptr::null_mut(),
            side: None,
            kernels: Vec::new(),
            memory: 0,
            values: 0,
            recording: Recording::default(),
            frames: Vec::new(),
        };
        opened.start(ordinal)?;
        opened.load(code)?;
        Ok(opened)
    }

    /// Finds the device and takes its context.
    fn start(&mut self, ordinal: u32) -> Result<(), CudaError> {
        let Self { functions: f, device, .. } = self;
        let count = count(f)?;
        // SAFETY: the functions write to what the pointers point to, which lives here.
        unsafe {
            let problem = |code| CudaError::NoDevice(format!(": {}", text(f, code)));
            if count == 0 {
                return Err(CudaError::NoDevice(String::new()));
            }
            let ordinal = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
            if ordinal >= count {
                return Err(CudaError::NoDevice(format!(" of number {ordinal}: it has {count}, counted from 0")));
            }
            ok((f.cuDeviceGet)(device, ordinal)).map_err(problem)?;
            let mut name: [c_char; 256] = [0; 256];
            ok((f.cuDeviceGetName)(name.as_mut_ptr(), 255, *device)).map_err(problem)?;
            self.name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
        }
        let (major, minor) = self.capability()?;
        if major < OLDEST_CAPABILITY_MAJOR {
            return Err(CudaError::TooOld { device: self.name.clone(), major, minor });
        }
        let Self { functions: f, device, context, .. } = self;
        // SAFETY: the function writes the handle.
        unsafe {
            let problem = |code| CudaError::NoDevice(format!(": {}", text(f, code)));
            ok((f.cuDevicePrimaryCtxRetain)(context, *device)).map_err(problem)?;
        }
        self.enter()?;
        // SAFETY: the function writes the handle.
        let code = unsafe { (self.functions.cuStreamCreate)(&mut self.stream, STREAM_NON_BLOCKING) };
        self.call("cuStreamCreate", code)
    }

    fn load(&mut self, code: &[u8]) -> Result<(), CudaError> {
        // Text of PTX must end with a zero; other kinds say themselves how long they are. Aligned as fat binaries are.
        let mut image = vec![0u64; code.len() / 8 + 1];
        bytemuck::cast_slice_mut::<u64, u8>(&mut image)[..code.len()].copy_from_slice(code);
        let (major, minor) = self.capability()?;
        let f = &self.functions;
        // SAFETY: the image is whole and ends with zeros; names end with a zero; handles are those of this device.
        unsafe {
            ok((f.cuModuleLoadData)(&mut self.module, image.as_ptr().cast())).map_err(|code| CudaError::Code {
                device: self.name.clone(),
                major,
                minor,
                problem: text(f, code),
            })?;
            for kernel in Kernel::all() {
                let (mut function, name) = (ptr::null_mut(), kernel.name() + "\0");
                let code = (f.cuModuleGetFunction)(&mut function, self.module, name.as_ptr().cast());
                // Programs that only run networks have no kernels of a training step.
                if code == NOT_FOUND && matches!(kernel, Kernel::Train(..)) {
                    continue;
                }
                self.call("cuModuleGetFunction", code)?;
                self.kernels.push((kernel, function));
            }
        }
        Ok(())
    }

    /// How many devices the driver `library` has.
    ///
    /// # Errors
    /// If there is no driver.
    pub fn count(library: &Path) -> Result<u32, CudaError> {
        count(&open(library)?).map(|count| u32::try_from(count).unwrap_or(0))
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its compute capability: major and minor number.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn capability(&self) -> Result<(i32, i32), CudaError> {
        Ok((self.attribute(ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, self.attribute(ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?))
    }

    /// How many multiprocessors it has.
    ///
    /// # Errors
    /// If the driver does not say.
    pub fn multiprocessors(&self) -> Result<u32, CudaError> {
        self.attribute(ATTRIBUTE_MULTIPROCESSORS).map(|n| u32::try_from(n).unwrap_or(1).max(1))
    }

    fn attribute(&self, attribute: c_int) -> Result<i32, CudaError> {
        let mut value = 0;
        // SAFETY: the function writes one number.
        let code = unsafe { (self.functions.cuDeviceGetAttribute)(&mut value, attribute, self.device) };
        self.call("cuDeviceGetAttribute", code).map(|()| value)
    }

    /// Bytes of its memory that nobody has taken.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn free_memory(&self) -> Result<usize, CudaError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the function writes two numbers.
        let code = unsafe { (self.functions.cuMemGetInfo_v2)(&mut free, &mut total) };
        self.call("cuMemGetInfo", code).map(|()| free)
    }

    /// Allocates memory for so many values, in place of what was allocated before. Its content is not defined.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn reserve(&mut self, values: usize) -> Result<(), CudaError> {
        self.enter()?;
        self.wait()?;
        self.release()?;
        let bytes = values.max(1).checked_mul(size_of::<f32>()).ok_or(CudaError::OutOfMemory { bytes: usize::MAX })?;
        // SAFETY: the function writes the address.
        match unsafe { (self.functions.cuMemAlloc_v2)(&mut self.memory, bytes) } {
            ERROR_OUT_OF_MEMORY => Err(CudaError::OutOfMemory { bytes }),
            code => self.call("cuMemAlloc", code).map(|()| self.values = values),
        }
    }

    /// Makes the device the calling thread's own, which a thread must do before the other calls.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is held as long as `self`.
        self.call("cuCtxSetCurrent", unsafe { (self.functions.cuCtxSetCurrent)(self.context) })
    }

    /// Copies values to the device's memory, from position `at` on, and waits until they are there.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If the memory ends before: a mistake of the caller.
    pub fn upload(&mut self, at: usize, values: &[f32]) -> Result<(), CudaError> {
        let address = self.address(at, values.len());
        // SAFETY: `address` checked that the values have room there; the second function takes nothing. Launches do not
        // wait for copies of this kind by themselves.
        unsafe {
            let copied = (self.functions.cuMemcpyHtoD_v2)(address, values.as_ptr().cast(), size_of_val(values));
            self.call("cuMemcpyHtoD", copied)?;
            self.call("cuCtxSynchronize", (self.functions.cuCtxSynchronize)())
        }
    }

    /// Copies values from the device's memory, from position `at` on, after everything that was launched has ended.
    ///
    /// # Errors
    /// Those of the driver, and of the kernels before.
    ///
    /// # Panics
    /// As [`Device::upload`].
    pub fn download(&self, at: usize, values: &mut [f32]) -> Result<(), CudaError> {
        let address = self.address(at, values.len());
        self.wait()?;
        // SAFETY: as in `upload`; every bit pattern is an f32.
        let code =
            unsafe { (self.functions.cuMemcpyDtoH_v2)(values.as_mut_ptr().cast(), address, size_of_val(values)) };
        self.call("cuMemcpyDtoH", code)
    }

    /// Starts a kernel after those that were started before.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If it works outside the memory: a mistake of the caller.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), CudaError> {
        let function = self.function(launch);
        let ([x, y, z], mut arguments) = (launch.grid, launch.arguments);
        let mut pointers = self.pointers(&mut arguments);
        // SAFETY: all kernels take an address and one struct, and the call copies both. `function` checked that the
        // launch accesses nothing outside our memory.
        let code = unsafe {
            (self.functions.cuLaunchKernel)(
                function,
                x,
                y,
                z,
                launch.kernel.threads(),
                1,
                1,
                launch.shared,
                self.stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.call("cuLaunchKernel", code)
    }

    /// The function of a launch.
    ///
    /// # Panics
    /// If it works outside the memory: a mistake of the caller.
    pub(super) fn function(&self, launch: &Launch) -> *mut c_void {
        assert!(launch.in_bounds(4 * self.values), "{launch:?} in {} values", self.values);
        let found = self.kernels.iter().find(|(kernel, _)| *kernel == launch.kernel);
        found.map_or(ptr::null_mut(), |(_, function)| *function)
    }

    /// What a kernel is called with: the memory and its own arguments, which the driver copies.
    pub(super) fn pointers(&mut self, arguments: &mut KernelArguments) -> [*mut c_void; 2] {
        let own = match arguments {
            KernelArguments::F32(params) => (params as *mut Params).cast(),
            KernelArguments::Packed(arguments) => (arguments as *mut Arguments).cast(),
            KernelArguments::Cells(cells) => (cells as *mut CellArguments).cast(),
            KernelArguments::Train(training) => (training as *mut Training).cast(),
        };
        [(&raw mut self.memory).cast(), own]
    }

    /// Waits until everything in the main stream has ended.
    ///
    /// # Errors
    /// Those of the driver and of the kernels.
    pub fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is held as long as `self`.
        self.call("cuStreamSynchronize", unsafe { (self.functions.cuStreamSynchronize)(self.stream) })
    }

    /// Whether everything in the main stream has ended.
    ///
    /// # Errors
    /// As [`Device::wait`].
    pub fn is_done(&self) -> Result<bool, CudaError> {
        // SAFETY: the stream is held as long as `self`.
        match unsafe { (self.functions.cuStreamQuery)(self.stream) } {
            NOT_READY => Ok(false),
            code => self.call("cuStreamQuery", code).map(|()| true),
        }
    }

    /// Where so many values lie from position `at` on.
    pub(super) fn address(&self, at: usize, len: usize) -> Address {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.values), "{at} + {len} of {}", self.values);
        self.memory + (at * size_of::<f32>()) as Address
    }

    fn release(&mut self) -> Result<(), CudaError> {
        let (memory, _) = (std::mem::take(&mut self.memory), std::mem::take(&mut self.values));
        if memory == 0 {
            return Ok(());
        }
        // SAFETY: taken in `reserve`, and forgotten here.
        self.call("cuMemFree", unsafe { (self.functions.cuMemFree_v2)(memory) })
    }

    pub(super) fn call(&self, call: &'static str, code: c_int) -> Result<(), CudaError> {
        // SAFETY: the function is the driver's.
        ok(code).map_err(|code| CudaError::Call { call, problem: unsafe { text(&self.functions, code) } })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.context.is_null() || self.enter().is_err() {
            return;
        }
        // What fails here has no consequence any more. Nothing runs that uses what is given back.
        let _ = self.wait();
        self.close_side();
        self.forget_recording();
        self.forget_frames();
        let _ = self.release();
        // SAFETY: all are held, and not used again.
        unsafe {
            if !self.stream.is_null() {
                (self.functions.cuStreamDestroy_v2)(self.stream);
            }
            if !self.module.is_null() {
                (self.functions.cuModuleUnload)(self.module);
            }
            (self.functions.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

/// Opens a driver.
fn open(library: &Path) -> Result<Functions, CudaError> {
    let missing = |name: &str| CudaError::NoDriver(format!("it is too old, it has no {name}"));
    let handle = library::load(library).map_err(CudaError::NoDriver)?;
    // SAFETY: whoever names a driver's library names one.
    unsafe { Functions::look_up(handle) }.map_err(missing)
}

/// Starts a driver, and asks it how many devices it has.
fn count(f: &Functions) -> Result<c_int, CudaError> {
    let mut count = 0;
    // SAFETY: the function writes to what the pointer points to, which lives here.
    unsafe {
        let problem = |code| CudaError::NoDevice(format!(": {}", text(f, code)));
        ok((f.cuInit)(0)).map_err(problem)?;
        ok((f.cuDeviceGetCount)(&mut count)).map_err(problem)?;
    }
    Ok(count)
}
