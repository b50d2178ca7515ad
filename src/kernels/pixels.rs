//! Kernels that work on pixels one by one: activations on their own, and pixel shuffle.

use super::isa::for_isa;
use super::isa::lanes::{self, Lanes, load_up_to, store_up_to};
use super::{Buffer, Kernels, View};
use crate::graph::Activation;

/// `dst = act(src)`.
///
/// # Panics
/// If sizes differ or the views overlap.
pub fn activate(kernels: &mut Kernels, buffer: &mut Buffer, act: Activation, src: View, dst: View) {
    [src, dst].iter().for_each(|view| view.check(buffer));
    assert!(src.disjoint(&dst) && (src.c, src.h, src.w) == (dst.c, dst.h, dst.w));
    // SAFETY: both views were checked.
    let (from, to) = unsafe { (src.ptr(buffer).cast_const(), dst.ptr(buffer)) };
    let args = Args { act, from, to, src, dst };
    let isa = kernels.isa;
    // SAFETY: the views lie in the buffer and do not overlap. Items write different rows.
    kernels.pool.run(dst.h, &|item, worker| unsafe { run_row(isa, &args, item, worker) });
}

struct Args {
    act: Activation,
    from: *const f32,
    to: *mut f32,
    src: View,
    dst: View,
}

// SAFETY: the pointers are those of a buffer that outlives the call; see `activate` on who writes what.
unsafe impl Sync for Args {}

for_isa!(run_row, row, Args);

#[inline(always)]
unsafe fn row<V: Lanes>(args: &Args, y: usize, _worker: usize) {
    let Args { act, src, dst, .. } = args;
    for p in y * dst.w..(y + 1) * dst.w {
        for at in (0..dst.c).step_by(V::LANES) {
            let n = dst.c - at;
            // SAFETY: pixels are inside their views, and so are `n` channels.
            unsafe {
                let value: V = load_up_to(args.from.add(p * src.pitch + at), n);
                store_up_to(lanes::activate(*act, value), args.to.add(p * dst.pitch + at), n);
            }
        }
    }
}

/// Pixel shuffle: every pixel of `src` holds a square of `factor` x `factor` pixels of `dst`, row after row in its
/// channels (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional
/// Neural Network", 2016, but with the channels of a pixel together).
///
/// # Panics
/// If sizes do not fit or the views overlap.
pub fn pixel_shuffle(buffer: &mut Buffer, factor: usize, src: View, dst: View) {
    [src, dst].iter().for_each(|view| view.check(buffer));
    assert!(src.disjoint(&dst) && src.c == dst.c * factor * factor);
    assert_eq!((src.h * factor, src.w * factor), (dst.h, dst.w));
    let values = buffer.as_mut_slice();
    for y in 0..dst.h {
        for x in 0..dst.w {
            let tap = y % factor * factor + x % factor;
            let from = src.offset + (y / factor * src.w + x / factor) * src.pitch + tap * dst.c;
            values.copy_within(from..from + dst.c, dst.offset + (y * dst.w + x) * dst.pitch);
        }
    }
}
