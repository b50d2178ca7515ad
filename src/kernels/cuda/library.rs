//! Libraries that are opened at run time, so that a program starts where they are not.

use std::ffi::{CStr, CString, c_void};
use std::path::Path;

/// Loads a library, which stays loaded. The error is what the loader says.
pub(super) fn load(library: &Path) -> Result<*mut c_void, String> {
    let path = CString::new(library.to_string_lossy().as_bytes());
    let path = path.map_err(|_| format!("{} is no path", library.display()))?;
    // SAFETY: NVIDIA's libraries may be loaded anywhere; they are never unloaded, as they expect.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() { Err(loader_error(library)) } else { Ok(handle) }
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

/// The address of a function, or its name where the library does not have it.
///
/// # Safety
/// `library` must be a handle of `dlopen`, and `name` must end with a zero.
pub(super) unsafe fn symbol(library: *mut c_void, name: &'static str) -> Result<*mut c_void, &'static str> {
    // SAFETY: the caller keeps the contract.
    let symbol = unsafe { libc::dlsym(library, name.as_ptr().cast()) };
    if symbol.is_null() { Err(name.trim_end_matches('\0')) } else { Ok(symbol) }
}

/// Declares the functions of a library that are used, each of which returns a code or what is said, and looks them up.
macro_rules! functions {
    (
        $(#[$doc:meta])*
        $table:ident:
        $($name:ident($($argument:ty),*) $(-> $result:ty)?;)*
    ) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        #[derive(Clone, Copy)]
        pub(super) struct $table {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $crate::kernels::cuda::library::returned!($($result)?),)*
        }

        impl $table {
            /// Finds all of them, or gives the name of one that is missing.
            ///
            /// # Safety
            /// `library` must be a handle of `dlopen` for the library whose functions these are.
            pub unsafe fn look_up(library: *mut std::ffi::c_void) -> Result<Self, &'static str> {
                // SAFETY: the library's functions of these names have these signatures.
                unsafe {
                    Ok(Self {
                        $($name: {
                            let symbol =
                                $crate::kernels::cuda::library::symbol(library, concat!(stringify!($name), "\0"))?;
                            std::mem::transmute::<
                                *mut std::ffi::c_void,
                                unsafe extern "C" fn($($argument),*)
                                    -> $crate::kernels::cuda::library::returned!($($result)?),
                            >(symbol)
                        },)*
                    })
                }
            }
        }
    };
}

/// What a function returns: a code, where nothing else is said.
macro_rules! returned {
    () => {
        std::ffi::c_int
    };
    ($result:ty) => {
        $result
    };
}

pub(super) use {functions, returned};
