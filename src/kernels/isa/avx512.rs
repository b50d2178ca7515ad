//! AVX-512 of x86-64: 32 registers of sixteen f32, and masks for what is less than a register.

use super::lanes::{Lanes, PackedLanes, Register};
use crate::kernels::product::Product;
use crate::kernels::tile;
use std::arch::x86_64::*;

/// One 512-bit register.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512(__m512);

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    (1u16 << n) - 1
}

// SAFETY (all functions): AVX-512F is there and pointers are valid, both the caller's promise.
impl Register for Avx512 {
    const LANES: usize = 16;
    const SUMS: usize = 24;

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
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, other.0, sum.0) })
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[target_feature(enable = "avx512f")]
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::tile::<Self>(product, rows, vectors) }
    }
}

// SAFETY: as above.
impl Lanes for Avx512 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        Self(unsafe { _mm512_maskz_loadu_ps(first(n), from) })
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, n: usize) {
        unsafe { _mm512_mask_storeu_ps(to, first(n), self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { _mm512_div_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        Self(unsafe { _mm512_scalef_ps(self.0, power.0) })
    }
}

/// Sixteen lanes of four int8 values each, for the dot products of AVX-512 VNNI.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Vnni(Avx512);

impl Vnni {
    #[inline(always)]
    unsafe fn integers(self) -> __m512i {
        // SAFETY: no pointers.
        unsafe { _mm512_castps_si512(self.0.0) }
    }
}

// SAFETY (all functions): as above, with AVX-512 VNNI.
impl PackedLanes for Vnni {
    type Float = Avx512;
    const PER_LANE: usize = 4;
    const INTEGER: bool = true;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn from_bits(bits: Avx512) -> Self {
        Self(bits)
    }
    #[inline(always)]
    fn bits(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, sums: Self) -> Self {
        unsafe {
            let sums = _mm512_dpbusd_epi32(sums.integers(), self.integers(), weights.integers());
            Self(Avx512(_mm512_castsi512_ps(sums)))
        }
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Avx512 {
        Avx512(unsafe { _mm512_cvtepi32_ps(self.integers()) })
    }
    #[inline(always)]
    unsafe fn store_values(values: Avx512, to: *mut f32) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(values.0))) }
    }
    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::packed_tile::<Self>(product, rows, vectors) }
    }
}

/// Sixteen lanes of two f16 each, for AVX-512 FP16.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Fp16(Avx512);

impl Fp16 {
    #[inline(always)]
    unsafe fn f16(self) -> __m512h {
        // SAFETY: no pointers.
        unsafe { _mm512_castps_ph(self.0.0) }
    }
}

// SAFETY (all functions): as above, with AVX-512 FP16.
impl PackedLanes for Fp16 {
    type Float = Avx512;
    const PER_LANE: usize = 2;
    const INTEGER: bool = false;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn from_bits(bits: Avx512) -> Self {
        Self(bits)
    }
    #[inline(always)]
    fn bits(self) -> Avx512 {
        self.0
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, sums: Self) -> Self {
        unsafe {
            let sums = _mm512_fmadd_ph(self.f16(), weights.f16(), sums.f16());
            Self(Avx512(_mm512_castph_ps(sums)))
        }
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Avx512 {
        unsafe {
            let pairs = _mm512_castps_si512(self.0.0);
            let even = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
            let odd = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pairs)));
            Avx512(_mm512_add_ps(even, odd))
        }
    }
    #[inline(always)]
    unsafe fn store_values(values: Avx512, to: *mut f32) {
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values.0)) }
    }
    #[target_feature(enable = "avx512f,avx512fp16")]
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::packed_tile::<Self>(product, rows, vectors) }
    }
}
