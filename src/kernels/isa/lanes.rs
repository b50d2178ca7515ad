//! Vector registers: the traits that every instruction set implements in a file of its own, and functions of registers.
//!
//! All functions are `unsafe` for the same two reasons: pointers must be valid for the lanes that are read or written,
//! and the machine must have the instruction set of the implementation.
//!
//! Every operation rounds correctly, so that a value is the same to the bit on every instruction set that fuses, and on a
//! GPU, whose kernels in f32 repeat these formulas (`kernels.cu`).
#![allow(clippy::missing_safety_doc)]

use crate::graph::Activation;
use crate::kernels::product::Product;

/// The most lanes of any implementation.
pub(in crate::kernels) const MAX_LANES: usize = 16;

/// Lanes of four bytes that are computed together, each a sum of products: what the [`tile`](crate::kernels::tile) runs
/// on. A lane is an f32, or for [`PackedLanes`] several narrower values or their sums. See the module on safety.
pub(in crate::kernels) trait Register: Copy {
    /// Number of lanes, at most [`MAX_LANES`].
    const LANES: usize;
    /// Vectors of sums that the registers hold beside what a step of the sum needs.
    const SUMS: usize;

    unsafe fn zero() -> Self;
    /// The same four bytes in every lane.
    unsafe fn broadcast(from: *const f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self * other + sum`, rounded once where [`Isa::fuses`](super::Isa::fuses).
    unsafe fn fma(self, other: Self, sum: Self) -> Self;
    /// Brings a cache line near the CPU. The address may be any.
    unsafe fn prefetch(from: *const f32);
    /// A tile of [`crate::kernels::tile`], compiled for this instruction set.
    unsafe fn tile(product: &Product, rows: usize, vectors: usize);
}

/// A register of f32.
pub(in crate::kernels) trait Lanes: Register {
    unsafe fn splat(value: f32) -> Self;
    /// The first `n < LANES` lanes; zeros in the others.
    unsafe fn load_first(from: *const f32, n: usize) -> Self;
    /// Writes the first `n < LANES` lanes.
    unsafe fn store_first(self, to: *mut f32, n: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`, rounded correctly.
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// The nearest integers, for values within +-2^22.
    unsafe fn round(self) -> Self;
    /// `self` times two to the power of integers in -126..=127.
    unsafe fn scale(self, power: Self) -> Self;
}

/// A register whose lanes hold several values each, int8 or f16. Int8 has one sum per lane, an i32, and none saturates;
/// f16 has two sums, of even and of odd channels.
pub(in crate::kernels) trait PackedLanes: Copy {
    /// A register of as many f32, of the same size.
    type Float: Lanes;
    /// Values in a lane: 4 of one byte, or 2 of two bytes.
    const PER_LANE: usize;
    /// Whether values are integers of 0 to 255.
    const INTEGER: bool;
    /// Subtracted from an integer before it is stored.
    const OFFSET: i32;

    /// The packed lanes with the bits of a register, and the other way round.
    fn from_bits(bits: Self::Float) -> Self;
    fn bits(self) -> Self::Float;
    /// Adds to every lane of the sums the products of the values in that lane of `self` with the weights there.
    unsafe fn dot(self, weights: Self, sums: Self) -> Self;
    /// The sums of the lanes as f32.
    unsafe fn to_f32(self) -> Self::Float;
    /// Narrows values and stores them: `LANES / PER_LANE` lanes.
    unsafe fn store_values(values: Self::Float, to: *mut f32);
    /// A tile of [`crate::kernels::tile`], compiled for the instructions that this needs.
    unsafe fn packed_tile(product: &Product, rows: usize, vectors: usize);
}

// SAFETY (all functions): the caller keeps the contract.
impl<P: PackedLanes> Register for P {
    const LANES: usize = P::Float::LANES;
    const SUMS: usize = P::Float::SUMS;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self::from_bits(unsafe { P::Float::zero() })
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const f32) -> Self {
        Self::from_bits(unsafe { P::Float::broadcast(from) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self::from_bits(unsafe { P::Float::load(from) })
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
        unsafe { P::Float::prefetch(from) }
    }
    #[inline(always)]
    unsafe fn tile(product: &Product, rows: usize, vectors: usize) {
        unsafe { P::packed_tile(product, rows, vectors) }
    }
}

/// `ln 2` in two parts, the first exact in few bits.
const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];

/// `(e^r - 1) / r` for `|r| <= ln(2) / 2`, lowest power first: the polynomial of least relative error.
const EXP: [f32; 5] = [9.999_997e-1, 4.999_914_8e-1, 1.666_763_9e-1, 4.189_816e-2, 8.290_271e-3];

/// `e^(sign * x)` for x within +-87, `sign` 1 or -1; relative error about 2e-7.
#[inline(always)]
unsafe fn exp_within<V: Lanes>(x: V, sign: f32) -> V {
    // SAFETY: no pointers; the caller answers for the instruction set.
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
pub(in crate::kernels) unsafe fn exp<V: Lanes>(x: V) -> V {
    // SAFETY: as `exp_within`.
    unsafe { exp_within(x.min(V::splat(87.0)).max(V::splat(-87.0)), 1.0) }
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(in crate::kernels) unsafe fn silu<V: Lanes>(x: V) -> V {
    // SAFETY: as `exp_within`.
    // Below -87 the result is as good as 0.
    unsafe {
        let x = x.max(V::splat(-87.0));
        x.div(exp_within(x.min(V::splat(87.0)), -1.0).add(V::splat(1.0)))
    }
}

/// An activation function.
#[inline(always)]
pub(in crate::kernels) unsafe fn activate<V: Lanes>(act: Activation, x: V) -> V {
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
pub(in crate::kernels) unsafe fn load_up_to<V: Lanes>(from: *const f32, n: usize) -> V {
    // SAFETY: the caller keeps the contract.
    unsafe { if n >= V::LANES { V::load(from) } else { V::load_first(from, n) } }
}

/// Writes the first `n` lanes, or all where `n` is not less.
#[inline(always)]
pub(in crate::kernels) unsafe fn store_up_to<V: Lanes>(value: V, to: *mut f32, n: usize) {
    // SAFETY: the caller keeps the contract.
    unsafe { if n >= V::LANES { value.store(to) } else { value.store_first(to, n) } }
}
