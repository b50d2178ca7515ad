//! Depthwise convolutions: every channel by itself, a vector of channels at a time.

use super::conv::{ConvSpec, PackedConv};
use super::isa::for_isa;
use super::isa::lanes::{Lanes, MAX_LANES, activate, load_up_to, store_up_to};
use super::product::Residual;
use super::{Buffer, Kernels, View};

/// Outputs of a row that are computed together: they share the loads of the kernel.
const RUN: usize = 4;

fn width(spec: &ConvSpec) -> usize {
    spec.c_out.next_multiple_of(MAX_LANES)
}

/// Values that the packed kernel and biases take. `c_in` of the spec equals `c_out`.
pub fn packed_depthwise_len(spec: &ConvSpec) -> usize {
    width(spec) * (spec.kernel * spec.kernel + 1)
}

/// Packs a kernel `[c, 1, k, k]` and a bias `[c]`.
///
/// # Panics
/// If a length is wrong.
pub fn pack_depthwise(spec: &ConvSpec, weights: &[f32], bias: &[f32], packed: &mut [f32]) {
    let (taps, width) = (spec.kernel * spec.kernel, width(spec));
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
    PackedConv { spec, weights }: PackedConv,
    src: View,
    dst: View,
    residual: Option<View>,
) {
    [Some(src), Some(dst), residual].iter().flatten().for_each(|view| view.check(buffer));
    assert_eq!((src.c, dst.c, dst.h, dst.w), (spec.c_out, spec.c_out, spec.side(src.h), spec.side(src.w)));
    assert!(src.disjoint(&dst), "{src:?} and {dst:?}");
    assert!(residual.is_none_or(|r| r.disjoint(&dst) && (r.c, r.h, r.w) == (dst.c, dst.h, dst.w)));
    assert_eq!(weights.len(), packed_depthwise_len(spec));
    let (rows, parts) = kernels.parts(dst.h, 8, 1);
    let args = Args {
        spec: *spec,
        // SAFETY: all three views were checked.
        src: unsafe { src.ptr(buffer) },
        dst: unsafe { dst.ptr(buffer) },
        residual: residual.map(|r| Residual { from: unsafe { r.ptr(buffer) }, pitch: r.pitch }),
        from: src,
        to: dst,
        packed: weights.as_ptr(),
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
    residual: Option<Residual>,
    from: View,
    to: View,
    packed: *const f32,
    rows: usize,
}

// SAFETY: the pointers are those of buffers that outlive the call; see `depthwise` on who writes what.
unsafe impl Sync for Args {}

for_isa!(run_rows, rows, Args);

#[inline(always)]
unsafe fn rows<V: Lanes>(args: &Args, item: usize, _worker: usize) {
    let (spec, c, wide) = (&args.spec, args.to.c, args.to.w);
    // Outputs from `left` up to `right` have windows that lie inside from side to side.
    let left = spec.padding.div_ceil(spec.stride).min(wide);
    let right = (args.from.w + spec.padding).checked_sub(spec.kernel).map_or(0, |last| last / spec.stride + 1);
    let right = right.clamp(left, wide);
    for y in item * args.rows..((item + 1) * args.rows).min(args.to.h) {
        for channel in (0..c).step_by(V::LANES) {
            // SAFETY: the pixels are inside the output, the channel is below `c`.
            unsafe {
                match channel + V::LANES <= c {
                    true => row::<V, true>(args, y, (left, right), channel),
                    false => row::<V, false>(args, y, (left, right), channel),
                }
            }
        }
    }
}

/// A row of outputs for one vector of channels; `FULL` where all its lanes are channels.
#[inline(always)]
unsafe fn row<V: Lanes, const FULL: bool>(args: &Args, y: usize, (left, right): (usize, usize), channel: usize) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        (0..left).for_each(|x| outputs::<V, FULL, 1>(args, y, x, channel));
        let mut x = left;
        while x + RUN <= right {
            outputs::<V, FULL, RUN>(args, y, x, channel);
            x += RUN;
        }
        (x..args.to.w).for_each(|x| outputs::<V, FULL, 1>(args, y, x, channel));
    }
}

/// A vector of channels of `N` neighbouring outputs. More than one only where all their windows lie inside from side to
/// side.
// Plain index loops, which the compiler unrolls.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn outputs<V: Lanes, const FULL: bool, const N: usize>(args: &Args, y: usize, x: usize, channel: usize) {
    let (spec, width) = (&args.spec, width(&args.spec));
    let (taps_y, top) = window(y, spec, args.from.h);
    let (taps_x, start) = window(x, spec, args.from.w);
    let n = if FULL { V::LANES } else { spec.c_out - channel };
    let step = spec.stride * args.from.pitch;
    // SAFETY: the taps are inside the input, and so are `n` channels from `channel` on.
    unsafe {
        let bias = V::load(args.packed.add(channel));
        let mut sums = [bias; N];
        for (row, ky) in taps_y.enumerate() {
            for (column, kx) in taps_x.clone().enumerate() {
                let weight = V::load(args.packed.add((1 + ky * spec.kernel + kx) * width + channel));
                let from = args.src.add(((top + row) * args.from.w + start + column) * args.from.pitch + channel);
                for i in 0..N {
                    sums[i] = load_up_to::<V>(from.add(i * step), n).fma(weight, sums[i]);
                }
            }
        }
        for i in 0..N {
            let pixel = y * args.to.w + x + i;
            let mut value = activate(spec.act, sums[i]);
            if let Some(residual) = args.residual {
                value = value.add(load_up_to(residual.from.add(pixel * residual.pitch + channel), n));
            }
            store_up_to(value, args.dst.add(pixel * args.to.pitch + channel), n);
        }
    }
}

/// The taps of an output's window that lie inside a side, and where the first of them reads.
#[inline(always)]
fn window(out: usize, spec: &ConvSpec, side: usize) -> (std::ops::Range<usize>, usize) {
    let start = out * spec.stride;
    let first = spec.padding.saturating_sub(start).min(spec.kernel);
    let last = (side + spec.padding).saturating_sub(start).min(spec.kernel);
    (first..last.max(first), (start + first).saturating_sub(spec.padding))
}
