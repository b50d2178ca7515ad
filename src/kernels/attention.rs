//! Softmax attention over pixels.
//!
//! Keys and values are packed into panels like the kernels of a convolution; then both products run on the same
//! register tiles. The logits of six pixels at a time stay in the thread's working space.

use super::conv::{PANEL, Panel, Sources, TILE};
use super::lanes::{LANES, Lanes, exp};
use super::{Buffer, Kernels, View, for_isa};
use crate::graph::{Activation, Attention};

/// Values of working space: (shared by all threads, per thread), for `pixels` pixels.
pub fn attention_scratch(a: &Attention, pixels: usize) -> (usize, usize) {
    let (columns, channels) = (pixels.next_multiple_of(PANEL), a.head_dim.next_multiple_of(PANEL));
    // Keys and values of every head, and biases of 0.
    (a.heads * (columns * a.key_dim + pixels * channels) + PANEL, TILE * columns)
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
    let (needed, per_thread) = attention_scratch(a, pixels);
    assert!(shared.area() == 1 && shared.c >= needed && kernels.space >= per_thread);
    let tiles = pixels.div_ceil(TILE);
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
        tiles,
        workspace: kernels.workspace.ptr(),
        space: kernels.space,
    };
    let isa = kernels.isa;
    // SAFETY: the views lie in the buffer and do not overlap. Items of the first job write the panels of different
    // heads, items of the second the outputs of different pixels and heads.
    kernels.pool.run(a.heads, &|head, _| unsafe { pack_head(&args, head) });
    kernels.pool.run(a.heads * tiles, &|item, worker| unsafe { run_tile(isa, &args, item, worker) });
}

struct Args {
    a: Attention,
    src: *const f32,
    dst: *mut f32,
    shared: *mut f32,
    pitch: usize,
    out_pitch: usize,
    pixels: usize,
    tiles: usize,
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
    unsafe fn panels(&self, head: usize) -> (*mut f32, *mut f32) {
        let keys = self.pixels.next_multiple_of(PANEL) * self.a.key_dim;
        let values = self.pixels * self.a.head_dim.next_multiple_of(PANEL);
        // SAFETY: the promise of the caller.
        unsafe {
            let start = self.shared.add(PANEL + head * (keys + values));
            (start, start.add(keys))
        }
    }
}

unsafe fn pack_head(args: &Args, head: usize) {
    let Args { a, pixels, .. } = *args;
    // SAFETY: all offsets are inside the packed tensor or the panels of this head.
    unsafe {
        if head == 0 {
            args.shared.write_bytes(0, PANEL);
        }
        let (keys, values) = args.panels(head);
        let channels = |p: usize| args.src.add(p * args.pitch + head * a.packed());
        for panel in 0..pixels.div_ceil(PANEL) {
            for lane in 0..PANEL {
                let p = panel * PANEL + lane;
                for k in 0..a.key_dim {
                    let key = if p < pixels { a.scale * *channels(p).add(a.key_dim + k) } else { 0.0 };
                    *keys.add((panel * a.key_dim + k) * PANEL + lane) = key;
                }
            }
        }
        for panel in 0..a.head_dim.div_ceil(PANEL) {
            let n = (a.head_dim - panel * PANEL).min(PANEL);
            for p in 0..pixels {
                let row = values.add((panel * pixels + p) * PANEL);
                row.write_bytes(0, PANEL);
                std::ptr::copy_nonoverlapping(channels(p).add(2 * a.key_dim + panel * PANEL), row, n);
            }
        }
    }
}

for_isa!(run_tile, tile, Args);

#[inline(always)]
unsafe fn tile<V: Lanes>(args: &Args, item: usize, worker: usize) {
    let Args { a, pixels, .. } = *args;
    let (head, first) = (item / args.tiles, item % args.tiles * TILE);
    let columns = pixels.next_multiple_of(PANEL);
    let count = (pixels - first).min(TILE);
    // SAFETY: all offsets are inside the tensors, the panels, and this thread's working space.
    unsafe {
        let (keys, values) = args.panels(head);
        let logits = args.workspace.add(worker * args.space);
        let query = |i: usize| args.src.add((first + i.min(count - 1)) * args.pitch + head * a.packed());
        let queries: Sources = std::array::from_fn(query);
        for panel in 0..columns / PANEL {
            let product = Panel {
                weights: keys.add(panel * a.key_dim * PANEL),
                bias: args.shared,
                act: Activation::Identity,
                n: PANEL,
                pitch: columns,
                residual_pitch: 0,
            };
            product.tile::<V>(count, &[queries], a.key_dim, logits.add(panel * PANEL), std::ptr::null());
        }
        for i in 0..count {
            softmax::<V>(std::slice::from_raw_parts_mut(logits.add(i * columns), columns), pixels);
        }
        let rows: Sources = std::array::from_fn(|i| logits.add(i.min(count - 1) * columns).cast_const());
        for panel in 0..a.head_dim.div_ceil(PANEL) {
            let product = Panel {
                weights: values.add(panel * pixels * PANEL),
                bias: args.shared,
                act: Activation::Identity,
                // A narrow rest keeps the width of its panel: the rows of `values` are always 16 wide.
                n: (a.head_dim - panel * PANEL).min(PANEL),
                pitch: args.out_pitch,
                residual_pitch: 0,
            };
            let dst = args.dst.add(first * args.out_pitch + head * a.head_dim + panel * PANEL);
            product.wide_tile::<V>(count, &[rows], pixels, dst);
        }
    }
}

/// Softmax of the first `n` values; the length is a multiple of 16.
#[inline(always)]
unsafe fn softmax<V: Lanes>(row: &mut [f32], n: usize) {
    row[n..].fill(f32::NEG_INFINITY);
    // SAFETY: blocks of lanes are inside the row.
    unsafe {
        let mut top = V::splat(f32::NEG_INFINITY);
        for block in row.chunks_exact(LANES) {
            top = top.max(V::load(block.as_ptr()));
        }
        let top = V::splat(-top_of(top));
        let mut total = V::splat(0.0);
        for block in row.chunks_exact_mut(LANES) {
            let e = exp(V::load(block.as_ptr()).add(top));
            e.store(block.as_mut_ptr());
            total = total.add(e);
        }
        // `exp` saturates just above 0, so the columns past the end are taken out of the sum again.
        let tail: f32 = row[n..].iter().sum();
        let factor = V::splat(1.0 / (sum_of(total) - tail));
        for block in row.chunks_exact_mut(LANES) {
            V::load(block.as_ptr()).mul(factor).store(block.as_mut_ptr());
        }
    }
}

#[inline(always)]
unsafe fn top_of<V: Lanes>(v: V) -> f32 {
    let mut all = [0.0f32; LANES];
    // SAFETY: the array has the lanes.
    unsafe { v.store(all.as_mut_ptr()) }
    all.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
unsafe fn sum_of<V: Lanes>(v: V) -> f32 {
    let mut all = [0.0f32; LANES];
    // SAFETY: the array has the lanes.
    unsafe { v.store(all.as_mut_ptr()) }
    all.iter().sum()
}
