//! Sums over the GPUs of several processes: NVIDIA's NCCL, opened at run time as the driver is (NVIDIA, "NCCL User Guide").
//!
//! What is started here goes into a stream of a device, after what was started there, and ends when all ranks have
//! started the same. NCCL runs what was started with a communicator one after the other, also where streams differ. A
//! rank that leaves would have the others wait for ever: whoever waits looks meanwhile whether that happened, and
//! gives the communicator up ([`Communicator::wait`]).

mod functions;

pub use functions::{NcclError, UniqueId};

use super::driver::Device;
use super::library;
use super::streams::Stream;
use functions::{BITS, FLOAT, Functions, IN_PROGRESS, SUCCESS, SUM};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The oldest version: major and minor number. It is the first that says what its last error was.
const OLDEST: (c_int, c_int) = (2, 14);

/// The variable of the environment that says where ranks find each other, `HOST:PORT`, where the first one listens, in place
/// of an id that one of them hands out. Whoever starts the process sets it: NCCL reads it without asking whether another
/// thread changes the environment meanwhile.
pub const MEETING: &str = "NCCL_COMM_ID";

/// How long a wait keeps its CPU busy, and how often it looks after that.
const BUSY: Duration = Duration::from_millis(5);
const PAUSE: Duration = Duration::from_micros(200);

/// How often a wait looks whether the other ranks are still there.
const LOOK: Duration = Duration::from_millis(100);

/// How long one that found the others out of reach looks for the rank that ended.
const PATIENCE: Duration = Duration::from_secs(3);

/// The library.
#[derive(Clone, Copy)]
pub struct Nccl {
    functions: Functions,
}

impl Nccl {
    /// Opens it (the system's own is `libnccl.so.2`).
    ///
    /// # Errors
    /// If it is not there, or too old.
    pub fn open(library: &Path) -> Result<Self, NcclError> {
        let handle = library::load(library).map_err(NcclError::Missing)?;
        let missing = |name: &str| NcclError::TooOld(format!("it has no {name}"));
        // SAFETY: whoever names NCCL's library names one.
        let opened = Self { functions: unsafe { Functions::look_up(handle) }.map_err(missing)? };
        let mut code = 0;
        // SAFETY: the function writes one number.
        opened.call("ncclGetVersion", unsafe { (opened.functions.ncclGetVersion)(&mut code) })?;
        let version = version(code);
        if version < OLDEST {
            return Err(NcclError::TooOld(format!("it is {}.{}", version.0, version.1)));
        }
        Ok(opened)
    }

    /// What all ranks of a new communicator must be given, where the environment names no address where they meet.
    ///
    /// # Errors
    /// Those of the library: it finds no network interface, say.
    pub fn id(&self) -> Result<UniqueId, NcclError> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: the function writes the id.
        self.call("ncclGetUniqueId", unsafe { (self.functions.ncclGetUniqueId)(&mut id) }).map(|()| id)
    }

    /// Joins the other ranks with a device, and waits until all are there.
    ///
    /// # Errors
    /// Those of the library.
    pub fn join(&self, id: UniqueId, rank: usize, size: usize, device: &Device) -> Result<Communicator, NcclError> {
        device.enter()?;
        let int = |number: usize| c_int::try_from(number).unwrap_or(c_int::MAX);
        let mut handle = ptr::null_mut();
        // SAFETY: the function writes the handle; the device is the calling thread's own.
        let code = unsafe { (self.functions.ncclCommInitRank)(&mut handle, int(size), id, int(rank)) };
        self.call("ncclCommInitRank", code)?;
        Ok(Communicator { nccl: *self, handle: Mutex::new(handle), rank, size })
    }

    fn call(&self, call: &'static str, code: c_int) -> Result<(), NcclError> {
        if code == SUCCESS { Ok(()) } else { Err(NcclError::Call { call, problem: self.problem(code) }) }
    }

    /// What the library says of a code, and of its last error.
    fn problem(&self, code: c_int) -> String {
        // SAFETY: both functions give texts that stay, or null.
        let (what, more) = unsafe {
            let more = (self.functions.ncclGetLastError)(ptr::null_mut());
            (text((self.functions.ncclGetErrorString)(code)), text(more))
        };
        let what = what.unwrap_or_else(|| format!("error {code}"));
        match more.filter(|more| !more.is_empty()) {
            Some(more) => format!("{what}: {}", more.trim()),
            None => what,
        }
    }
}

/// Major and minor number of a version.
fn version(code: c_int) -> (c_int, c_int) {
    // From 2.9 on there are two digits for the minor number.
    if code < 10_000 { (code / 1000, code / 100 % 10) } else { (code / 10_000, code / 100 % 100) }
}

/// A text of C, where there is one.
///
/// # Safety
/// It must be null or end with a zero.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: the caller keeps the contract.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The GPUs of all ranks. All ranks start the same things in the same order; what is started works on positions, in values
/// of four bytes, of the memory that a device has reserved.
pub struct Communicator {
    nccl: Nccl,
    /// Null once it is given up.
    handle: Mutex<*mut c_void>,
    rank: usize,
    size: usize,
}

// SAFETY: the handle belongs to no thread, and calls take turns.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl Communicator {
    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Replaces each value of these runs (first value and number of values) by its sum over all ranks, the same bits on
    /// each of them.
    ///
    /// # Errors
    /// Those of the library; if the communicator was given up. So it is with the others.
    ///
    /// # Panics
    /// If the memory ends before: a mistake of the caller. So it is with the others.
    pub fn sum(&self, device: &Device, stream: Stream, runs: &[(usize, usize)]) -> Result<(), NcclError> {
        let place = |(at, len): &(usize, usize)| (device.address(*at, *len) as *mut c_void, *len);
        let (places, stream): (Vec<_>, _) = (runs.iter().map(place).collect(), device.handle(stream));
        self.start("ncclAllReduce", device, |f, comm| {
            let add = |(values, len): &(*mut c_void, usize)| {
                // SAFETY: `address` checked that the values lie in the device's memory, which is held until its
                // streams ended.
                unsafe { (f.ncclAllReduce)(*values, *values, *len, FLOAT, SUM, comm, stream) }
            };
            group(f, || first_failure(places.iter().map(add)))
        })
    }

    /// Replaces `len` values by those of rank 0.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    pub fn broadcast(&self, device: &Device, stream: Stream, (at, len): (usize, usize)) -> Result<(), NcclError> {
        let (values, stream) = (device.address(at, len) as *mut c_void, device.handle(stream));
        self.start("ncclBroadcast", device, |f, comm| {
            // SAFETY: as in `sum`.
            unsafe { (f.ncclBroadcast)(values, values, len, BITS, 0, comm, stream) }
        })
    }

    /// Brings `len` values of every rank, from `from` on, together: those of rank `r` lie at `to + r * len`
    /// everywhere, and may lie there before.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    pub fn gather(&self, device: &Device, [from, to]: [usize; 2], len: usize) -> Result<(), NcclError> {
        let all = device.address(to, len * self.size) as *mut c_void;
        let own = device.address(from, len) as *const c_void;
        self.start("ncclAllGather", device, |f, comm| {
            // SAFETY: as in `sum`.
            unsafe { (f.ncclAllGather)(own, all, len, BITS, comm, device.stream) }
        })
    }

    /// Sends `len` values from `from` on to another rank, and receives as many from it, to `to`.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    pub fn exchange(
        &self,
        device: &Device,
        partner: usize,
        [from, to]: [usize; 2],
        len: usize,
    ) -> Result<(), NcclError> {
        let partner = c_int::try_from(partner).unwrap_or(c_int::MAX);
        let [from, to] = [from, to].map(|at| device.address(at, len) as *mut c_void);
        self.start("ncclSend", device, |f, comm| {
            group(f, || {
                // SAFETY: as in `sum`; so it is with the next.
                let sent = unsafe { (f.ncclSend)(from, len, BITS, partner, comm, device.stream) };
                // SAFETY: as above.
                first_failure([sent, unsafe { (f.ncclRecv)(to, len, BITS, partner, comm, device.stream) }])
            })
        })
    }

    fn start(
        &self,
        call: &'static str,
        device: &Device,
        start: impl Fn(&Functions, *mut c_void) -> c_int,
    ) -> Result<(), NcclError> {
        device.enter()?;
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if handle.is_null() {
            return Err(NcclError::Call { call, problem: "the ranks were left after an error".into() });
        }
        self.nccl.call(call, start(&self.nccl.functions, *handle))
    }

    /// Waits until everything in the stream of a device has ended. Meanwhile `watch` says now and then whether all ranks
    /// are still there. After an error the communicator is given up, and so is what has not ended.
    ///
    /// # Errors
    /// Those of the library, of the device and of `watch`.
    pub fn wait<E: From<NcclError>>(&self, device: &Device, watch: &dyn Fn() -> Result<(), E>) -> Result<(), E> {
        let waited = self.wait_watching(device, watch);
        if waited.is_err() {
            self.abort();
        }
        waited
    }

    fn wait_watching<E: From<NcclError>>(&self, device: &Device, watch: &dyn Fn() -> Result<(), E>) -> Result<(), E> {
        let driver = |error| E::from(NcclError::Cuda(error));
        device.enter().map_err(driver)?;
        let started = Instant::now();
        let mut looked = started;
        while !device.is_done().map_err(driver)? {
            if looked.elapsed() >= LOOK {
                watch()?;
                self.check().or_else(|problem| explained(problem, watch))?;
                looked = Instant::now();
            }
            if started.elapsed() < BUSY { thread::yield_now() } else { thread::sleep(PAUSE) }
        }
        self.check().or_else(|problem| explained(problem, watch))
    }

    /// Whether what was started can end.
    fn check(&self) -> Result<(), NcclError> {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if handle.is_null() {
            return Ok(());
        }
        let mut code = SUCCESS;
        // SAFETY: the handle is held; the function writes a code.
        let asked = unsafe { (self.nccl.functions.ncclCommGetAsyncError)(*handle, &mut code) };
        self.nccl.call("ncclCommGetAsyncError", asked)?;
        match code {
            SUCCESS | IN_PROGRESS => Ok(()),
            code => Err(NcclError::Broken(self.nccl.problem(code))),
        }
    }

    /// Gives up what has not ended; nothing can be started any more.
    pub fn abort(&self) {
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if !handle.is_null() {
            // SAFETY: the handle is held, and not used again. What fails here has no consequence any more.
            unsafe { (self.nccl.functions.ncclCommAbort)(*handle) };
            *handle = ptr::null_mut();
        }
    }
}

/// Starts several things as one. A group is ended whatever happened in it.
fn group(f: &Functions, start: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: the function takes nothing.
    match unsafe { (f.ncclGroupStart)() } {
        // SAFETY: as above.
        SUCCESS => first_failure([start(), unsafe { (f.ncclGroupEnd)() }]),
        failed => failed,
    }
}

/// The first code that is none of success, if there is one.
fn first_failure(codes: impl IntoIterator<Item = c_int>) -> c_int {
    codes.into_iter().find(|code| *code != SUCCESS).unwrap_or(SUCCESS)
}

/// Who has ended says more than what follows from it, and may show a moment later.
fn explained<E: From<NcclError>>(problem: NcclError, watch: &dyn Fn() -> Result<(), E>) -> Result<(), E> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        watch()?;
        thread::sleep(LOOK);
    }
    Err(problem.into())
}

impl Drop for Communicator {
    /// Leaving in order waits for what was started.
    fn drop(&mut self) {
        if thread::panicking() {
            self.abort();
        }
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !handle.is_null() {
            // SAFETY: as in `abort`.
            unsafe { (self.nccl.functions.ncclCommDestroy)(*handle) };
        }
    }
}

#[cfg(test)]
mod tests;
