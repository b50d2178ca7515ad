//! Advanced SIMD of 64-bit ARM: 32 registers of four f32, taken in pairs.

use super::lanes::{Lanes, PackedLanes, Register};
use crate::kernels::product::Product;
use crate::kernels::tile;
use std::arch::aarch64::*;

/// Number of lanes.
const LANES: usize = 8;

/// Two 128-bit registers.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Neon(float32x4_t, float32x4_t);

// SAFETY (all functions): NEON is there (it is part of aarch64) and pointers are valid, the caller's promise.
impl Register for Neon {
    const LANES: usize = LANES;
    const SUMS: usize = 12;

    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { Self::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const f32) -> Self {
        unsafe { Self::splat(from.read()) }
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
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        unsafe { Self(vfmaq_f32(sum.0, self.0, other.0), vfmaq_f32(sum.1, self.1, other.1)) }
    }
    // Prefetching has no stable intrinsic here.
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::tile::<Self>(product, rows, vectors) }
    }
}

// SAFETY: as above.
impl Lanes for Neon {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self(vdupq_n_f32(value), vdupq_n_f32(value)) }
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
}

/// Both registers, by a function of one and its like in two others.
#[inline(always)]
fn each([a, b, c]: [Neon; 3], f: impl Fn(float32x4_t, float32x4_t, float32x4_t) -> float32x4_t) -> Neon {
    Neon(f(a.0, b.0, c.0), f(a.1, b.1, c.1))
}

/// Eight lanes of four int8 values each; `DOT` where the CPU has the dot products of ARMv8.2.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Int8<const DOT: bool>(Neon);

/// Adds to every sum the products of four signed bytes, by instructions that every CPU has. No weight is -128, so two
/// products fit 16 bits.
#[inline(always)]
unsafe fn dot(values: float32x4_t, weights: float32x4_t, sums: float32x4_t) -> float32x4_t {
    // SAFETY: no pointers.
    unsafe {
        let (x, w) = (vreinterpretq_s8_f32(values), vreinterpretq_s8_f32(weights));
        let low = vmull_s8(vget_low_s8(x), vget_low_s8(w));
        let high = vmull_high_s8(x, w);
        vreinterpretq_f32_s32(vpadalq_s16(vreinterpretq_s32_f32(sums), vpaddq_s16(low, high)))
    }
}

/// The same in one instruction of ARMv8.2.
#[inline(always)]
unsafe fn dot_of_v8_2(values: float32x4_t, weights: float32x4_t, mut sums: float32x4_t) -> float32x4_t {
    // SAFETY: no memory is touched; the CPU has the extension, which who takes `Int8<true>` promises.
    unsafe {
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {values:v}.16b, {weights:v}.16b",
            sums = inout(vreg) sums,
            values = in(vreg) values,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

// SAFETY (all functions): as above.
impl<const DOT: bool> PackedLanes for Int8<DOT> {
    type Float = Neon;
    const PER_LANE: usize = 4;
    const INTEGER: bool = true;
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn from_bits(bits: Neon) -> Self {
        Self(bits)
    }
    #[inline(always)]
    fn bits(self) -> Neon {
        self.0
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, sums: Self) -> Self {
        let sum = |values, weights, sums| unsafe {
            if DOT { dot_of_v8_2(values, weights, sums) } else { dot(values, weights, sums) }
        };
        Self(each([self.0, weights.0, sums.0], sum))
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Neon {
        let float = |v| unsafe { vcvtq_f32_s32(vreinterpretq_s32_f32(v)) };
        Neon(float(self.0.0), float(self.0.1))
    }
    #[inline(always)]
    unsafe fn store_values(values: Neon, to: *mut f32) {
        unsafe {
            let pairs = vcombine_s16(vmovn_s32(vcvtq_s32_f32(values.0)), vmovn_s32(vcvtq_s32_f32(values.1)));
            let bytes = vreinterpret_u8_s8(vmovn_s16(pairs));
            vst1_u8(to.cast(), veor_u8(bytes, vdup_n_u8(128)));
        }
    }
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::packed_tile::<Self>(product, rows, vectors) }
    }
}

/// Eight lanes of two f16 each, for the half-precision arithmetic of ARMv8.2.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Fp16(Neon);

/// Adds to every f16 of the sums the product of two f16, in one instruction of ARMv8.2.
#[inline(always)]
unsafe fn fma_f16(values: float32x4_t, weights: float32x4_t, mut sums: float32x4_t) -> float32x4_t {
    // SAFETY: no memory is touched; the CPU has the extension, which who takes `Fp16` promises.
    unsafe {
        std::arch::asm!(
            ".arch_extension fp16",
            "fmla {sums:v}.8h, {values:v}.8h, {weights:v}.8h",
            sums = inout(vreg) sums,
            values = in(vreg) values,
            weights = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

// SAFETY (all functions): as above, with half-precision arithmetic.
impl PackedLanes for Fp16 {
    type Float = Neon;
    const PER_LANE: usize = 2;
    const INTEGER: bool = false;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn from_bits(bits: Neon) -> Self {
        Self(bits)
    }
    #[inline(always)]
    fn bits(self) -> Neon {
        self.0
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, sums: Self) -> Self {
        let sum = |values, weights, sums| unsafe { fma_f16(values, weights, sums) };
        Self(each([self.0, weights.0, sums.0], sum))
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Neon {
        let float = |v| unsafe {
            let pairs = vreinterpretq_u32_f32(v);
            let even = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(pairs)));
            let odd = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32::<16>(pairs)));
            vaddq_f32(even, odd)
        };
        Neon(float(self.0.0), float(self.0.1))
    }
    #[inline(always)]
    unsafe fn store_values(values: Neon, to: *mut f32) {
        let to_f16 = |v| unsafe { vreinterpret_u16_f16(vcvt_f16_f32(v)) };
        unsafe { vst1q_u16(to.cast(), vcombine_u16(to_f16(values.0), to_f16(values.1))) }
    }
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::packed_tile::<Self>(product, rows, vectors) }
    }
}
