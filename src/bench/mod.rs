//! Times networks: warm-up, many frames, percentiles with confidence bounds, CPU time beside wall time, and paired
//! comparisons of interleaved frames, so that both sides see the same machine.
//!
//! This module knows frames as closures, and networks only in [`interleave`] and its neighbours.

mod dependence;
mod distribution;
mod energy;
mod frames;
mod memory;
mod network;
mod profile;
mod table;
mod window;

pub use distribution::{Distribution, bound_rank, nearest_rank, upper_bound};
pub use energy::{Energy, PairedEnergy, energy};
pub use frames::{PairedTimes, Samples, compare, phases, time};
pub use memory::peak_resident;
pub use network::{BenchError, Measured, Options, PairedNetwork, Phases, interleave, measure, measure_paired};
pub use profile::{Profile, Step, profile};
pub use table::{TableSpec, time_table};
pub use window::{Recording, Window, window};

use frames::over;
