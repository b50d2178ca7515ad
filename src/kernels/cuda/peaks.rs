//! Measures what a device can do at most: the operations of its units, and the bytes of its memory.

use super::arguments::{Arguments, Float, Tensor};
use super::driver::Device;
use super::functions::CudaError;
use super::kernel::{F16Kernel, Kernel};
use super::launch::Launch;
use crate::kernels::View;
use serde::Serialize;

/// Measured peaks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GpuPeaks {
    /// 10^12 floating-point operations per second of the f32 units (a multiply-add is two).
    pub f32_tflops: f64,
    /// The same of the tensor cores on f16 values, by `mma.sync`.
    pub f16_tflops: f64,
    /// 10^12 operations per second of the tensor cores on int8 values, by `mma.sync`.
    pub int8_tops: f64,
    /// Bytes per second of a copy within the memory, read and written, in units of 10^9.
    pub bandwidth_gb_s: f64,
}

/// Channels, rows and columns of the tensor that is copied: 64 MiB on each side, far more than the caches of a Jetson hold.
const COPIED: [usize; 3] = [64, 512, 1024];

/// A measurement takes at least so many milliseconds.
const LONG_ENOUGH: f64 = 2.0;

/// Rounds of the chains of multiply-adds, at most.
const MAX_ROUNDS: i32 = 1 << 20;

impl GpuPeaks {
    /// Measures them; the device's memory is reserved anew.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn measure(device: &mut Device) -> Result<Self, CudaError> {
        let [c, h, w] = COPIED;
        device.reserve(c * h * w)?;
        let side = |at: usize| Tensor::floats(at, View::dense(0, c, h, w), Float::F16);
        let copy = Launch::f16_upsample(1, side(0), side(2 * c * h * w));
        device.time_launch(&copy)?;
        let copies = (0..3).map(|_| device.time_launch(&copy)).collect::<Result<Vec<f64>, CudaError>>()?;
        let least = copies.into_iter().fold(f64::INFINITY, f64::min);
        // A thread of f32 has 8 chains of multiply-adds, a warp of the others 8 chains of 16 x 8 x 16 or 32.
        let per_warp = |depth: f64| 8.0 * 2.0 * 16.0 * 8.0 * depth;
        Ok(Self {
            f32_tflops: peak(device, F16Kernel::PeakF32, 32.0 * 8.0 * 2.0)?,
            f16_tflops: peak(device, F16Kernel::PeakF16, per_warp(16.0))?,
            int8_tops: peak(device, F16Kernel::PeakInt8, per_warp(32.0))?,
            bandwidth_gb_s: copy.traffic() as f64 / (least * 1e6),
        })
    }
}

/// 10^12 operations per second of a kernel whose warps do so many a round.
fn peak(device: &mut Device, kernel: F16Kernel, per_round: f64) -> Result<f64, CudaError> {
    let blocks = 8 * device.multiprocessors()?;
    let warps = f64::from(blocks * F16Kernel::THREADS / 32);
    let mut rounds = 4;
    loop {
        let dst = Tensor::f32(0, View::dense(0, 1, 1, 1));
        let arguments = Arguments { src: dst, dst, kernel: rounds, ..Arguments::default() };
        let launch = Launch::packed(Kernel::F16(kernel), [blocks, 1, 1], arguments, 0);
        let millis = device.time_launch(&launch)?;
        if millis >= LONG_ENOUGH || rounds >= MAX_ROUNDS {
            return Ok(warps * per_round * f64::from(rounds) / (millis.max(1e-6) * 1e9));
        }
        rounds *= 4;
    }
}
