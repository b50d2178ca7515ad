//! The kernels of the CUDA engine, and the driver that runs them.
//!
//! `kernels.cu` and the files that it includes have the arithmetic: dense convolutions as products on tensor cores
//! (`product`), what lies between them in f16 (`f16`) and in f32, there with the CPU's bits (`single`). These files decide how each kernel is
//! launched: all of it before the first frame, from sizes alone, so that a frame neither allocates nor chooses.
//! [`Device`] is the driver's interface, opened at run time, so that a program with CUDA in it starts where there is
//! none; a frame is a CUDA graph of copies and launches ([`Device::record`]). Tests open an emulated driver instead,
//! which runs the same source on the CPU. [`nccl`] adds over the GPUs of several processes.

mod arguments;
mod cells;
#[cfg(feature = "cuda")]
pub mod code;
mod driver;
#[cfg(test)]
pub(crate) mod emulated;
mod f16;
mod frame;
mod functions;
mod kernel;
mod launch;
mod library;
pub mod nccl;
mod peaks;
mod product;
mod recording;
mod single;
mod streams;
#[cfg(test)]
mod tests;
mod tile;
pub mod training;
mod weights;

pub use arguments::{Float, MAX_LEVELS, RUN_STEP, Tensor, TensorView};
pub use cells::{CellPlanes, CellTable, MAX_CHOSEN};
pub use driver::Device;
pub use frame::Frame;
pub use functions::CudaError;
pub use launch::{Launch, dependencies};
pub use peaks::GpuPeaks;
pub use product::{ConvTensors, Member, Quantize};
pub use recording::Transfers;
pub use single::{Operands, pack_conv, pack_depthwise, packed_conv_len, packed_depthwise_len};
pub use streams::Stream;
pub use weights::{Channels, ConvWeights, pack_int8_product, packed_int8_bytes};
