//! The functions of NVIDIA's driver that are used, as C declares them (NVIDIA, "CUDA Driver API Reference Manual"), and
//! why a GPU cannot be used.

use super::library::functions;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::ptr;
use thiserror::Error;

/// Why a GPU cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CudaError {
    /// The program carries no code for a device.
    #[error("this program was built without the feature `cuda`: build it with `--features cuda`")]
    NotBuilt,
    /// There is no driver.
    #[error("the NVIDIA driver is not there: {0}")]
    NoDriver(String),
    /// The driver has no device.
    #[error("the NVIDIA driver has no device{0}")]
    NoDevice(String),
    /// The device lacks instructions of the kernels: `mma.sync` and `cp.async` as sm_80 has them.
    #[error(
        "{device} (compute capability {major}.{minor}) is too old: the CUDA engine needs an NVIDIA GPU since Ampere \
         (compute capability 8.0)"
    )]
    TooOld {
        /// Its name.
        device: String,
        /// Compute capability.
        major: i32,
        /// Its minor number.
        minor: i32,
    },
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
/// `CUDA_ERROR_NOT_FOUND`: what a module does not have.
pub(super) const NOT_FOUND: c_int = 500;
pub(super) const ERROR_OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_NOT_READY`: what was started has not ended.
pub(super) const NOT_READY: c_int = 600;
/// The least major number of a compute capability whose instructions the kernels are made of.
pub(super) const OLDEST_CAPABILITY_MAJOR: c_int = 8;
pub(super) const ATTRIBUTE_MULTIPROCESSORS: c_int = 16;
pub(super) const ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: c_int = 75;
pub(super) const ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: c_int = 76;

/// A stream that does not wait for the default one.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;

/// An event that only orders.
pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;

/// An address in the memory of a device.
pub(super) type Address = u64;

/// A node of a graph that launches a kernel: `CUDA_KERNEL_NODE_PARAMS_v1`.
#[repr(C)]
pub(super) struct KernelNode {
    pub function: *mut c_void,
    pub grid: [c_uint; 3],
    pub threads: [c_uint; 3],
    pub shared: c_uint,
    pub arguments: *mut *mut c_void,
    pub extra: *mut *mut c_void,
}

/// One side of a copy, as in `CUDA_MEMCPY3D`.
#[repr(C)]
pub(super) struct CopySide {
    pub place: [usize; 4],
    /// [`MEMORY_HOST`] or [`MEMORY_DEVICE`].
    pub kind: c_uint,
    pub host: *mut c_void,
    pub device: Address,
    pub array: *mut c_void,
    pub reserved: *mut c_void,
    pub pitch: usize,
    pub height: usize,
}

pub(super) const MEMORY_HOST: c_uint = 1;
pub(super) const MEMORY_DEVICE: c_uint = 2;

/// A node of a graph that copies: `CUDA_MEMCPY3D`.
#[repr(C)]
pub(super) struct CopyNode {
    pub from: CopySide,
    pub to: CopySide,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

functions! {
    /// The functions of a driver.
    Functions:
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
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemcpyHtoD_v2(Address, *const c_void, usize);
    cuMemcpyDtoH_v2(*mut c_void, Address, usize);
    cuLaunchKernel(
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
        *mut *mut c_void
    );
    cuMemAllocHost_v2(*mut *mut c_void, usize);
    cuMemFreeHost(*mut c_void);
    cuMemcpyHtoDAsync_v2(Address, *const c_void, usize, *mut c_void);
    cuMemcpyDtoHAsync_v2(*mut c_void, Address, usize, *mut c_void);
    cuStreamCreate(*mut *mut c_void, c_uint);
    cuStreamDestroy_v2(*mut c_void);
    cuStreamSynchronize(*mut c_void);
    cuStreamQuery(*mut c_void);
    cuEventCreate(*mut *mut c_void, c_uint);
    cuEventDestroy_v2(*mut c_void);
    cuEventRecord(*mut c_void, *mut c_void);
    cuStreamWaitEvent(*mut c_void, *mut c_void, c_uint);
    cuEventElapsedTime(*mut f32, *mut c_void, *mut c_void);
    cuGraphCreate(*mut *mut c_void, c_uint);
    cuGraphAddKernelNode(*mut *mut c_void, *mut c_void, *const *mut c_void, usize, *const KernelNode);
    cuGraphAddMemcpyNode(*mut *mut c_void, *mut c_void, *const *mut c_void, usize, *const CopyNode, *mut c_void);
    cuGraphInstantiateWithFlags(*mut *mut c_void, *mut c_void, c_ulonglong);
    cuGraphDestroy(*mut c_void);
    cuGraphExecDestroy(*mut c_void);
    cuGraphLaunch(*mut c_void, *mut c_void);
    cuGetErrorString(c_int, *mut *const c_char);
}

pub(super) fn ok(code: c_int) -> Result<(), c_int> {
    if code == SUCCESS { Ok(()) } else { Err(code) }
}

/// What the driver says about an error code.
///
/// # Safety
/// The functions must be a driver's.
pub(super) unsafe fn text(functions: &Functions, code: c_int) -> String {
    let mut message = ptr::null();
    // SAFETY: the function writes the address of a static text, or null.
    unsafe {
        if (functions.cuGetErrorString)(code, &mut message) != SUCCESS || message.is_null() {
            return format!("error {code}");
        }
        format!("{} (error {code})", CStr::from_ptr(message).to_string_lossy())
    }
}
