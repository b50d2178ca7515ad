//! The register tile that every matrix product runs on.
//!
//! A tile of `rows` pixels x `vectors` registers of output channels stays in registers while a whole sum is formed.
//! A step of the sum is `vectors` loads of packed weights, `rows` broadcasts of one input value each, and
//! `rows * vectors` multiply-adds. Where a row reads is a table of pointers: convolutions need no matrix of patches.

use super::lanes::{Lanes, MAX_LANES, Register, Words, activate, load_up_to, store_up_to};
use crate::graph::Activation;
use std::mem::MaybeUninit;

/// The most vectors of sums of a tile on any instruction set.
const MAX_SUMS: usize = 24;

/// The most rows of a tile on any instruction set.
pub(super) const MAX_ROWS: usize = 12;

/// The most registers of output channels of a tile.
pub(super) const MAX_VECTORS: usize = 3;

/// One product: what is summed, and what happens to the sums.
pub(super) struct Product {
    /// Row after row of `vectors * LANES` values, `taps * len` rows.
    pub weights: *const f32,
    /// What is read soon, and how far each step of the sum fetches it ahead.
    pub ahead: *const f32,
    pub ahead_step: usize,
    /// Row `i` of tap `t` reads `len` values from `sources[t * stride + i]` on.
    pub sources: *const *const f32,
    pub stride: usize,
    pub taps: usize,
    pub len: usize,
    /// What the sums start with, `vectors * LANES` values; zeros where it is null.
    pub bias: *const f32,
    /// Of words: what their sums are multiplied with, and what is added then, `vectors * LANES` values each.
    pub scale: *const f32,
    pub shift: *const f32,
    pub act: Activation,
    /// Channels to write, more than `(vectors - 1) * LANES`.
    pub n: usize,
    /// Row `i` is written from `dst + i * pitch` on.
    pub dst: *mut f32,
    pub pitch: usize,
    /// Unless 0, channel `c` of row `i` is written to `dst + c * plane + i` instead.
    pub plane: usize,
    /// Added to the activated sums, unless null.
    pub residual: *const f32,
    pub residual_pitch: usize,
}

/// The widths, in registers, of the panels that `c_out` output channels are cut into: pairs, and one of three where
/// their number is odd. A single register is left only where there is no other.
pub(super) fn panels(c_out: usize, lanes: usize) -> impl Iterator<Item = Panel> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = c_out.saturating_sub(start).div_ceil(lanes);
        let vectors = if left == MAX_VECTORS { MAX_VECTORS } else { left.min(2) };
        let panel = Panel { start, vectors, channels: (c_out - start).min(vectors * lanes) };
        start = (start + vectors * lanes).min(c_out);
        (vectors > 0).then_some(panel)
    })
}

/// Output channels that a tile computes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panel {
    /// First channel, a multiple of the lanes.
    pub start: usize,
    pub vectors: usize,
    pub channels: usize,
}

/// Rows of the tiles that `total` rows are cut into, at most `most`, as equal as can be.
pub(super) fn even_rows(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).max(1)
}

/// Computes a tile. `rows` is 1 to `SUMS / vectors` and at most [`MAX_ROWS`], `vectors` 1 to [`MAX_VECTORS`].
///
/// # Safety
/// All pointers are valid for what [`Product`] says; the machine has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn tile<V: Lanes>(product: &Product, rows: usize, vectors: usize) {
    let as_they_are = product.n == vectors * V::LANES
        && product.act == Activation::Identity
        && product.residual.is_null()
        && product.plane == 0;
    // Else the sums go through memory, so that they stay in registers while they grow.
    let mut sums = MaybeUninit::<[f32; MAX_SUMS * MAX_LANES]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    // SAFETY: passed on; a tile has at most `MAX_SUMS` vectors, all of which `sum` writes before `finish` reads them.
    unsafe {
        let (to, pitch) = if as_they_are { (product.dst, product.pitch) } else { (sums, vectors * V::LANES) };
        grow::<V>(product, rows, vectors, to, pitch);
        if !as_they_are {
            finish::<V>(product, rows, vectors, sums, |sums, _| V::load(sums));
        }
    }
}

/// Computes a tile of words.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub(super) unsafe fn tile_of_words<W: Words>(product: &Product, rows: usize, vectors: usize) {
    let mut sums = MaybeUninit::<[f32; MAX_SUMS * MAX_LANES]>::uninit();
    let sums = sums.as_mut_ptr().cast::<f32>();
    // SAFETY: as in `tile`. A product and a sum that are each rounded, so that every instruction set gives the same.
    unsafe {
        grow::<W>(product, rows, vectors, sums, vectors * W::LANES);
        finish::<W::Float>(product, rows, vectors, sums, |sums, channel| {
            let (scale, shift) = (product.scale.add(channel), product.shift.add(channel));
            W::load(sums).float().mul(W::Float::load(scale)).add(W::Float::load(shift))
        });
    }
}

/// Forms all sums and writes them to `to`, the rows `pitch` apart.
#[inline(always)]
unsafe fn grow<V: Register>(product: &Product, rows: usize, vectors: usize, to: *mut f32, pitch: usize) {
    // SAFETY: passed on.
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
    // SAFETY: passed on.
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
        if !p.bias.is_null() {
            for j in 0..N {
                let bias = V::load(p.bias.add(j * V::LANES));
                for i in 0..M {
                    sums[i][j] = bias;
                }
            }
        }
        let (mut weights, mut ahead) = (p.weights, p.ahead);
        for tap in 0..p.taps {
            let source: [*const f32; M] = p.sources.add(tap * p.stride).cast::<[*const f32; M]>().read();
            for k in 0..p.len {
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
                ahead = ahead.wrapping_add(p.ahead_step);
            }
        }
        for i in 0..M {
            for j in 0..N {
                sums[i][j].store(to.add(i * pitch + j * V::LANES));
            }
        }
    }
}

/// Activation, residual and the way out, of sums that lie densely. `read` makes values of the sums at a place, which are
/// those of the channels from the given one on.
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
                let rest = p.n - j * V::LANES;
                let v = activate(p.act, read(sums.add((i * vectors + j) * V::LANES), j * V::LANES));
                let v = match p.residual.is_null() {
                    true => v,
                    false => v.add(load_up_to(p.residual.add(i * p.residual_pitch + j * V::LANES), rest)),
                };
                match p.plane {
                    0 => store_up_to(v, p.dst.add(i * p.pitch + j * V::LANES), rest),
                    _ => v.store(sums.add((i * vectors + j) * V::LANES)),
                }
            }
        }
        if p.plane > 0 {
            for c in 0..p.n {
                let plane = p.dst.add(c * p.plane);
                (0..rows).for_each(|i| plane.add(i).write(*sums.add(i * vectors * V::LANES + c)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_all_channels_once() {
        for lanes in [8, 16] {
            for c_out in 1..200 {
                let all: Vec<Panel> = panels(c_out, lanes).collect();
                let mut next = 0;
                for p in &all {
                    assert_eq!(p.start, next);
                    assert!((1..=MAX_VECTORS).contains(&p.vectors) && p.channels > (p.vectors - 1) * lanes);
                    next += p.channels;
                }
                assert_eq!(next, c_out);
                assert!(all.len() == 1 || all.iter().all(|p| p.vectors > 1), "{all:?}");
            }
        }
    }

    #[test]
    fn tiles_are_as_equal_as_can_be() {
        assert_eq!([13, 12, 1, 25, 100].map(|n| even_rows(n, 12)), [7, 12, 1, 9, 12]);
    }
}
