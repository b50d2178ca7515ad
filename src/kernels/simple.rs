//! Kernels that move, compare or add values.

use super::lanes::{Lanes, load_up_to, store_up_to};
use super::{Buffer, Kernels, View, for_isa};
use crate::graph::Attention;

/// An image `[c, h, w]` into a view.
///
/// # Panics
/// If the sizes differ.
pub fn import(image: &[f32], buffer: &mut Buffer, dst: View) {
    dst.check(buffer);
    let area = dst.area();
    assert_eq!(image.len(), dst.c * area);
    let out = &mut buffer.as_mut_slice()[dst.offset..];
    if dst.c == 3 {
        let (red, rest) = image.split_at(area);
        let (green, blue) = rest.split_at(area);
        for (((pixel, r), g), b) in out.chunks_mut(dst.pitch).zip(red).zip(green).zip(blue) {
            pixel[..3].copy_from_slice(&[*r, *g, *b]);
        }
        return;
    }
    for (c, plane) in image.chunks(area).enumerate() {
        plane.iter().enumerate().for_each(|(p, v)| out[p * dst.pitch + c] = *v);
    }
}

/// A view as a tensor `[c, h, w]`.
///
/// # Panics
/// If the sizes differ.
pub fn export(buffer: &Buffer, src: View, tensor: &mut [f32]) {
    src.check(buffer);
    let area = src.area();
    assert_eq!(tensor.len(), src.c * area);
    let values = &buffer.as_slice()[src.offset..];
    // Sixteen pixels at a time: a cache line of every plane.
    for start in (0..area).step_by(16) {
        let n = (area - start).min(16);
        for c in 0..src.c {
            let line = &mut tensor[c * area + start..][..n];
            line.iter_mut().enumerate().for_each(|(p, v)| *v = values[(start + p) * src.pitch + c]);
        }
    }
}

/// `dst = src`.
///
/// # Panics
/// If sizes differ or the views overlap.
pub fn copy(buffer: &mut Buffer, src: View, dst: View) {
    [src, dst].iter().for_each(|view| view.check(buffer));
    assert!(src.disjoint(&dst) && (src.c, src.h, src.w) == (dst.c, dst.h, dst.w));
    let values = buffer.as_mut_slice();
    for p in 0..src.area() {
        let from = src.offset + p * src.pitch;
        values.copy_within(from..from + src.c, dst.offset + p * dst.pitch);
    }
}

/// The values of a packed attention input.
///
/// # Panics
/// If sizes differ or the views overlap.
pub fn values(buffer: &mut Buffer, a: &Attention, src: View, dst: View) {
    for head in 0..a.heads {
        let from = src.channels(head * a.packed() + 2 * a.key_dim, a.head_dim);
        copy(buffer, from, dst.channels(head * a.head_dim, a.head_dim));
    }
}

/// Nearest-neighbour enlargement.
///
/// # Panics
/// If sizes do not fit or the views overlap.
pub fn upsample(buffer: &mut Buffer, factor: usize, src: View, dst: View) {
    [src, dst].iter().for_each(|view| view.check(buffer));
    assert!(src.disjoint(&dst) && (src.c, src.h * factor, src.w * factor) == (dst.c, dst.h, dst.w));
    let values = buffer.as_mut_slice();
    for y in 0..dst.h {
        for x in 0..dst.w {
            let from = src.offset + (y / factor * src.w + x / factor) * src.pitch;
            values.copy_within(from..from + src.c, dst.offset + (y * dst.w + x) * dst.pitch);
        }
    }
}

/// `dst = a + b`.
///
/// # Panics
/// If sizes differ, or `dst` overlaps `a` or `b`.
pub fn add(buffer: &mut Buffer, a: View, b: View, dst: View) {
    [a, b, dst].iter().for_each(|view| view.check(buffer));
    assert!(a.disjoint(&dst) && b.disjoint(&dst));
    assert!([a, b].iter().all(|v| (v.c, v.h, v.w) == (dst.c, dst.h, dst.w)));
    // SAFETY: the views lie in the buffer and the one that is written overlaps neither other.
    unsafe {
        let [pa, pb, pd] = [a, b, dst].map(|view| view.ptr(buffer));
        for p in 0..dst.area() {
            let x = std::slice::from_raw_parts(pa.add(p * a.pitch), a.c);
            let y = std::slice::from_raw_parts(pb.add(p * b.pitch), b.c);
            let out = std::slice::from_raw_parts_mut(pd.add(p * dst.pitch), dst.c);
            out.iter_mut().zip(x).zip(y).for_each(|((out, x), y)| *out = x + y);
        }
    }
}

/// Mean over all pixels.
///
/// # Panics
/// If sizes do not fit or the views overlap.
pub fn global_average(buffer: &mut Buffer, src: View, dst: View) {
    [src, dst].iter().for_each(|view| view.check(buffer));
    assert!(src.disjoint(&dst) && (src.c, 1, 1) == (dst.c, dst.h, dst.w));
    let values = buffer.as_mut_slice();
    for c in 0..src.c {
        let sum: f64 = (0..src.area()).map(|p| f64::from(values[src.offset + p * src.pitch + c])).sum();
        values[dst.offset + c] = (sum / src.area() as f64) as f32;
    }
}

/// Maximum over windows; what lies outside does not count.
///
/// # Panics
/// If sizes do not fit or the views overlap.
pub fn max_pool(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    (kernel, stride, padding): (usize, usize, usize),
    src: View,
    dst: View,
) {
    [src, dst].iter().for_each(|view| view.check(buffer));
    let out = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    assert!(src.disjoint(&dst) && (src.c, out(src.h), out(src.w)) == (dst.c, dst.h, dst.w));
    // SAFETY: both views were checked.
    let (from, to) = unsafe { (src.ptr(buffer), dst.ptr(buffer)) };
    let args = PoolArgs { kernel, stride, padding, from, to, src, dst };
    let isa = kernels.isa;
    // SAFETY: the views lie in the buffer and do not overlap. Items write different rows.
    kernels.pool.run(dst.h, &|item, worker| unsafe { run_pool_row(isa, &args, item, worker) });
}

struct PoolArgs {
    kernel: usize,
    stride: usize,
    padding: usize,
    from: *const f32,
    to: *mut f32,
    src: View,
    dst: View,
}

// SAFETY: the pointers are those of a buffer that outlives the call; see `max_pool` on who writes what.
unsafe impl Sync for PoolArgs {}

for_isa!(run_pool_row, pool_row, PoolArgs);

#[inline(always)]
unsafe fn pool_row<V: Lanes>(args: &PoolArgs, y: usize, _worker: usize) {
    let PoolArgs { src, dst, .. } = args;
    let inside = |o: usize, side: usize| {
        let start = o * args.stride;
        start.saturating_sub(args.padding)..(start + args.kernel).saturating_sub(args.padding).min(side)
    };
    let (rows, c) = (inside(y, src.h), dst.c);
    for x in 0..dst.w {
        let columns = inside(x, src.w);
        for at in (0..c).step_by(V::LANES) {
            // SAFETY: pixels are inside their views, and so are `c - at` channels.
            unsafe {
                let mut best = V::splat(f32::NEG_INFINITY);
                for iy in rows.clone() {
                    for ix in columns.clone() {
                        best = best.max(load_up_to(args.from.add((iy * src.w + ix) * src.pitch + at), c - at));
                    }
                }
                store_up_to(best, args.to.add((y * dst.w + x) * dst.pitch + at), c - at);
            }
        }
    }
}
