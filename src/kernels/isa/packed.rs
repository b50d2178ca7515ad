//! The instructions that multiply packed lanes, int8 or f16, and which of them goes with an instruction set.
//!
//! What a machine offers here depends on more than [`Isa`]: dot products of bytes and arithmetic in f16 are extensions
//! that a CPU may lack.

#[cfg(target_arch = "x86_64")]
use super::avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::lanes::{PackedLanes, Register};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Isa, portable};

/// The instructions that multiply packed lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) enum PackedIsa {
    PortableInt8,
    PortableF16,
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2Int8,
    #[cfg(target_arch = "x86_64")]
    Avx512Fp16,
    #[cfg(target_arch = "aarch64")]
    NeonInt8,
    #[cfg(target_arch = "aarch64")]
    NeonDotProduct,
    #[cfg(target_arch = "aarch64")]
    NeonFp16,
}

/// How registers of packed lanes hold values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernels) struct Packing {
    /// Lanes of a register.
    pub lanes: usize,
    /// Values in a lane.
    pub per_lane: usize,
    /// Subtracted from an int8 value of 0 to 255 before it is stored.
    pub offset: i32,
}

impl PackedIsa {
    /// The best instructions for int8 that go with an instruction set of this machine.
    pub fn int8(isa: Isa) -> Self {
        match isa {
            Isa::Portable => Self::PortableInt8,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if std::arch::is_x86_feature_detected!("avx512vnni") => Self::Vnni,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if !Isa::all().any(|isa| isa == Isa::Avx2) => Self::PortableInt8,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx2 => Self::Avx2Int8,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => Self::NeonDotProduct,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Self::NeonInt8,
        }
    }

    /// The instructions for f16 that go with an instruction set of this machine, portable ones where it has none.
    pub fn f16(isa: Isa) -> Self {
        Self::native_f16(isa).unwrap_or(Self::PortableF16)
    }

    /// `None` where the machine only stores f16, and computes in f32.
    pub fn native_f16(isa: Isa) -> Option<Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => std::arch::is_x86_feature_detected!("avx512fp16").then_some(Self::Avx512Fp16),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("fp16").then_some(Self::NeonFp16),
            _ => None,
        }
    }

    /// How its registers hold values.
    pub fn packing(self) -> Packing {
        fn of<P: PackedLanes>() -> Packing {
            Packing { lanes: P::LANES, per_lane: P::PER_LANE, offset: P::OFFSET }
        }
        match self {
            Self::PortableInt8 => of::<portable::Int8>(),
            Self::PortableF16 => of::<portable::F16>(),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => of::<avx512::Vnni>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Int8 => of::<avx2::Int8>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Fp16 => of::<avx512::Fp16>(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonInt8 => of::<neon::Int8<false>>(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotProduct => of::<neon::Int8<true>>(),
            #[cfg(target_arch = "aarch64")]
            Self::NeonFp16 => of::<neon::Fp16>(),
        }
    }
}

/// Defines a function that calls a generic kernel for the packed lanes of a [`PackedIsa`], compiled with its features.
macro_rules! for_packed_isa {
    ($name:ident, $generic:ident, $args:ty) => {
        /// # Safety
        /// As the generic function; the machine must have the instructions.
        unsafe fn $name(isa: $crate::kernels::isa::packed::PackedIsa, args: &$args, item: usize, worker: usize) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2_int8(args: &$args, item: usize, worker: usize) {
                // SAFETY: the caller keeps the generic function's contract.
                unsafe { $generic::<$crate::kernels::isa::avx2::Int8>(args, item, worker) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vnni")]
            unsafe fn vnni(args: &$args, item: usize, worker: usize) {
                // SAFETY: the caller keeps the generic function's contract.
                unsafe { $generic::<$crate::kernels::isa::avx512::Vnni>(args, item, worker) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512fp16")]
            unsafe fn avx512_fp16(args: &$args, item: usize, worker: usize) {
                // SAFETY: the caller keeps the generic function's contract.
                unsafe { $generic::<$crate::kernels::isa::avx512::Fp16>(args, item, worker) }
            }
            use $crate::kernels::isa::packed::PackedIsa;
            // SAFETY: the caller keeps the generic function's contract; `PackedIsa` detected the features.
            unsafe {
                match isa {
                    PackedIsa::PortableInt8 => $generic::<$crate::kernels::isa::portable::Int8>(args, item, worker),
                    PackedIsa::PortableF16 => $generic::<$crate::kernels::isa::portable::F16>(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    PackedIsa::Vnni => vnni(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    PackedIsa::Avx2Int8 => avx2_int8(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    PackedIsa::Avx512Fp16 => avx512_fp16(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    PackedIsa::NeonInt8 => $generic::<$crate::kernels::isa::neon::Int8<false>>(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    PackedIsa::NeonDotProduct => $generic::<$crate::kernels::isa::neon::Int8<true>>(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    PackedIsa::NeonFp16 => $generic::<$crate::kernels::isa::neon::Fp16>(args, item, worker),
                }
            }
        }
    };
}
pub(in crate::kernels) use for_packed_isa;
