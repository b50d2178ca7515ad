//! The functions of NCCL that are used, as C declares them (`nccl.h` of NCCL 2.14 and later), and why ranks cannot reach
//! each other through it.

use super::super::functions::CudaError;
use super::super::library::functions;
use std::ffi::{c_char, c_int, c_void};
use thiserror::Error;

/// Why GPUs cannot reach each other.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NcclError {
    /// There is no library.
    #[error(
        "several GPUs need NCCL, which is not there ({0}): install `libnccl2` from NVIDIA's package repository, or the \
         Python package `nvidia-nccl-cu12`, whose folder `nvidia/nccl/lib` goes into LD_LIBRARY_PATH"
    )]
    Missing(String),
    /// The library lacks something.
    #[error("NCCL is too old: {0}; 2.14 or later is needed")]
    TooOld(String),
    /// A call failed.
    #[error("{call}: {problem}")]
    Call {
        /// The function.
        call: &'static str,
        /// What the library says.
        problem: String,
    },
    /// What was started cannot end: another rank has left, or cannot be reached.
    #[error("the other GPUs cannot be reached any more: {0}")]
    Broken(String),
    /// The device, or its driver.
    #[error("CUDA: {0}")]
    Cuda(#[from] CudaError),
}

/// What is returned by functions that succeed.
pub(super) const SUCCESS: c_int = 0;
/// What is said as long as something goes on.
pub(super) const IN_PROGRESS: c_int = 7;

/// `ncclUint32`, for values that are only moved.
pub(super) const BITS: c_int = 3;
/// `ncclFloat32`.
pub(super) const FLOAT: c_int = 7;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;

/// What ranks that belong together have in common: `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UniqueId(pub(super) [u8; 128]);

impl UniqueId {
    /// As other ranks get it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// From the bytes of another rank; `None` where there are not as many as it has.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

type Stream = *mut c_void;
type Comm = *mut c_void;

functions! {
    /// The functions of NCCL.
    Functions:
    ncclGetVersion(*mut c_int);
    ncclGetUniqueId(*mut UniqueId);
    ncclCommInitRank(*mut Comm, c_int, UniqueId, c_int);
    ncclCommGetAsyncError(Comm, *mut c_int);
    ncclCommAbort(Comm);
    ncclCommDestroy(Comm);
    ncclAllReduce(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream);
    ncclBroadcast(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream);
    ncclAllGather(*const c_void, *mut c_void, usize, c_int, Comm, Stream);
    ncclSend(*const c_void, usize, c_int, c_int, Comm, Stream);
    ncclRecv(*mut c_void, usize, c_int, c_int, Comm, Stream);
    ncclGroupStart();
    ncclGroupEnd();
    ncclGetErrorString(c_int) -> *const c_char;
    ncclGetLastError(Comm) -> *const c_char;
}
