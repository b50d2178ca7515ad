//! Times networks honestly: warm-up, many frames, percentiles with the confidence they deserve, processor time beside
//! wall time, and comparisons frame by frame in turn, so that both sides see the same machine.
//!
//! This room knows frames as closures, and networks only in [`interleave`] and its neighbours.

mod dependence;
mod distribution;
mod frames;
mod memory;
mod network;
mod profile;
mod table;
mod window;

pub use distribution::{Distribution, bound_rank, nearest_rank, upper_bound};
pub use frames::{Pair, Samples, compare, phases, time};
pub use memory::peak_resident;
pub use network::{BenchError, Measured, Options, Phases, Versus, interleave, measure, versus};
pub use profile::{Profile, Step, profile};
pub use table::{TableSpec, time_table};
pub use window::{Recording, Window, window};

use frames::over;
