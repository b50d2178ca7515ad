//! Kernels that work on pixels one by one: activations on their own, and pixel shuffle.

use super::{Buffer, View};
use crate::graph::Activation;

/// `dst = act(src)`.
///
/// # Panics
/// If sizes differ or the views overlap.
pub fn activate(buffer: &mut Buffer, act: Activation, src: View, dst: View) {
    [src, dst].iter().for_each(|view| view.check(buffer));
    assert!(src.disjoint(&dst) && (src.c, src.h, src.w) == (dst.c, dst.h, dst.w));
    let values = buffer.as_mut_slice();
    for p in 0..src.area() {
        let (from, to) = (src.offset + p * src.pitch, dst.offset + p * dst.pitch);
        values.copy_within(from..from + src.c, to);
        values[to..to + src.c].iter_mut().for_each(|v| *v = act.apply(*v));
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
