//! Eight f32 at a time: one trait, one implementation per instruction set.
//!
//! All functions are `unsafe` for the same two reasons: pointers must be valid for the lanes that are read or written,
//! and the machine must have the instruction set of the implementation.
#![allow(clippy::missing_safety_doc)]

/// Number of lanes.
pub(super) const LANES: usize = 8;

/// Eight f32. See the module on safety.
pub(super) trait Lanes: Copy {
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `n < 8` lanes.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// `self * other + sum`.
    unsafe fn fma(self, other: Self, sum: Self) -> Self;
    /// The nearest whole numbers, for values within +-2^22.
    unsafe fn round(self) -> Self;
    /// Two to the power of whole numbers in -126..=127.
    unsafe fn exp2(self) -> Self;
}

/// `e^x`, relative error about 2e-7, for any finite x (saturating beyond the range of f32). The polynomial is the one
/// of Cephes' `expf`.
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: no pointers; the instruction set is the caller's business.
    unsafe {
        let x = x.min(V::splat(88.0)).max(V::splat(-87.0));
        let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
        let r = n.fma(V::splat(-355.0 / 512.0), x);
        let r = n.fma(V::splat(2.121_944_4e-4), r);
        let p = V::splat(1.987_569_1e-4);
        let p = p.fma(r, V::splat(1.398_199_9e-3));
        let p = p.fma(r, V::splat(8.333_452e-3));
        let p = p.fma(r, V::splat(4.166_579_6e-2));
        let p = p.fma(r, V::splat(1.666_666_5e-1));
        let p = p.fma(r, V::splat(0.5));
        let y = p.fma(r.mul(r), r.add(V::splat(1.0)));
        y.mul(n.exp2())
    }
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(super) unsafe fn silu<V: Lanes>(x: V) -> V {
    // SAFETY: as `exp`.
    // Below -100 the result is as good as 0, and `exp` saturates.
    unsafe { x.max(V::splat(-100.0)).div(exp(x.mul(V::splat(-1.0))).add(V::splat(1.0))) }
}

/// Plain Rust; what compilers make of it.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY (all functions): pointers are the caller's promise; nothing else is unsafe.
impl Lanes for Plain {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        for (i, value) in self.0.iter().enumerate().take(n) {
            unsafe { to.add(i).write(*value) }
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, f32::max)
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, f32::min)
    }
    #[inline(always)]
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i] + sum.0[i]))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|v| (v + MAGIC) - MAGIC))
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        Self(self.0.map(|v| f32::from_bits(((v as i32 + 127) as u32) << 23)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx2;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// One 256-bit register.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256);

    // SAFETY (all functions): AVX2 and FMA are there and pointers are valid, both the caller's promise.
    impl Lanes for Avx2 {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm256_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, n: usize) {
            unsafe {
                let (mut at, mut half) = (to, _mm256_castps256_ps128(self.0));
                if n & 4 != 0 {
                    _mm_storeu_ps(at, half);
                    half = _mm256_extractf128_ps::<1>(self.0);
                    at = at.add(4);
                }
                if n & 2 != 0 {
                    at.cast::<f64>().write_unaligned(_mm_cvtsd_f64(_mm_castps_pd(half)));
                    half = _mm_movehl_ps(half, half);
                    at = at.add(2);
                }
                if n & 1 != 0 {
                    _mm_store_ss(at, half);
                }
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            Self(unsafe { _mm256_div_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            Self(unsafe { _mm256_min_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn fma(self, other: Self, sum: Self) -> Self {
            Self(unsafe { _mm256_fmadd_ps(self.0, other.0, sum.0) })
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            unsafe {
                let n = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
                Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{LANES, Lanes};
    use std::arch::aarch64::*;

    /// Two 128-bit registers.
    #[derive(Clone, Copy)]
    pub struct Neon(float32x4_t, float32x4_t);

    // SAFETY (all functions): NEON is there (it is part of aarch64) and pointers are valid, the caller's promise.
    impl Lanes for Neon {
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { Self(vdupq_n_f32(value), vdupq_n_f32(value)) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(vld1q_f32(from), vld1q_f32(from.add(4))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                vst1q_f32(to, self.0);
                vst1q_f32(to.add(4), self.1);
            }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, n: usize) {
            unsafe {
                let mut all = [0.0f32; LANES];
                self.store(all.as_mut_ptr());
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, n);
            }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            unsafe { Self(vaddq_f32(self.0, other.0), vaddq_f32(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(vmulq_f32(self.0, other.0), vmulq_f32(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn div(self, other: Self) -> Self {
            unsafe { Self(vdivq_f32(self.0, other.0), vdivq_f32(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { Self(vmaxq_f32(self.0, other.0), vmaxq_f32(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn min(self, other: Self) -> Self {
            unsafe { Self(vminq_f32(self.0, other.0), vminq_f32(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn fma(self, other: Self, sum: Self) -> Self {
            unsafe { Self(vfmaq_f32(sum.0, self.0, other.0), vfmaq_f32(sum.1, self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn round(self) -> Self {
            unsafe { Self(vrndnq_f32(self.0), vrndnq_f32(self.1)) }
        }
        #[inline(always)]
        unsafe fn exp2(self) -> Self {
            unsafe {
                let power =
                    |v| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(v), vdupq_n_s32(127))));
                Self(power(self.0), power(self.1))
            }
        }
    }
}
