//! Softmax attention over pixels.
//!
//! Keys and values are packed into panels like the kernels of a convolution; then both products run on the same
//! register tiles. The logits of a few pixels at a time stay in the thread's working space.

use super::isa::for_isa;
use super::isa::lanes::{Lanes, MAX_LANES, exp};
use super::product::{Epilogue, Layout, MAX_ROWS, Output, Panel, Prefetch, Product, Sources, even_rows, panels};
use super::{Buffer, Isa, Kernels, View};
use crate::graph::Attention;

/// Values of working space: (shared by all threads, per thread), for `pixels` pixels.
pub fn attention_scratch(isa: Isa, a: &Attention, pixels: usize) -> (usize, usize) {
    let (columns, channels) = (pixels.next_multiple_of(isa.lanes()), a.head_dim.next_multiple_of(isa.lanes()));
    // Keys and values of every head.
    (a.heads * (columns * a.key_dim + pixels * channels), MAX_ROWS * columns)
}

/// `softmax(scale * q^T k)` applied to the values, head after head.
///
/// # Panics
/// If views or sizes do not fit: a mistake of the caller.
pub fn attention(kernels: &mut Kernels, buffer: &mut Buffer, a: &Attention, src: View, dst: View, shared: View) {
    [src, dst, shared].iter().for_each(|view| view.check(buffer));
    let pixels = src.area();
    assert_eq!((src.c, dst.c, dst.h, dst.w), (a.heads * a.packed(), a.heads * a.head_dim, src.h, src.w));
    assert!(src.disjoint(&dst) && src.disjoint(&shared) && dst.disjoint(&shared));
    let isa = kernels.isa;
    let (needed, per_thread) = attention_scratch(isa, a, pixels);
    assert!(shared.area() == 1 && shared.c >= needed && kernels.space >= per_thread);
    // SAFETY: all three views were checked.
    let (from, to, shared) = unsafe { (src.ptr(buffer), dst.ptr(buffer), shared.ptr(buffer)) };
    let args = Args {
        a: *a,
        src: from,
        dst: to,
        shared,
        pitch: src.pitch,
        out_pitch: dst.pitch,
        pixels,
        runs: pixels.div_ceil(MAX_ROWS),
        workspace: kernels.workspace.ptr(),
        space: kernels.space,
    };
    // SAFETY: the views lie in the buffer and do not overlap. Items of the first job write different panels, items of
    // the second the outputs of different pixels and heads.
    kernels.pool.run(a.heads * 2, &|item, worker| unsafe { run_pack(isa, &args, item, worker) });
    kernels.pool.run(a.heads * args.runs, &|item, worker| unsafe { run_mix(isa, &args, item, worker) });
}

struct Args {
    a: Attention,
    src: *const f32,
    dst: *mut f32,
    shared: *mut f32,
    pitch: usize,
    out_pitch: usize,
    pixels: usize,
    /// Runs of up to [`MAX_ROWS`] pixels.
    runs: usize,
    workspace: *mut f32,
    space: usize,
}

// SAFETY: the pointers are those of buffers that outlive the call; see `attention` on who writes what.
unsafe impl Sync for Args {}

impl Args {
    /// Keys and values of a head, packed.
    ///
    /// # Safety
    /// `shared` must have the size that [`attention_scratch`] says.
    unsafe fn panels<V: Lanes>(&self, head: usize) -> (*mut f32, *mut f32) {
        let keys = self.pixels.next_multiple_of(V::LANES) * self.a.key_dim;
        let values = self.pixels * self.a.head_dim.next_multiple_of(V::LANES);
        // SAFETY: the caller keeps the contract.
        unsafe {
            let start = self.shared.add(head * (keys + values));
            (start, start.add(keys))
        }
    }
}

for_isa!(run_pack, pack, Args);

/// Packs the keys of a head (even items) or its values (odd items).
#[inline(always)]
unsafe fn pack<V: Lanes>(args: &Args, item: usize, _worker: usize) {
    let Args { a, pixels, .. } = *args;
    let head = item / 2;
    // SAFETY: all offsets are inside the packed tensor or the panels of this head.
    unsafe {
        let (keys, values) = args.panels::<V>(head);
        let channels = |p: usize| args.src.add(p * args.pitch + head * a.packed());
        if item.is_multiple_of(2) {
            for Panel { start, vectors, channels: count } in panels(pixels, V::LANES) {
                let width = vectors * V::LANES;
                for lane in 0..width {
                    for k in 0..a.key_dim {
                        let key = if lane < count { a.scale * *channels(start + lane).add(a.key_dim + k) } else { 0.0 };
                        *keys.add(start * a.key_dim + k * width + lane) = key;
                    }
                }
            }
        } else {
            for Panel { start, vectors, channels: count } in panels(a.head_dim, V::LANES) {
                let width = vectors * V::LANES;
                for p in 0..pixels {
                    let row = values.add(start * pixels + p * width);
                    row.write_bytes(0, width);
                    std::ptr::copy_nonoverlapping(channels(p).add(2 * a.key_dim + start), row, count);
                }
            }
        }
    }
}

for_isa!(run_mix, mix, Args);

#[inline(always)]
unsafe fn mix<V: Lanes>(args: &Args, item: usize, worker: usize) {
    let Args { a, pixels, .. } = *args;
    let (head, first) = (item / args.runs, item % args.runs * MAX_ROWS);
    let columns = pixels.next_multiple_of(V::LANES);
    let count = (pixels - first).min(MAX_ROWS);
    // SAFETY: all offsets are inside the tensors, the panels, and this thread's working space.
    unsafe {
        let (keys, values) = args.panels::<V>(head);
        let logits = args.workspace.add(worker * args.space);
        let query = |i: usize| args.src.wrapping_add((first + i) * args.pitch + head * a.packed());
        let queries: [*const f32; MAX_ROWS] = std::array::from_fn(query);
        for panel in panels(pixels, V::LANES) {
            let to = logits.add(panel.start);
            multiply::<V>(&panel, count, &queries, a.key_dim, keys.add(panel.start * a.key_dim), to, columns);
        }
        for i in 0..count {
            softmax::<V>(std::slice::from_raw_parts_mut(logits.add(i * columns), columns), pixels);
        }
        let rows: [*const f32; MAX_ROWS] = std::array::from_fn(|i| logits.wrapping_add(i * columns).cast_const());
        for panel in panels(a.head_dim, V::LANES) {
            let to = args.dst.add(first * args.out_pitch + head * a.head_dim + panel.start);
            multiply::<V>(&panel, count, &rows, pixels, values.add(panel.start * pixels), to, args.out_pitch);
        }
    }
}

/// `count` rows of `depth` values each times a panel.
#[inline(always)]
unsafe fn multiply<V: Lanes>(
    panel: &Panel,
    count: usize,
    sources: &[*const f32; MAX_ROWS],
    depth: usize,
    weights: *const f32,
    dst: *mut f32,
    pitch: usize,
) {
    let rows = even_rows(count, V::SUMS / panel.vectors);
    for at in (0..count).step_by(rows) {
        // SAFETY: the caller keeps the contract.
        unsafe {
            let product = Product {
                weights,
                prefetch: Prefetch { from: weights, step: 0 },
                sources: Sources { table: sources.as_ptr().add(at), stride: 0, taps: 1, len: depth },
                epilogue: Epilogue::NONE,
                output: Output { to: dst.add(at * pitch), layout: Layout::Pixels { pitch } },
                channels: panel.channels,
            };
            V::tile(&product, rows.min(count - at), panel.vectors);
        }
    }
}

/// Softmax of the first `n` values; the length is a multiple of the lanes. The total is that of [`MAX_LANES`] partial sums,
/// every so many columns apart, whatever the register.
#[inline(always)]
unsafe fn softmax<V: Lanes>(row: &mut [f32], n: usize) {
    row[n..].fill(f32::NEG_INFINITY);
    // SAFETY: blocks of lanes are inside the row.
    unsafe {
        let mut top = V::splat(f32::NEG_INFINITY);
        for block in row.chunks_exact(V::LANES) {
            top = top.max(V::load(block.as_ptr()));
        }
        let top = V::splat(-lanes_of(top).into_iter().fold(f32::NEG_INFINITY, f32::max));
        let mut totals = [V::splat(0.0); MAX_LANES];
        let parts = MAX_LANES / V::LANES;
        for (at, block) in row.chunks_exact_mut(V::LANES).enumerate() {
            exp(V::load(block.as_ptr()).add(top)).store(block.as_mut_ptr());
            // `exp` saturates just above 0: columns past the end would count.
            if (at + 1) * V::LANES > n {
                block[n.saturating_sub(at * V::LANES)..].fill(0.0);
            }
            totals[at % parts] = totals[at % parts].add(V::load(block.as_ptr()));
        }
        let mut sums = [0.0f32; MAX_LANES];
        (0..parts).for_each(|part| totals[part].store(sums.as_mut_ptr().add(part * V::LANES)));
        let factor = V::splat(1.0 / sums.iter().fold(0.0, |total, sum| total + sum));
        for block in row.chunks_exact_mut(V::LANES) {
            V::load(block.as_ptr()).mul(factor).store(block.as_mut_ptr());
        }
    }
}

/// The lanes of a vector; those that it does not have repeat the first.
#[inline(always)]
unsafe fn lanes_of<V: Lanes>(v: V) -> [f32; MAX_LANES] {
    let mut all = [0.0f32; MAX_LANES];
    // SAFETY: the array has room for the lanes.
    unsafe { v.store(all.as_mut_ptr()) }
    let first = all[0];
    all[V::LANES..].fill(first);
    all
}
