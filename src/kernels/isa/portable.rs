//! Portable Rust: arrays that compilers vectorise as they can. The reference for the other instruction sets, and what
//! runs where none of them is.

use super::lanes::{Lanes, PackedLanes, Register};
use crate::kernels::product::Product;
use crate::kernels::tile;
use half::f16;

/// Number of lanes.
const LANES: usize = 8;

/// Whether the target has an instruction that multiplies and adds with one rounding; in software that takes many.
pub(super) const FUSES: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64", target_arch = "riscv64"));

/// Eight f32 in an array.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY (all functions): pointers are the caller's promise; nothing else is unsafe.
impl Register for Portable {
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
        let fma = |i: usize| match FUSES {
            true => self.0[i].mul_add(other.0[i], sum.0[i]),
            false => self.0[i] * other.0[i] + sum.0[i],
        };
        Self(std::array::from_fn(fma))
    }
    #[inline(always)]
    unsafe fn prefetch(_from: *const f32) {}
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::tile::<Self>(product, rows, vectors) }
    }
}

// SAFETY: as above.
impl Lanes for Portable {
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
    unsafe fn round(self) -> Self {
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|v| (v + MAGIC) - MAGIC))
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        self.zip(power, |v, n| v * f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
}

/// Lanes of four int8 values each.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Int8(Portable);

/// A function of three registers, lane by lane.
#[inline(always)]
fn zip3(all: [Portable; 3], f: impl Fn(u32, u32, u32) -> u32) -> Portable {
    let [a, b, c] = all.map(|v| v.0.map(f32::to_bits));
    Portable(std::array::from_fn(|i| f32::from_bits(f(a[i], b[i], c[i]))))
}

// SAFETY (all functions): as above.
impl PackedLanes for Int8 {
    type Float = Portable;
    const PER_LANE: usize = 4;
    const INTEGER: bool = true;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn from_bits(bits: Portable) -> Self {
        Self(bits)
    }
    #[inline(always)]
    fn bits(self) -> Portable {
        self.0
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, sums: Self) -> Self {
        let dot = |values: u32, weights: u32, sum: u32| {
            let products = values.to_le_bytes().into_iter().zip(weights.to_le_bytes());
            let dot: i32 = products.map(|(value, weight)| i32::from(value) * i32::from(weight as i8)).sum();
            sum.wrapping_add(dot as u32)
        };
        Self(zip3([self.0, weights.0, sums.0], dot))
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Portable {
        Portable(self.0.0.map(|sum| sum.to_bits() as i32 as f32))
    }
    #[inline(always)]
    unsafe fn store_values(values: Portable, to: *mut f32) {
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(values.0.map(|value| value as u8)) }
    }
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::packed_tile::<Self>(product, rows, vectors) }
    }
}

/// Lanes of two f16 each.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct F16(Portable);

/// The even f16 of a lane and the odd one.
#[inline(always)]
fn pair(lane: u32) -> [f32; 2] {
    [lane as u16, (lane >> 16) as u16].map(|bits| f16::from_bits(bits).to_f32())
}

// SAFETY (all functions): as above.
impl PackedLanes for F16 {
    type Float = Portable;
    const PER_LANE: usize = 2;
    const INTEGER: bool = false;
    const OFFSET: i32 = 0;

    #[inline(always)]
    fn from_bits(bits: Portable) -> Self {
        Self(bits)
    }
    #[inline(always)]
    fn bits(self) -> Portable {
        self.0
    }
    #[inline(always)]
    unsafe fn dot(self, weights: Self, sums: Self) -> Self {
        let fma = |values: u32, weights: u32, sums: u32| {
            let [x, w, s] = [values, weights, sums].map(pair);
            // An f32 holds the product of two f16 exactly.
            let [even, odd] = [0, 1].map(|i| u32::from(f16::from_f32(x[i] * w[i] + s[i]).to_bits()));
            even | odd << 16
        };
        Self(zip3([self.0, weights.0, sums.0], fma))
    }
    #[inline(always)]
    unsafe fn to_f32(self) -> Portable {
        Portable(self.0.0.map(|sums| pair(sums.to_bits()).into_iter().sum()))
    }
    #[inline(always)]
    unsafe fn store_values(values: Portable, to: *mut f32) {
        unsafe { to.cast::<[f16; LANES]>().write_unaligned(values.0.map(f16::from_f32)) }
    }
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { tile::packed_tile::<Self>(product, rows, vectors) }
    }
}
