//! What a GPU can do at most, in the few figures that an estimate needs, and the figures of the architectures that a
//! profile may name.
//!
//! Rates per clock and multiprocessor belong to the architecture; the number of multiprocessors, the clock, the L2 and
//! the memory belong to a product. Where a profile leaves the latter out, those of the smallest common product of the
//! architecture stand in, so that an estimate errs on the slow side.
//!
//! Sources: NVIDIA, "CUDA C++ Programming Guide", throughput of native arithmetic instructions (results per clock and
//! multiprocessor); the white papers of GA100, GA102, Ada and H100, and the technical briefs of Jetson
//! Orin Nano and AGX Orin (multiprocessors, clocks, L2, tensor rates without sparsity). For sm_90 the tensor
//! rates are those that `mma.sync` reached on an H200: its documented ones need instructions that only it has.

use crate::graph::Dtype;
use crate::profile::{Device, GpuFigures};

/// Microseconds that an empty node of a CUDA graph took on an H200 at [`MEASURED_GHZ`].
pub(super) const MEASURED_NODE_US: f64 = 0.54;

/// Clock of the GPU on which kernels were timed, GHz: every multiprocessor's time is taken to go with its clock.
pub(super) const MEASURED_GHZ: f64 = 1.98;

/// Peak figures of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// Multiprocessors.
    pub multiprocessors: f64,
    /// Clock that the GPU keeps under load, GHz.
    pub clock_ghz: f64,
    /// 10^12 floating-point operations per second of the f32 units (a multiply-add is two).
    pub f32_tflops: f64,
    /// The same of the tensor cores on f16 values, without sparsity.
    pub f16_tflops: f64,
    /// 10^12 operations per second of the tensor cores on int8 values, without sparsity.
    pub int8_tops: f64,
    /// Bytes of the L2 cache, in units of 2^20.
    pub l2_mib: f64,
    /// Bytes per second between memory and GPU, in units of 10^9.
    pub bandwidth: f64,
    /// Microseconds of a node of a CUDA graph that does nothing.
    pub node_us: f64,
}

/// An architecture: rates per clock and multiprocessor, and a small product.
struct Architecture {
    name: &'static str,
    /// Floating-point operations of the f32 units, then operations of the tensor cores on f16 and on int8.
    per_clock: [f64; 3],
    /// Multiprocessors, GHz, MiB of L2, GB/s of memory.
    product: [f64; 4],
}

const ARCHITECTURES: [Architecture; 5] = [
    // A30.
    Architecture { name: "sm_80", per_clock: [128.0, 2048.0, 4096.0], product: [56.0, 1.44, 24.0, 933.0] },
    // GeForce RTX 3050.
    Architecture { name: "sm_86", per_clock: [256.0, 1024.0, 2048.0], product: [20.0, 1.78, 2.0, 224.0] },
    // Jetson Orin Nano 8 GB, 15 W.
    Architecture { name: "sm_87", per_clock: [256.0, 2048.0, 4096.0], product: [8.0, 0.625, 2.0, 68.0] },
    // L4.
    Architecture { name: "sm_89", per_clock: [256.0, 1024.0, 2048.0], product: [58.0, 2.04, 48.0, 300.0] },
    // H100 PCIe.
    Architecture { name: "sm_90", per_clock: [256.0, 2430.0, 4855.0], product: [114.0, 1.755, 50.0, 2000.0] },
];

impl Gpu {
    /// The GPU of a device: what its profile says, and for the rest the figures of its architecture.
    ///
    /// # Errors
    /// Names the keys that are missing where the architecture is not known here; that there is none, where the profile
    /// has no `cuda`.
    pub fn of(device: &Device) -> Result<Self, String> {
        let name = device.cuda.as_deref().ok_or("[device] has no `cuda`")?;
        // `sm_90a` computes as `sm_90` does.
        let plain = name.trim_end_matches(|c: char| c.is_ascii_lowercase());
        let known = ARCHITECTURES.iter().find(|architecture| architecture.name == plain);
        let GpuFigures { multiprocessors, clock_ghz, f32_tflops, f16_tflops, int8_tops, l2_mib, node_us } = device.gpu;
        let mut missing = Vec::new();
        let mut figure = |key: &'static str, given: Option<f64>, known: Option<f64>| {
            given.or(known).unwrap_or_else(|| {
                missing.push(key);
                f64::NAN
            })
        };
        let product = |at: usize| known.map(|k| k.product[at]);
        let multiprocessors = figure("gpu-multiprocessors", multiprocessors.map(|n| n as f64), product(0));
        let clock_ghz = figure("gpu-clock-ghz", clock_ghz, product(1));
        let peak = |at: usize| known.map(|k| k.per_clock[at] * multiprocessors * clock_ghz / 1e3);
        let gpu = Self {
            multiprocessors,
            clock_ghz,
            f32_tflops: figure("gpu-f32-tflops", f32_tflops, peak(0)),
            f16_tflops: figure("gpu-f16-tflops", f16_tflops, peak(1)),
            int8_tops: figure("gpu-int8-tops", int8_tops, peak(2)),
            l2_mib: figure("gpu-l2-mib", l2_mib.map(|mib| mib.get()), product(2)),
            bandwidth: figure("bandwidth-gb-s", device.bandwidth, product(3)),
            node_us: node_us.unwrap_or(MEASURED_NODE_US * MEASURED_GHZ / clock_ghz),
        };
        if missing.is_empty() {
            Ok(gpu)
        } else {
            Err(format!("nothing is known of {name}: give {}", missing.join(", ")))
        }
    }

    /// Operations per clock and multiprocessor in a dtype.
    pub(super) fn per_clock(&self, dtype: Dtype) -> f64 {
        let tera = match dtype {
            Dtype::F32 => self.f32_tflops,
            Dtype::F16 => self.f16_tflops,
            Dtype::Int8 => self.int8_tops,
        };
        tera * 1e3 / (self.multiprocessors * self.clock_ghz)
    }

    /// Factor from the microseconds of a multiprocessor that was timed to those of one of this GPU.
    pub(super) fn slower(&self) -> f64 {
        MEASURED_GHZ / self.clock_ghz
    }
}
