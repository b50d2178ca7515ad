//! A vector register of f32: one trait, one implementation per instruction set, each in a file of its own.
//!
//! All functions are `unsafe` for the same two reasons: pointers must be valid for the lanes that are read or written,
//! and the machine must have the instruction set of the implementation.
#![allow(clippy::missing_safety_doc)]

use super::product::Product;
use crate::graph::Activation;

/// The most lanes of any implementation.
pub(super) const MAX_LANES: usize = 16;

/// Words of four bytes that are computed together, each lane a sum of products: what the tile of
/// [`product`](super::product) runs on. A word is an f32, or for [`Words`] some smaller numbers or their sums. See the
/// module on safety.
pub(super) trait Register: Copy {
    /// Number of lanes, at most [`MAX_LANES`].
    const LANES: usize;
    /// Vectors of sums that the registers hold beside what a step of the sum needs.
    const SUMS: usize;

    unsafe fn zero() -> Self;
    /// The same word in every lane.
    unsafe fn broadcast(from: *const f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * other + sum`.
    unsafe fn fma(self, other: Self, sum: Self) -> Self;
    /// Brings a cache line near the processor. The address may be any.
    unsafe fn prefetch(from: *const f32);
    /// A tile of [`super::product`], compiled for this instruction set.
    unsafe fn tile(product: &Product, rows: usize, vectors: usize);
}

/// A register of f32.
pub(super) trait Lanes: Register {
    unsafe fn splat(value: f32) -> Self;
    /// The first `n < LANES` lanes; zeros in the others.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    /// Writes the first `n < LANES` lanes.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `1 / self` to within two units in the last place; 0 or a denormal from 2^126 on.
    unsafe fn reciprocal(self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// The nearest whole numbers, for values within +-2^22.
    unsafe fn round(self) -> Self;
    /// `self` times two to the power of whole numbers in -126..=127.
    unsafe fn scale(self, power: Self) -> Self;
}

/// A register whose words are several numbers each. Whole numbers have one sum per word, an i32, and none saturates; halves
/// have two, of even and of odd channels.
pub(super) trait Words: Copy {
    /// A register of as many f32, of the same size.
    type Float: Lanes;
    /// Values in a word: 4 of one byte, or 2 of two bytes.
    const PER_WORD: usize;
    /// Whether values are whole numbers of 0 to 255.
    const WHOLE: bool;
    /// What is taken from a whole number before it is stored.
    const SHIFT: i32;

    /// The words with the bits of a register, and the other way round.
    fn of(bits: Self::Float) -> Self;
    fn bits(self) -> Self::Float;
    /// To every word of the sums the products of the values in that word of `self` with the weights there.
    unsafe fn dot(self, weights: Self, sums: Self) -> Self;
    /// The sums of the words as f32.
    unsafe fn float(self) -> Self::Float;
    /// Stores numbers as values: `LANES / PER_WORD` words.
    unsafe fn store_values(values: Self::Float, to: *mut f32);
    /// A tile of [`super::product`], compiled for what this needs.
    unsafe fn tile_of_words(product: &Product, rows: usize, vectors: usize);
}

// SAFETY (all functions): passed on.
impl<W: Words> Register for W {
    const LANES: usize = W::Float::LANES;
    const SUMS: usize = W::Float::SUMS;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self::of(unsafe { W::Float::zero() })
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const f32) -> Self {
        Self::of(unsafe { W::Float::broadcast(from) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self::of(unsafe { W::Float::load(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { self.bits().store(to) }
    }
    #[inline(always)]
    unsafe fn fma(self, other: Self, sum: Self) -> Self {
        unsafe { self.dot(other, sum) }
    }
    #[inline(always)]
    unsafe fn prefetch(from: *const f32) {
        unsafe { W::Float::prefetch(from) }
    }
    #[inline(always)]
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { W::tile_of_words(product, rows, vectors) }
    }
}

/// `ln 2` in two parts, the first exact in few bits.
const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// `(e^r - 1) / r` for `|r| <= ln(2) / 2`, lowest power first: the polynomial of least relative error.
const EXP: [f32; 5] = [9.999_997e-1, 4.999_914_8e-1, 1.666_763_9e-1, 4.189_816e-2, 8.290_271e-3];

/// `e^(sign * x)` for x within +-87, `sign` 1 or -1; relative error about 2e-7.
#[inline(always)]
unsafe fn exp_within<V: Lanes>(x: V, sign: f32) -> V {
    // SAFETY: no pointers; the instruction set is the caller's business.
    unsafe {
        // x = r - sign * n ln 2
        let n = x.mul(V::splat(sign * std::f32::consts::LOG2_E)).round();
        let r = n.fma(V::splat(-sign * LN_2[0]), x);
        let r = n.fma(V::splat(-sign * LN_2[1]), r);
        let p = r.fma(V::splat(sign * EXP[4]), V::splat(EXP[3]));
        let p = p.fma(r, V::splat(sign * EXP[2]));
        let p = p.fma(r, V::splat(EXP[1]));
        let p = p.fma(r, V::splat(sign * EXP[0]));
        p.fma(r, V::splat(1.0)).scale(n)
    }
}

/// `e^x` for any finite x, saturating beyond +-87; relative error about 2e-7.
#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: as `exp_within`.
    unsafe { exp_within(x.min(V::splat(87.0)).max(V::splat(-87.0)), 1.0) }
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(super) unsafe fn silu<V: Lanes>(x: V) -> V {
    // SAFETY: as `exp_within`.
    // Below -87 the result is as good as 0.
    unsafe {
        let x = x.max(V::splat(-87.0));
        exp_within(x.min(V::splat(87.0)), -1.0).add(V::splat(1.0)).reciprocal().mul(x)
    }
}

/// An activation function.
#[inline(always)]
pub(super) unsafe fn activate<V: Lanes>(act: Activation, x: V) -> V {
    // SAFETY: as `exp`.
    unsafe {
        match act {
            Activation::Identity => x,
            Activation::Relu => x.max(V::splat(0.0)),
            Activation::Silu => silu(x),
        }
    }
}

/// The first `n` lanes, or all where `n` is not less; zeros in the others.
#[inline(always)]
pub(super) unsafe fn load_up_to<V: Lanes>(from: *const f32, n: usize) -> V {
    // SAFETY: passed on.
    unsafe { if n >= V::LANES { V::load(from) } else { V::load_first(from, n) } }
}

/// Writes the first `n` lanes, or all where `n` is not less.
#[inline(always)]
pub(super) unsafe fn store_up_to<V: Lanes>(value: V, to: *mut f32, n: usize) {
    // SAFETY: passed on.
    unsafe { if n >= V::LANES { value.store(to) } else { value.store_first(to, n) } }
}
