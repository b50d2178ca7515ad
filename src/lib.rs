//! `secateurs` prunes the channels of a trained CNN until it meets a latency and a memory budget on a
//! given device, repairs and fine-tunes the pruned model, and emits it with the binary that runs it.
//!
//! The modules form layers; each imports only lower ones (`ARCHITECTURE.md` has the map, and
//! `tests/floors` checks it). Without the feature `toolkit` only the lean runtime compiles: what
//! an emitted inference binary needs, with no candle in it.

// Layer 0
pub mod board;
pub mod files;
pub mod graph;
pub mod kernels;
// Layer 1
pub mod engine;
pub mod model;
pub mod vision;
// Layer 2
#[cfg(feature = "candle")]
pub mod backend;
pub mod detector;
#[cfg(feature = "tools")]
pub mod device;
#[cfg(feature = "tools")]
pub mod import;
#[cfg(feature = "tools")]
pub mod profile;
#[cfg(feature = "tools")]
pub mod zoo;
// Layer 3
#[cfg(feature = "tools")]
pub mod group;
#[cfg(feature = "toolkit")]
pub mod importance;
#[cfg(feature = "tools")]
pub mod latency;
#[cfg(feature = "tools")]
pub mod memory;
#[cfg(feature = "tools")]
pub mod quantise;
#[cfg(feature = "tools")]
pub mod repair;
#[cfg(feature = "tools")]
pub mod search;
#[cfg(feature = "tools")]
pub mod surgery;
// Layer 4
#[cfg(feature = "tools")]
pub mod data;
#[cfg(feature = "tools")]
pub mod eval;
#[cfg(feature = "toolkit")]
pub mod train;
// Layer 5
pub mod bench;
#[cfg(feature = "tools")]
pub mod bundle;
#[cfg(feature = "tools")]
pub mod emit;
#[cfg(feature = "tools")]
pub mod report;
#[cfg(feature = "tools")]
pub mod session;
// Layer 6
#[cfg(feature = "toolkit")]
pub mod pipeline;
