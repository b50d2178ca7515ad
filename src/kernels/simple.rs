//! Kernels that move, compare or add values.

use super::isa::for_isa;
use super::isa::lanes::{Lanes, load_up_to, store_up_to};
use super::{Buffer, Kernels, View};
use crate::graph::Attention;

/// Writes an image `[c, h, w]` to a view.
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
    // A cache line of every plane at a time.
    for (pixels, start) in out.chunks_mut(LINE * dst.pitch).zip((0..area).step_by(LINE)) {
        for (c, plane) in image.chunks(area).enumerate() {
            let line = &plane[start..(start + LINE).min(area)];
            pixels[c..].iter_mut().step_by(dst.pitch).zip(line).for_each(|(to, v)| *to = *v);
        }
    }
}

/// Writes a view to a tensor `[c, h, w]`.
///
/// # Panics
/// If the sizes differ.
pub fn export(kernels: &mut Kernels, buffer: &Buffer, src: View, tensor: &mut [f32]) {
    src.check(buffer);
    let area = src.area();
    assert_eq!(tensor.len(), src.c * area);
    // SAFETY: the view was checked.
    let ends = Ends { from: unsafe { src.ptr(buffer) }, to: tensor.as_mut_ptr(), src, dst: src };
    // A cache line of every plane at a time.
    kernels.pool.run(area.div_ceil(LINE), &|item, _| {
        let Ends { from, to, .. } = *ends.get();
        let start = item * LINE;
        let n = (area - start).min(LINE);
        for c in 0..src.c {
            // SAFETY: pixels and channels are inside the view and the tensor; items write different pixels.
            unsafe {
                let (from, to) = (from.add(start * src.pitch + c), to.add(c * area + start));
                if n == LINE {
                    (0..LINE).for_each(|p| to.add(p).write(from.add(p * src.pitch).read()));
                } else {
                    (0..n).for_each(|p| to.add(p).write(from.add(p * src.pitch).read()));
                }
            }
        }
    });
}

/// Values of a cache line.
const LINE: usize = 16;

/// Where values come from and where they go.
struct Ends {
    from: *const f32,
    to: *mut f32,
    src: View,
    dst: View,
}

// SAFETY: the pointers are those of a buffer that outlives the job; items of a job write different values.
unsafe impl Sync for Ends {}

impl Ends {
    /// Both views of one buffer.
    ///
    /// # Panics
    /// If they do not lie in it, or overlap.
    fn new(buffer: &Buffer, src: View, dst: View) -> Self {
        [src, dst].iter().for_each(|view| view.check(buffer));
        assert!(src.disjoint(&dst), "{src:?} and {dst:?}");
        // SAFETY: both views were checked.
        unsafe { Self { from: src.ptr(buffer), to: dst.ptr(buffer), src, dst } }
    }

    // Closures that call it borrow the whole, which is `Sync`, and not the pointers.
    fn get(&self) -> &Self {
        self
    }

    /// The channels of one pixel to another.
    ///
    /// # Safety
    /// Both pixels must be inside their views, and no other thread may use the second.
    unsafe fn pixel(&self, from: usize, to: usize) {
        // SAFETY: the caller keeps the contract; the views do not overlap.
        unsafe {
            let (from, to) = (self.from.add(from * self.src.pitch), self.to.add(to * self.dst.pitch));
            std::ptr::copy_nonoverlapping(from, to, self.dst.c);
        }
    }
}

/// `dst = src`.
///
/// # Panics
/// If sizes differ or the views overlap.
pub fn copy(kernels: &mut Kernels, buffer: &mut Buffer, src: View, dst: View) {
    upsample(kernels, buffer, 1, src, dst);
}

/// The attention values of a packed input, head after head.
///
/// # Panics
/// If sizes differ or the views overlap.
pub fn attention_values(kernels: &mut Kernels, buffer: &mut Buffer, a: &Attention, src: View, dst: View) {
    for head in 0..a.heads {
        let from = src.channels(head * a.packed() + 2 * a.key_dim, a.head_dim);
        copy(kernels, buffer, from, dst.channels(head * a.head_dim, a.head_dim));
    }
}

/// Upsamples by repeating the nearest pixel.
///
/// # Panics
/// If sizes do not fit or the views overlap.
pub fn upsample(kernels: &mut Kernels, buffer: &mut Buffer, factor: usize, src: View, dst: View) {
    assert_eq!((src.c, src.h * factor, src.w * factor), (dst.c, dst.h, dst.w));
    let ends = Ends::new(buffer, src, dst);
    kernels.pool.run(dst.h, &|y, _| {
        for x in 0..dst.w {
            // SAFETY: pixels are inside their views; items write different rows.
            unsafe { ends.pixel(y / factor * src.w + x / factor, y * dst.w + x) }
        }
    });
}

/// `dst = a + b`.
///
/// # Panics
/// If sizes differ, or `dst` overlaps `a` or `b`.
pub fn add(kernels: &mut Kernels, buffer: &mut Buffer, a: View, b: View, dst: View) {
    assert!([a, b].iter().all(|v| (v.c, v.h, v.w) == (dst.c, dst.h, dst.w)));
    let both = [Ends::new(buffer, a, dst), Ends::new(buffer, b, dst)];
    kernels.pool.run(dst.h, &|y, _| {
        let [one, two] = [both[0].get(), both[1].get()];
        for p in y * dst.w..(y + 1) * dst.w {
            // SAFETY: pixels are inside their views, and the one that is written overlaps neither other; items write
            // different rows.
            unsafe {
                let first = std::slice::from_raw_parts(one.from.add(p * a.pitch), a.c);
                let second = std::slice::from_raw_parts(two.from.add(p * b.pitch), b.c);
                let out = std::slice::from_raw_parts_mut(one.to.add(p * dst.pitch), dst.c);
                out.iter_mut().zip(first).zip(second).for_each(|((out, x), y)| *out = x + y);
            }
        }
    });
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

/// Maximum over windows `(side, stride, padding)`; pixels outside the image do not count.
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
