//! The instruction sets that the kernels are compiled for: which ones this machine has, and the best of them.
//!
//! Kernels are generic over a vector register ([`lanes`]). Every instruction set implements it in a file of its own;
//! [`for_isa`] makes the function that calls a kernel for the instruction set chosen at run time.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod lanes;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod packed;
pub(super) mod portable;

use lanes::Register;
use std::fmt;
use std::str::FromStr;

/// The instruction set that the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Portable Rust.
    Portable,
    /// AVX-512F of x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA of x86-64.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Advanced SIMD of 64-bit ARM.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best instruction set that this machine has.
    pub fn detect() -> Self {
        Self::all().next().unwrap_or(Self::Portable)
    }

    /// All instruction sets that this machine has, the best first.
    pub fn all() -> impl Iterator<Item = Self> {
        let every = [
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, std::arch::is_x86_feature_detected!("avx512f")),
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")),
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, std::arch::is_aarch64_feature_detected!("neon")),
            (Self::Portable, true),
        ];
        every.into_iter().filter(|(_, available)| *available).map(|(isa, _)| isa)
    }

    /// Its name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
        }
    }

    /// Whether it rounds a product and its sum once, in one instruction. Values in f32 are then the same to the bit as on
    /// every other that does.
    pub fn fuses(self) -> bool {
        self != Self::Portable || portable::FUSES
    }

    /// Number of f32 in a vector register.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable => portable::Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::LANES,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::Neon::LANES,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    /// Reads a [name](Isa::name); one that this machine does not have is an error that says which it has.
    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::name).collect();
            format!("expected an instruction set of this CPU: {}", names.join(", "))
        })
    }
}

/// Defines a function that calls a generic kernel for the register of an instruction set, compiled with that
/// instruction set's features.
macro_rules! for_isa {
    ($name:ident, $generic:ident, $args:ty) => {
        /// # Safety
        /// As the generic function; the machine must have the instruction set.
        unsafe fn $name(isa: $crate::kernels::Isa, args: &$args, item: usize, worker: usize) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2(args: &$args, item: usize, worker: usize) {
                // SAFETY: the caller keeps the generic function's contract.
                unsafe { $generic::<$crate::kernels::isa::avx2::Avx2>(args, item, worker) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            unsafe fn avx512(args: &$args, item: usize, worker: usize) {
                // SAFETY: the caller keeps the generic function's contract.
                unsafe { $generic::<$crate::kernels::isa::avx512::Avx512>(args, item, worker) }
            }
            use $crate::kernels::Isa;
            // SAFETY: the caller keeps the generic function's contract; `Isa::all` detected the features.
            unsafe {
                match isa {
                    Isa::Portable => $generic::<$crate::kernels::isa::portable::Portable>(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => avx512(args, item, worker),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2(args, item, worker),
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon => $generic::<$crate::kernels::isa::neon::Neon>(args, item, worker),
                }
            }
        }
    };
}
pub(super) use for_isa;
