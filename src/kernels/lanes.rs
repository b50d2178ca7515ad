//! A vector register of f32: one trait, one implementation per instruction set, each in a file of its own.
//!
//! All functions are `unsafe` for the same two reasons: pointers must be valid for the lanes that are read or written,
//! and the machine must have the instruction set of the implementation.
#![allow(clippy::missing_safety_doc)]

use super::product::Product;
use crate::graph::Activation;

/// The most lanes of any implementation.
pub(super) const MAX_LANES: usize = 16;

/// Some f32 that are computed together. See the module on safety.
pub(super) trait Lanes: Copy {
    /// Number of lanes, at most [`MAX_LANES`].
    const LANES: usize;
    /// Vectors of sums that the registers hold beside what a step of the sum needs.
    const SUMS: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `n < LANES` lanes; zeros in the others.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `n < LANES` lanes.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `1 / self` to within two units in the last place; 0 or a denormal from 2^126 on.
    unsafe fn reciprocal(self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// `self * other + sum`.
    unsafe fn fma(self, other: Self, sum: Self) -> Self;
    /// The nearest whole numbers, for values within +-2^22.
    unsafe fn round(self) -> Self;
    /// Two to the power of whole numbers in -126..=127.
    unsafe fn exp2(self) -> Self;

    /// [`super::product::tile`], compiled for this instruction set.
    unsafe fn tile(product: &Product, rows: usize, vectors: usize);
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
    // Below -87 the result is as good as 0, and `exp` saturates.
    unsafe {
        let x = x.max(V::splat(-87.0));
        exp(x.mul(V::splat(-1.0))).add(V::splat(1.0)).reciprocal().mul(x)
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
