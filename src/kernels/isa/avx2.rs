//! AVX2 and FMA of x86-64: 16 registers of eight f32.

use super::lanes::{Lanes, PackedLanes, Register};
use crate::kernels::product::Product;
use crate::kernels::tile;
use std::arch::x86_64::*;

/// One 256-bit register.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2(__m256);

/// Eight lanes that count, then seven that do not.
const MASKS: [i32; 15] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0];

// SAFETY (all functions): AVX2 and FMA are there and pointers are valid, both the caller's promise.
impl Register for Avx2 {
    const LANES: usize = 8;
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
        Self(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, other.0, sum.0) })
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::tile::<Self>(product, rows, vectors) }
    }
}

// SAFETY: as above.
impl Lanes for Avx2 {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(value) })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        unsafe {
            let mask = _mm256_loadu_si256(MASKS.as_ptr().add(8 - n).cast());
            Self(_mm256_maskload_ps(from, mask))
        }
    }
    // Masked stores are slow on some CPUs.
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
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
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
    unsafe fn round(self) -> Self {
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(power.0), _mm256_set1_epi32(127));
            Self(_mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))))
        }
    }
}

/// Eight lanes of int8 values. AVX2 multiplies pairs of 16-bit integers without saturation, so a lane holds two values.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Int8(Avx2);

impl Int8 {
    #[inline(always)]
    unsafe fn integers(self) -> __m256i {
        // SAFETY: no pointers.
        unsafe { _mm256_castps_si256(self.0.0) }
    }
}

// SAFETY (all functions): as above.
impl PackedLanes for Int8 {
    type Float = Avx2;
    const PER_LANE: usize = 2;
    const INTEGER: bool = true;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn from_bits(bits: Avx2) -> Self {
        Self(bits)
    }
    #[inline(always)]
    fn bits(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, sums: Self) -> Self {
        unsafe {
            let sums = _mm256_add_epi32(sums.integers(), _mm256_madd_epi16(self.integers(), weights.integers()));
            Self(Avx2(_mm256_castsi256_ps(sums)))
        }
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Avx2 {
        Avx2(unsafe { _mm256_cvtepi32_ps(self.integers()) })
    }
    #[inline(always)]
    unsafe fn store_values(values: Avx2, to: *mut f32) {
        unsafe {
            let integers = _mm256_cvtps_epi32(values.0);
            let pairs = _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256::<1>(integers));
            _mm_storeu_si128(to.cast(), pairs);
        }
    }
    #[target_feature(enable = "avx2,fma")]
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::packed_tile::<Self>(product, rows, vectors) }
    }
}
