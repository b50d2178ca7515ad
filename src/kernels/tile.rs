//! The register tile that every matrix product runs on.
//!
//! A tile of `rows` pixels x `vectors` registers of output channels stays in registers while a whole sum is formed.
//! A step of the sum is `vectors` loads of packed weights, `rows` broadcasts of one input value each, and
//! `rows * vectors` multiply-adds. Where a row reads is a table of pointers: convolutions need no matrix of patches.

use super::isa::lanes::{Lanes, MAX_LANES, PackedLanes, Register, activate, load_up_to, store_up_to};
use super::product::{Layout, Product, Sources};
use crate::graph::Activation;
use std::mem::MaybeUninit;

/// The most vectors of sums of a tile on any instruction set.
const MAX_SUMS: usize = 24;

/// Computes a tile. `rows` is 1 to `SUMS / vectors` and at most [`MAX_ROWS`](super::product::MAX_ROWS), `vectors` 1 to
/// [`MAX_VECTORS`](super::product::MAX_VECTORS).
///
/// # Safety
/// All pointers are valid for what [`Product`] says; the machine has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn tile<V: Lanes>(product: &Product, rows: usize, vectors: usize) {
    let epilogue = &product.epilogue;
    let unchanged =
        product.channels == vectors * V::LANES && epilogue.act == Activation::Identity && epilogue.residual.is_none();
    // Else the sums go through memory, so that they stay in registers while they grow.
    let direct = match product.output.layout {
        Layout::Pixels { pitch } if unchanged => Some((product.output.to, pitch)),
        _ => None,
    };
    let mut sums = MaybeUninit::<[f32; MAX_SUMS * MAX_LANES]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    // SAFETY: the caller keeps the contract; a tile has at most `MAX_SUMS` vectors, all of which `sum` writes before
    // `finish` reads them.
    unsafe {
        let (to, pitch) = direct.unwrap_or((sums, vectors * V::LANES));
        grow::<V>(product, rows, vectors, to, pitch);
        if direct.is_none() {
            finish::<V>(product, rows, vectors, sums, |sums, _| V::load(sums));
        }
    }
}

/// Computes a tile of packed lanes.
///
/// # Safety
/// As [`tile`]; the epilogue has a [`Requantize`](super::product::Requantize).
#[inline(always)]
pub(super) unsafe fn packed_tile<P: PackedLanes>(product: &Product, rows: usize, vectors: usize) {
    let mut sums = MaybeUninit::<[f32; MAX_SUMS * MAX_LANES]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    // SAFETY: as in `tile`; the caller gives scale and shift. Product and sum are rounded one after the other, so that
    // every instruction set gives the same.
    unsafe {
        let requantize = product.epilogue.requantize.unwrap_unchecked();
        grow::<P>(product, rows, vectors, sums, vectors * P::LANES);
        finish::<P::Float>(product, rows, vectors, sums, |sums, channel| {
            let (scale, shift) = (requantize.scale.add(channel), requantize.shift.add(channel));
            P::load(sums).to_f32().mul(P::Float::load(scale)).add(P::Float::load(shift))
        });
    }
}

/// Forms all sums and writes them to `to`, the rows `pitch` apart.
#[inline(always)]
unsafe fn grow<V: Register>(product: &Product, rows: usize, vectors: usize, to: *mut f32, pitch: usize) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        match vectors {
            1 => of_width::<V, 1>(product, rows, to, pitch),
            2 => of_width::<V, 2>(product, rows, to, pitch),
            _ => of_width::<V, 3>(product, rows, to, pitch),
        }
    }
}

#[inline(always)]
unsafe fn of_width<V: Register, const N: usize>(product: &Product, rows: usize, to: *mut f32, pitch: usize) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        match rows {
            1 => sum::<V, 1, N>(product, to, pitch),
            2 => sum::<V, 2, N>(product, to, pitch),
            3 => sum::<V, 3, N>(product, to, pitch),
            4 => sum::<V, 4, N>(product, to, pitch),
            5 => sum::<V, 5, N>(product, to, pitch),
            6 => sum::<V, 6, N>(product, to, pitch),
            7 => sum::<V, 7, N>(product, to, pitch),
            8 => sum::<V, 8, N>(product, to, pitch),
            9 => sum::<V, 9, N>(product, to, pitch),
            10 => sum::<V, 10, N>(product, to, pitch),
            11 => sum::<V, 11, N>(product, to, pitch),
            _ => sum::<V, 12, N>(product, to, pitch),
        }
    }
}

// Plain index loops, so that the compiler unrolls them and keeps all sums in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn sum<V: Register, const M: usize, const N: usize>(p: &Product, to: *mut f32, pitch: usize) {
    if M * N > V::SUMS {
        // Never asked for; compiles to nothing.
        return;
    }
    // SAFETY: see `tile`.
    unsafe {
        let mut sums = [[V::zero(); N]; M];
        if let Some(bias) = p.epilogue.bias {
            for j in 0..N {
                let bias = V::load(bias.add(j * V::LANES));
                for i in 0..M {
                    sums[i][j] = bias;
                }
            }
        }
        let (mut weights, mut ahead) = (p.weights, p.prefetch.from);
        let Sources { table, stride, taps, len } = p.sources;
        for tap in 0..taps {
            let source: [*const f32; M] = table.add(tap * stride).cast::<[*const f32; M]>().read();
            for k in 0..len {
                let mut row = [V::zero(); N];
                for j in 0..N {
                    row[j] = V::load(weights.add(j * V::LANES));
                }
                for i in 0..M {
                    let x = V::broadcast(source[i].add(k));
                    for j in 0..N {
                        sums[i][j] = x.fma(row[j], sums[i][j]);
                    }
                }
                weights = weights.add(N * V::LANES);
                V::prefetch(ahead);
                ahead = ahead.wrapping_add(p.prefetch.step);
            }
        }
        for i in 0..M {
            for j in 0..N {
                sums[i][j].store(to.add(i * pitch + j * V::LANES));
            }
        }
    }
}

/// Applies activation and residual to sums that lie densely, and writes the outputs. `read` makes values of the sums at
/// an address, which are those of the channels from the given one on.
#[inline(always)]
unsafe fn finish<V: Lanes>(
    p: &Product,
    rows: usize,
    vectors: usize,
    sums: *mut f32,
    read: impl Fn(*const f32, usize) -> V,
) {
    // SAFETY: see `tile`.
    unsafe {
        for i in 0..rows {
            for j in 0..vectors {
                let rest = p.channels - j * V::LANES;
                let v = activate(p.epilogue.act, read(sums.add((i * vectors + j) * V::LANES), j * V::LANES));
                let v = match p.epilogue.residual {
                    None => v,
                    Some(residual) => v.add(load_up_to(residual.from.add(i * residual.pitch + j * V::LANES), rest)),
                };
                match p.output.layout {
                    Layout::Pixels { pitch } => store_up_to(v, p.output.to.add(i * pitch + j * V::LANES), rest),
                    Layout::Planes { .. } => v.store(sums.add((i * vectors + j) * V::LANES)),
                }
            }
        }
        if let Layout::Planes { area } = p.output.layout {
            for c in 0..p.channels {
                let plane = p.output.to.add(c * area);
                (0..rows).for_each(|i| plane.add(i).write(*sums.add(i * vectors * V::LANES + c)));
            }
        }
    }
}
