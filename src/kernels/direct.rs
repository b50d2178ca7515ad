//! Convolution tap by tap, through a table of pointers (indirect convolution).
//!
//! A thread takes a run of output pixels, looks up where each tap of each pixel reads (zeros outside of the image), and
//! then goes through the panels of output channels, so that a panel of weights stays in the cache for all tiles of the
//! run. Where a window row lies in one piece inside the image, its taps are summed as one.

use super::conv::{ConvSpec, Operands};
use super::lanes::Lanes;
use super::product::{MAX_ROWS, Panel, Product, even_rows, panels};
use super::{Kernels, for_isa};

/// The most pixels of a run: tiles of 12, 6 and 4 fit without a rest, and so does a 10 x 10 image.
const PIXELS: usize = 120;

/// The most pointers of a table; windows too large for it get shorter runs.
const POINTERS: usize = 9 * PIXELS;

/// The most pixels of a run for a window: whole tiles.
fn run_pixels(spec: &ConvSpec) -> usize {
    let most = (POINTERS / (spec.kernel * spec.kernel)).clamp(MAX_ROWS, PIXELS);
    most - most % MAX_ROWS
}

/// Values of working space that a thread needs.
pub(super) fn scratch(spec: &ConvSpec) -> usize {
    run_pixels(spec) * spec.kernel * spec.kernel * size_of::<*const f32>() / size_of::<f32>()
}

struct Args {
    operands: Operands,
    /// Pixels of a run.
    run: usize,
    /// In how many parts the panels are taken, where there are fewer runs than threads.
    shares: usize,
}

pub(super) fn run(kernels: &mut Kernels, operands: Operands) {
    let area = operands.to.area();
    let most = run_pixels(&operands.spec);
    let (run, runs) = match area <= most {
        true => (area, 1),
        false => kernels.parts(area, most, MAX_ROWS),
    };
    let shares = if runs < kernels.threads() { kernels.threads() } else { 1 };
    let args = Args { operands, run, shares };
    let isa = kernels.isa;
    // SAFETY: `conv` checked all sizes. Items write different pixels or channels.
    kernels.pool.run(runs * shares, &|item, worker| unsafe { run_item(isa, &args, item, worker) });
}

for_isa!(run_item, item, Args);

#[inline(always)]
unsafe fn item<V: Lanes>(args: &Args, item: usize, worker: usize) {
    let o = &args.operands;
    let spec = &o.spec;
    let first = item / args.shares * args.run;
    let pixels = args.run.min(o.to.area() - first);
    let taps = spec.kernel * spec.kernel;
    let count = panels(spec.c_out, V::LANES).count();
    let share = item % args.shares;
    let (from, until) = (count * share / args.shares, count * (share + 1) / args.shares);
    if from == until {
        return;
    }
    // SAFETY: every thread has `scratch` values of its own, aligned to 64 bytes; the pixels are inside the output.
    let (table, inside) = unsafe {
        let table = o.workspace.add(worker * o.space).cast::<*const f32>();
        (table, look_up(o, first, pixels, table))
    };
    // Rows of a window are whole pieces where pixels follow each other without gaps.
    let dense = spec.kernel == 1 || o.from.pitch == o.from.c;
    let (depth, bias) = (spec.depth(), o.bias);
    for Panel { start, vectors, channels } in panels(spec.c_out, V::LANES).skip(from).take(until - from) {
        let rows = even_rows(pixels, (V::SUMS / vectors).min(MAX_ROWS));
        for at in (0..pixels).step_by(rows) {
            let rows = rows.min(pixels - at);
            let whole = dense && inside[at..at + rows].iter().all(|inside| *inside);
            let pixel = first + at;
            // SAFETY: panels lie one after the other; the pixels and their channels are inside the views, and the
            // table says where they may read.
            unsafe {
                let product = Product {
                    weights: o.weights.add(start * depth),
                    sources: table.add(at),
                    stride: if whole { pixels * spec.kernel } else { pixels },
                    taps: if whole { spec.kernel } else { taps },
                    len: if whole { spec.kernel * spec.c_in } else { spec.c_in },
                    bias: bias.add(start),
                    act: spec.act,
                    n: channels,
                    dst: o.dst.add(pixel * o.to.pitch + start),
                    pitch: o.to.pitch,
                    residual: o.residual_at(pixel, start),
                    residual_pitch: o.residual_pitch,
                };
                V::tile(&product, rows, vectors);
            }
        }
    }
}

/// Fills a table with where tap `t` of pixel `first + i` reads, at `t * pixels + i`. Says of every pixel whether its
/// window leaves the image neither to the left nor to the right.
#[inline(always)]
unsafe fn look_up(o: &Operands, first: usize, pixels: usize, table: *mut *const f32) -> [bool; PIXELS] {
    let (spec, from, width) = (&o.spec, &o.from, o.to.w);
    let k = spec.kernel;
    let mut inside = [false; PIXELS];
    let mut done = 0;
    // One piece of an output row after the other.
    while done < pixels {
        let (y, x) = ((first + done) / width, (first + done) % width);
        let count = (width - x).min(pixels - done);
        // Columns of this piece whose window starts inside, and ends inside.
        let left = spec.padding.div_ceil(spec.stride);
        let right = (from.w + spec.padding).checked_sub(k).map_or(0, |last| last / spec.stride + 1);
        (left.max(x)..right.min(x + count)).for_each(|column| inside[done + column - x] = true);
        for ky in 0..k {
            let row = (y * spec.stride + ky).checked_sub(spec.padding).filter(|row| *row < from.h);
            for kx in 0..k {
                // SAFETY: the table has `taps * pixels` entries; only pixels of the view are pointed to.
                unsafe {
                    let entries = table.add((ky * k + kx) * pixels + done);
                    for i in 0..count {
                        let column = ((x + i) * spec.stride + kx).wrapping_sub(spec.padding);
                        let source = match row {
                            Some(row) if column < from.w => o.src.add((row * from.w + column) * from.pitch),
                            _ => o.zeros,
                        };
                        entries.add(i).write(source);
                    }
                }
            }
        }
        done += count;
    }
    inside
}
