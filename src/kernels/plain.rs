//! Plain Rust; what compilers make of it.

use super::lanes::{Lanes, Register, Words};
use super::product::{self, Product};
use half::f16;

/// Number of lanes.
const LANES: usize = 8;

/// An array.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; LANES]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY (all functions): pointers are the caller's promise; nothing else is unsafe.
impl Register for Plain {
    const LANES: usize = LANES;
    const SUMS: usize = 6;

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
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * other.0[i] + sum.0[i]))
    }
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { product::tile::<Self>(product, rows, vectors) }
    }
}

// SAFETY: as above.
impl Lanes for Plain {
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self {
        Self(std::array::from_fn(|i| if i < n { unsafe { from.add(i).read() } } else { 0.0 }))
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
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        Self(self.0.map(|v| 1.0 / v))
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
    unsafe fn round(self) -> Self {
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|v| (v + MAGIC) - MAGIC))
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        self.zip(power, |v, n| v * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
}

/// An array of words of four bytes.
#[derive(Clone, Copy)]
pub(super) struct Bytes([i32; LANES]);

// SAFETY (all functions): as above.
impl Register for Bytes {
    const LANES: usize = LANES;
    const SUMS: usize = Plain::SUMS;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; LANES])
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const f32) -> Self {
        Self([unsafe { from.cast::<i32>().read() }; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[i32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[i32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        let dot = |values: i32, weights: i32| -> i32 {
            let products = values.to_le_bytes().into_iter().zip(weights.to_le_bytes());
            products.map(|(value, weight)| i32::from(value) * i32::from(weight as i8)).sum()
        };
        Self(std::array::from_fn(|i| sum.0[i].wrapping_add(dot(self.0[i], other.0[i]))))
    }
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { product::tile_of_words::<Self>(product, rows, vectors) }
    }
}

// SAFETY: as above.
impl Words for Bytes {
    type Float = Plain;
    const PER_WORD: usize = 4;
    const WHOLE: bool = true;
    const SHIFT: i32 = 0;

    #[inline(always)]
    unsafe fn float(self) -> Plain {
        Plain(self.0.map(|sum| sum as f32))
    }
    #[inline(always)]
    unsafe fn store_values(values: Plain, to: *mut f32) {
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(values.0.map(|value| value as u8)) }
    }
}

/// An array of pairs of halves.
#[derive(Clone, Copy)]
pub(super) struct Halves([[f16; 2]; LANES]);

// SAFETY (all functions): as above.
impl Register for Halves {
    const LANES: usize = LANES;
    const SUMS: usize = Plain::SUMS;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([[f16::ZERO; 2]; LANES])
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const f32) -> Self {
        Self([unsafe { from.cast::<[f16; 2]>().read_unaligned() }; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[[f16; 2]; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[[f16; 2]; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        // A product of two halves is an f32.
        let fma = |a: f16, b: f16, c: f16| f16::from_f32(a.to_f32() * b.to_f32() + c.to_f32());
        Self(std::array::from_fn(|i| std::array::from_fn(|j| fma(self.0[i][j], other.0[i][j], sum.0[i][j]))))
    }
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { product::tile_of_words::<Self>(product, rows, vectors) }
    }
}

// SAFETY: as above.
impl Words for Halves {
    type Float = Plain;
    const PER_WORD: usize = 2;
    const WHOLE: bool = false;
    const SHIFT: i32 = 0;

    #[inline(always)]
    unsafe fn float(self) -> Plain {
        Plain(self.0.map(|[even, odd]| even.to_f32() + odd.to_f32()))
    }
    #[inline(always)]
    unsafe fn store_values(values: Plain, to: *mut f32) {
        unsafe { to.cast::<[f16; LANES]>().write_unaligned(values.0.map(f16::from_f32)) }
    }
}
