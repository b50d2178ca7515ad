//! NVIDIA's driver, opened at run time: nothing of CUDA is linked, and where there is no driver that is an error like
//! any other (NVIDIA, "CUDA Driver API Reference Manual").

use super::{Kernel, Launch};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr;
use thiserror::Error;

/// Why a GPU cannot be used.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum CudaError {
    /// There is no driver.
    #[error("the NVIDIA driver is not there: {0}")]
    NoDriver(String),
    /// The driver has no device.
    #[error("the NVIDIA driver has no device{0}")]
    NoDevice(String),
    /// The device cannot run the code that this program carries.
    #[error("{device} (compute capability {major}.{minor}) cannot run the code in this program: {problem}")]
    Code {
        /// Its name.
        device: String,
        /// Compute capability.
        major: i32,
        /// Its minor number.
        minor: i32,
        /// What the driver says.
        problem: String,
    },
    /// The device has not enough memory.
    #[error("not enough GPU memory: {bytes} bytes are needed")]
    OutOfMemory {
        /// Bytes needed.
        bytes: usize,
    },
    /// A network is too large for what the kernels count with.
    #[error("a tensor of the network is too large for the GPU's kernels")]
    TooLarge,
    /// A call of the driver failed.
    #[error("{call}: {problem}")]
    Call {
        /// The function.
        call: &'static str,
        /// What the driver says.
        problem: String,
    },
}

/// What is returned by functions of the driver that succeed.
const SUCCESS: c_int = 0;
const ERROR_OUT_OF_MEMORY: c_int = 2;
const ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: c_int = 76;

/// An address in the memory of a device.
type Address = u64;

/// Declares the functions of the driver that are used, and looks them up.
macro_rules! functions {
    ($($name:ident($($argument:ty),*);)*) => {
        #[allow(non_snake_case)]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> c_int,)*
        }

        impl Functions {
            /// # Safety
            /// `library` must be a handle of `dlopen` for a CUDA driver.
            unsafe fn look_up(library: *mut c_void) -> Result<Self, CudaError> {
                // SAFETY: the driver's functions of these names have these signatures.
                unsafe {
                    Ok(Self {
                        $($name: {
                            let symbol = symbol(library, concat!(stringify!($name), "\0"))?;
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> c_int>(symbol)
                        },)*
                    })
                }
            }
        }
    };
}

functions! {
    cuInit(c_uint);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDevicePrimaryCtxRetain(*mut *mut c_void, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxSetCurrent(*mut c_void);
    cuCtxSynchronize();
    cuModuleLoadData(*mut *mut c_void, *const c_void);
    cuModuleUnload(*mut c_void);
    cuModuleGetFunction(*mut *mut c_void, *mut c_void, *const c_char);
    cuMemAlloc_v2(*mut Address, usize);
    cuMemFree_v2(Address);
    cuMemcpyHtoD_v2(Address, *const c_void, usize);
    cuMemcpyDtoH_v2(*mut c_void, Address, usize);
    cuLaunchKernel(
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
        *mut *mut c_void
    );
    cuGetErrorString(c_int, *mut *const c_char);
}

/// # Safety
/// `library` must be a handle of `dlopen`, and `name` must end with a zero.
unsafe fn symbol(library: *mut c_void, name: &str) -> Result<*mut c_void, CudaError> {
    // SAFETY: the caller keeps the contract.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
    let name = name.trim_end_matches('\0');
    if symbol.is_null() { Err(CudaError::NoDriver(format!("it is too old, it has no {name}"))) } else { Ok(symbol) }
}

/// The first device of a driver, with the kernels loaded and one allocation of its memory.
pub struct Device {
    functions: Functions,
    device: c_int,
    name: String,
    context: *mut c_void,
    module: *mut c_void,
    /// By [`Kernel`].
    kernels: Vec<*mut c_void>,
    memory: Address,
    values: usize,
}

// SAFETY: the driver's handles belong to no thread, and every call makes the context the calling thread's own first.
unsafe impl Send for Device {}

impl Device {
    /// Opens the first device of the driver `library` (the system's own is `libcuda.so.1`), and loads the kernels from
    /// `code`: PTX, a cubin or a fat binary of `kernels.cu`.
    ///
    /// # Errors
    /// If there is no driver or no device, or it cannot run that code.
    pub fn open(library: &Path, code: &[u8]) -> Result<Self, CudaError> {
        let path = CString::new(library.to_string_lossy().as_bytes())
            .map_err(|_| CudaError::NoDriver(format!("{} is no path", library.display())))?;
        // SAFETY: a driver's library may be loaded anywhere; it is never unloaded, as drivers expect.
        let functions = unsafe {
            let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            if handle.is_null() {
                return Err(CudaError::NoDriver(loader_error(library)));
            }
            Functions::look_up(handle)?
        };
        let mut opened = Self {
            functions,
            device: 0,
            name: String::new(),
            context: ptr::null_mut(),
            module: ptr::null_mut(),
            kernels: Vec::new(),
            memory: 0,
            values: 0,
        };
        opened.start()?;
        opened.load(code)?;
        Ok(opened)
    }

    /// Finds the device and takes its context.
    fn start(&mut self) -> Result<(), CudaError> {
        let Self { functions: f, device, context, .. } = self;
        let mut count = 0;
        // SAFETY: the functions write to what the pointers point to, which lives here.
        unsafe {
            let problem = |code| CudaError::NoDevice(format!(": {}", text(f, code)));
            ok((f.cuInit)(0)).map_err(problem)?;
            ok((f.cuDeviceGetCount)(&mut count)).map_err(problem)?;
            if count == 0 {
                return Err(CudaError::NoDevice(String::new()));
            }
            ok((f.cuDeviceGet)(device, 0)).map_err(problem)?;
            let mut name: [c_char; 256] = [0; 256];
            ok((f.cuDeviceGetName)(name.as_mut_ptr(), 255, *device)).map_err(problem)?;
            self.name = CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned();
            ok((f.cuDevicePrimaryCtxRetain)(context, *device)).map_err(problem)?;
        }
        self.enter()
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
            for (name, _) in Kernel::ALL {
                let mut kernel = ptr::null_mut();
                self.call("cuModuleGetFunction", (f.cuModuleGetFunction)(&mut kernel, self.module, name.as_ptr()))?;
                self.kernels.push(kernel);
            }
        }
        Ok(())
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
        let read = |attribute| {
            let mut value = 0;
            // SAFETY: the function writes one number.
            let code = unsafe { (self.functions.cuDeviceGetAttribute)(&mut value, attribute, self.device) };
            self.call("cuDeviceGetAttribute", code).map(|()| value)
        };
        Ok((read(ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, read(ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?))
    }

    /// Allocates memory for so many values, in place of what was allocated before. Its content is not defined.
    ///
    /// # Errors
    /// If there is not so much.
    pub fn reserve(&mut self, values: usize) -> Result<(), CudaError> {
        self.enter()?;
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

    /// Copies values to the device's memory, from position `at` on.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Panics
    /// If the memory ends before: a mistake of the caller.
    pub fn upload(&mut self, at: usize, values: &[f32]) -> Result<(), CudaError> {
        let address = self.address(at, values.len());
        // SAFETY: `address` checked that the values have room there.
        let code = unsafe { (self.functions.cuMemcpyHtoD_v2)(address, values.as_ptr().cast(), size_of_val(values)) };
        self.call("cuMemcpyHtoD", code)
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
        assert!(launch.in_bounds(self.values), "{launch:?} in {} values", self.values);
        let [x, y, z] = launch.grid;
        let mut params = launch.params;
        let mut arguments: [*mut c_void; 2] = [(&raw mut self.memory).cast(), (&raw mut params).cast()];
        // SAFETY: all kernels take an address and `Params`, and the call copies both. `in_bounds` checked that the
        // launch accesses nothing outside our memory.
        let code = unsafe {
            (self.functions.cuLaunchKernel)(
                self.kernels[launch.kernel as usize],
                x,
                y,
                z,
                launch.kernel.threads(),
                1,
                1,
                0,
                ptr::null_mut(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.call("cuLaunchKernel", code)
    }

    /// Waits until everything that was launched has ended.
    ///
    /// # Errors
    /// Those of the driver and of the kernels.
    pub fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: takes nothing.
        self.call("cuCtxSynchronize", unsafe { (self.functions.cuCtxSynchronize)() })
    }

    fn address(&self, at: usize, len: usize) -> Address {
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

    fn call(&self, call: &'static str, code: c_int) -> Result<(), CudaError> {
        // SAFETY: the function is the driver's.
        ok(code).map_err(|code| CudaError::Call { call, problem: unsafe { text(&self.functions, code) } })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.context.is_null() || self.enter().is_err() {
            return;
        }
        // What fails here has no consequence any more.
        let _ = self.release();
        // SAFETY: both are held, and not used again.
        unsafe {
            if !self.module.is_null() {
                (self.functions.cuModuleUnload)(self.module);
            }
            (self.functions.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

fn ok(code: c_int) -> Result<(), c_int> {
    if code == SUCCESS { Ok(()) } else { Err(code) }
}

/// What the driver says about an error code.
///
/// # Safety
/// The functions must be a driver's.
unsafe fn text(functions: &Functions, code: c_int) -> String {
    let mut message = ptr::null();
    // SAFETY: the function writes the address of a static text, or null.
    unsafe {
        if (functions.cuGetErrorString)(code, &mut message) != SUCCESS || message.is_null() {
            return format!("error {code}");
        }
        format!("{} (error {code})", CStr::from_ptr(message).to_string_lossy())
    }
}

/// Why a library could not be loaded.
fn loader_error(library: &Path) -> String {
    // SAFETY: the text belongs to the loader until this thread calls it again; it is copied at once.
    let message = unsafe {
        let message = libc::dlerror();
        (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned())
    };
    message.unwrap_or_else(|| format!("{} cannot be loaded", library.display()))
}
