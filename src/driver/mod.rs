//! The driver of the pruning pipeline: what `cargo xtask` and `cargo secateurs` do in any workspace.
//!
//! It knows cargo: where the caller's workspace is, which source of `secateurs` the inference binary is built from, how,
//! and in which order things run. What the profile means, and whether it is right, is known to the worker alone, which
//! the driver starts as a program of its own. An xtask crate needs one line:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     secateurs::driver::main()
//! }
//! ```

mod builder;
mod caller;
mod commands;
mod crates;
mod cross;
mod cuda;
mod devices;
mod doctor;
mod forward;
mod glibc;
mod init;
mod locked;
mod on_device;
mod options;
mod package;
mod process;
mod profiles;
mod prune;
mod several;
mod target;
mod worker;
mod workspace;

pub use caller::Driver;
pub use commands::{Command, EXAMPLES, main, plugin};
pub use process::{Failure, Progress, run};
pub use workspace::Workspace;
