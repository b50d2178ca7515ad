//! Advanced SIMD of 64-bit ARM: 32 registers of four f32, taken in pairs.

use super::lanes::Lanes;
use super::product::{self, Product};
use std::arch::aarch64::*;

/// Number of lanes.
const LANES: usize = 8;

/// Two 128-bit registers.
#[derive(Clone, Copy)]
pub(super) struct Neon(float32x4_t, float32x4_t);

// SAFETY (all functions): NEON is there (it is part of aarch64) and pointers are valid, the caller's promise.
impl Lanes for Neon {
    const LANES: usize = LANES;
    const SUMS: usize = 12;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(vdupq_n_f32(value), vdupq_n_f32(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let mut all = [0.0f32; LANES];
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), n);
            Self::load(all.as_ptr())
        }
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
    unsafe fn sub(self, other: Self) -> Self {
        unsafe { Self(vsubq_f32(self.0, other.0), vsubq_f32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        unsafe { Self(vmulq_f32(self.0, other.0), vmulq_f32(self.1, other.1)) }
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        unsafe { Self(vdivq_f32(vdupq_n_f32(1.0), self.0), vdivq_f32(vdupq_n_f32(1.0), self.1)) }
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
    unsafe fn scale(self, power: Self) -> Self {
        unsafe {
            let two = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127))));
            Self(vmulq_f32(self.0, two(power.0)), vmulq_f32(self.1, two(power.1)))
        }
    }
    // Prefetching has no stable intrinsic here.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { product::tile::<Self>(product, rows, vectors) }
    }
}
