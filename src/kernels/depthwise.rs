//! Convolutions of every channel by itself, eight channels at a time.

use super::conv::ConvSpec;
use super::lanes::{LANES, Lanes, silu};
use super::{Buffer, Kernels, View, for_isa};
use crate::graph::Activation;

/// Values that the packed kernel and biases take. `c_in` of the spec equals `c_out`.
pub fn packed_depthwise_len(spec: &ConvSpec) -> usize {
    spec.c_out.max(LANES) * (spec.kernel * spec.kernel + 1)
}

/// Packs a kernel `[c, 1, k, k]` and a bias `[c]`.
///
/// # Panics
/// If a length is wrong.
pub fn pack_depthwise(spec: &ConvSpec, weights: &[f32], bias: &[f32], packed: &mut [f32]) {
    let (taps, width) = (spec.kernel * spec.kernel, spec.c_out.max(LANES));
    assert_eq!((weights.len(), bias.len()), (spec.c_out * taps, spec.c_out));
    assert_eq!(packed.len(), packed_depthwise_len(spec));
    packed.fill(0.0);
    for c in 0..spec.c_out {
        packed[c] = bias[c];
        for tap in 0..taps {
            packed[(1 + tap) * width + c] = weights[c * taps + tap];
        }
    }
}

/// `dst = act(conv(src) + bias) + residual`, channel by channel, with what [`pack_depthwise`] packed.
///
/// # Panics
/// If views or sizes do not fit: a mistake of the caller.
pub fn depthwise(
    kernels: &mut Kernels,
    buffer: &mut Buffer,
    spec: &ConvSpec,
    packed: &[f32],
    src: View,
    dst: View,
    residual: Option<View>,
) {
    [Some(src), Some(dst), residual].iter().flatten().for_each(|view| view.check(buffer));
    let out = |side: usize| (side + 2 * spec.padding - spec.kernel) / spec.stride + 1;
    assert_eq!((src.c, dst.c, dst.h, dst.w), (spec.c_out, spec.c_out, out(src.h), out(src.w)));
    assert!(src.disjoint(&dst), "{src:?} and {dst:?}");
    assert!(residual.is_none_or(|r| r.disjoint(&dst) && (r.c, r.h, r.w) == (dst.c, dst.h, dst.w)));
    assert_eq!(packed.len(), packed_depthwise_len(spec));
    let (rows, parts) = kernels.parts(dst.h, 8, 1);
    let args = Args {
        spec: *spec,
        // SAFETY: all three views were checked.
        src: unsafe { src.ptr(buffer) },
        dst: unsafe { dst.ptr(buffer) },
        residual: residual.map_or(std::ptr::null(), |r| unsafe { r.ptr(buffer) }),
        from: src,
        to: dst,
        residual_pitch: residual.map_or(0, |r| r.pitch),
        packed: packed.as_ptr(),
        rows,
    };
    let isa = kernels.isa;
    // SAFETY: the views lie in the buffer, and the output overlaps none that is read. Items write different rows.
    kernels.pool.run(parts, &|item, worker| unsafe { run_rows(isa, &args, item, worker) });
}

struct Args {
    spec: ConvSpec,
    src: *const f32,
    dst: *mut f32,
    residual: *const f32,
    from: View,
    to: View,
    residual_pitch: usize,
    packed: *const f32,
    rows: usize,
}

// SAFETY: the pointers are those of buffers that outlive the call; see `depthwise` on who writes what.
unsafe impl Sync for Args {}

for_isa!(run_rows, rows, Args);

#[inline(always)]
unsafe fn rows<V: Lanes>(args: &Args, item: usize, _worker: usize) {
    let (spec, c) = (&args.spec, args.to.c);
    let width = c.max(LANES);
    for y in item * args.rows..((item + 1) * args.rows).min(args.to.h) {
        let top = (y * spec.stride) as isize - spec.padding as isize;
        let taps_y = window(top, spec.kernel, args.from.h);
        for x in 0..args.to.w {
            let left = (x * spec.stride) as isize - spec.padding as isize;
            let taps_x = window(left, spec.kernel, args.from.w);
            let pixel = y * args.to.w + x;
            // SAFETY: taps are inside the input, the pixel inside the output; blocks of lanes stay inside `c`.
            unsafe {
                let dst = args.dst.add(pixel * args.to.pitch);
                let residual = match args.residual.is_null() {
                    true => args.residual,
                    false => args.residual.add(pixel * args.residual_pitch),
                };
                let mut block = 0;
                while block < c {
                    // The last block overlaps the one before; narrower tensors go channel by channel.
                    let at = if c >= LANES { block.min(c - LANES) } else { block };
                    // The first tap inside the image; further ones lie a pixel, or a row, after it.
                    let (iy, ix) = (top + taps_y.start as isize, left + taps_x.start as isize);
                    let first = (iy * args.from.w as isize + ix) * args.from.pitch as isize + at as isize;
                    let first_weight = (1 + taps_y.start * spec.kernel + taps_x.start) * width + at;
                    if c >= LANES {
                        let mut sum = V::load(args.packed.add(at));
                        for row in 0..taps_y.len() {
                            let mut from = first + (row * args.from.w * args.from.pitch) as isize;
                            let mut weight = first_weight + row * spec.kernel * width;
                            for _ in 0..taps_x.len() {
                                sum = V::load(args.src.offset(from)).fma(V::load(args.packed.add(weight)), sum);
                                from += args.from.pitch as isize;
                                weight += width;
                            }
                        }
                        let mut value = match spec.act {
                            Activation::Identity => sum,
                            Activation::Relu => sum.max(V::splat(0.0)),
                            Activation::Silu => silu(sum),
                        };
                        if !residual.is_null() {
                            value = value.add(V::load(residual.add(at)));
                        }
                        value.store(dst.add(at));
                        block += LANES;
                    } else {
                        let mut sum = *args.packed.add(at);
                        for row in 0..taps_y.len() {
                            for column in 0..taps_x.len() {
                                let from = first + ((row * args.from.w + column) * args.from.pitch) as isize;
                                let weight = first_weight + (row * spec.kernel + column) * width;
                                sum += *args.src.offset(from) * *args.packed.add(weight);
                            }
                        }
                        let extra = if residual.is_null() { 0.0 } else { *residual.add(at) };
                        *dst.add(at) = spec.act.apply(sum) + extra;
                        block += 1;
                    }
                }
            }
        }
    }
}

/// The taps of a window from `start` on that lie inside a side.
#[inline(always)]
fn window(start: isize, kernel: usize, side: usize) -> std::ops::Range<usize> {
    let first = (-start).max(0) as usize;
    let last = (side as isize - start).clamp(0, kernel as isize) as usize;
    first.min(last)..last
}
