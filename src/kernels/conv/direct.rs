//! Convolution tap by tap, through a table of pointers (indirect convolution).
//!
//! A thread takes a run of output pixels, looks up where each tap of each pixel reads (zeros outside of the image), and
//! then goes through the panels of output channels, so that a panel of weights stays in the cache for all tiles of the
//! run. Where a window row lies in one piece inside the image, its taps are summed as one.

use super::low_precision::quantize_pixels;
use super::operands::{Operands, Quantize};
use super::spec::ConvSpec;
use crate::kernels::Kernels;
use crate::kernels::isa::for_isa;
use crate::kernels::isa::lanes::{PackedLanes, Register};
use crate::kernels::isa::packed::for_packed_isa;
use crate::kernels::product::{MAX_ROWS, Panel, Prefetch, Product, Sources, even_rows, panels};
use std::ops::Range;

/// The most pixels of a run: tiles of 12, 6 and 4 fit without a rest, and so does a 10 x 10 image.
const PIXELS: usize = 120;

/// The most pointers of a table; windows too large for it get shorter runs.
const POINTERS: usize = 9 * PIXELS;

/// Pointers per pixel.
fn taps(spec: &ConvSpec) -> usize {
    spec.planes().0 * spec.kernel * spec.kernel
}

/// The most pixels of a run for a window: whole tiles.
fn run_pixels(spec: &ConvSpec) -> usize {
    let most = (POINTERS / taps(spec)).clamp(MAX_ROWS, PIXELS);
    most - most % MAX_ROWS
}

/// Values of working space that a thread needs.
pub(super) fn scratch(spec: &ConvSpec) -> usize {
    run_pixels(spec) * taps(spec) * size_of::<*const f32>() / size_of::<f32>()
}

/// As [`scratch`], of a low-precision algorithm, with packed lanes for channels.
pub(super) fn packed_scratch(spec: &ConvSpec) -> usize {
    scratch(spec) + if spec.is_pointwise() { run_pixels(spec) * spec.c_in } else { 0 }
}

struct Args {
    operands: Operands,
    /// Pixels of a run.
    run: usize,
    /// In how many parts the panels are taken, where there are fewer runs than threads.
    shares: usize,
}

/// Runs a convolution; one of a low-precision algorithm on what
/// [`quantize_input`](super::low_precision::quantize_input) returned.
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
    // SAFETY: the caller checked all sizes. Items write different pixels or channels.
    match args.operands.quantize {
        Some(Quantize { isa, .. }) => {
            kernels.pool.run(runs * shares, &|item, worker| unsafe { run_packed(isa, &args, item, worker) });
        }
        None => kernels.pool.run(runs * shares, &|item, worker| unsafe { run_item(isa, &args, item, worker) }),
    }
}

for_isa!(run_item, item, Args);
for_packed_isa!(run_packed, packed_item, Args);

impl Args {
    /// The first pixel of an item, and how many there are.
    fn pixels(&self, item: usize) -> (usize, usize) {
        let first = item / self.shares * self.run;
        (first, self.run.min(self.operands.to.area() - first))
    }

    /// The panels of an item.
    fn panels<V: Register>(&self, item: usize) -> Range<usize> {
        let (count, share) = (panels(self.operands.spec.c_out, V::LANES).count(), item % self.shares);
        count * share / self.shares..count * (share + 1) / self.shares
    }

    /// A thread's table of pointers.
    ///
    /// # Safety
    /// Every thread must have `scratch` values of its own.
    unsafe fn table(&self, worker: usize) -> *mut *const f32 {
        let scratch = &self.operands.scratch;
        // SAFETY: the caller keeps the contract.
        unsafe { scratch.workspace.add(worker * scratch.space).cast() }
    }
}

#[inline(always)]
unsafe fn item<V: Register>(args: &Args, item: usize, worker: usize) {
    let (first, pixels) = args.pixels(item);
    if args.panels::<V>(item).is_empty() {
        return;
    }
    // SAFETY: every thread has `scratch` values of its own, aligned to 64 bytes; the pixels are inside the output.
    unsafe {
        let table = args.table(worker);
        let inside = look_up(&args.operands, first, pixels, table);
        sweep::<V>(args, item, table, &inside);
    }
}

/// As [`item`], where the packed lanes may still have to be made.
#[inline(always)]
unsafe fn packed_item<P: PackedLanes>(args: &Args, item: usize, worker: usize) {
    let o = &args.operands;
    let (first, pixels) = args.pixels(item);
    let quantized = o.quantize.is_some_and(|quantize| quantize.shared.is_some());
    // SAFETY: as in `item`; the packed lanes lie behind the table.
    unsafe {
        if quantized || args.panels::<P>(item).is_empty() {
            return self::item::<P>(args, item, worker);
        }
        let (table, pitch) = (args.table(worker), o.spec.c_in);
        let lanes = table.add(run_pixels(&o.spec)).cast::<f32>();
        quantize_pixels::<P>(o, first, pixels, lanes, pitch);
        (0..pixels).for_each(|pixel| table.add(pixel).write(lanes.add(pixel * pitch)));
        sweep::<P>(args, item, table, &[true; PIXELS]);
    }
}

/// Multiplies the pixels of an item, which read where the table says, with its panels. `inside` says of every pixel
/// whether each row of its window is one piece.
#[inline(always)]
unsafe fn sweep<V: Register>(args: &Args, item: usize, table: *const *const f32, inside: &[bool; PIXELS]) {
    let o = &args.operands;
    let spec = &o.spec;
    let (first, pixels) = args.pixels(item);
    let (planes, channels_of_plane) = spec.planes();
    let share = args.panels::<V>(item);
    let depth = spec.depth();
    for Panel { start, vectors, channels } in panels(spec.c_out, V::LANES).skip(share.start).take(share.len()) {
        let rows_of_tile = even_rows(pixels, (V::SUMS / vectors).min(MAX_ROWS));
        let width = vectors * V::LANES;
        let step = width.div_ceil(pixels.div_ceil(rows_of_tile));
        for at in (0..pixels).step_by(rows_of_tile) {
            let rows = rows_of_tile.min(pixels - at);
            let whole = inside[at..at + rows].iter().all(|inside| *inside);
            let pixel = first + at;
            // SAFETY: panels lie one after the other; the pixels and their channels are inside the views, and the
            // table says where they may read.
            unsafe {
                let weights = o.weights.add(start * depth);
                // Every tile fetches a part of the next panel, which lies behind this one.
                let product = Product {
                    weights,
                    prefetch: Prefetch {
                        from: weights.wrapping_add(width * depth + at / rows_of_tile * depth * step),
                        step,
                    },
                    sources: Sources {
                        table: table.add(at),
                        stride: if whole { pixels * spec.kernel } else { pixels },
                        taps: planes * spec.kernel * if whole { 1 } else { spec.kernel },
                        len: channels_of_plane * if whole { spec.kernel } else { 1 },
                    },
                    epilogue: o.epilogue.at(pixel, start),
                    output: o.output.at(pixel, start),
                    channels,
                };
                V::tile(&product, rows, vectors);
            }
        }
    }
}

/// Fills a table with where tap `t` of pixel `first + i` reads, at `t * pixels + i`. Says of every pixel whether each
/// row of its window is one piece: it leaves the image neither to the left nor to the right, and pixels follow each
/// other without gaps. Where a tile can only be of such pixels, each row of the window gets its first tap alone.
#[inline(always)]
unsafe fn look_up(o: &Operands, first: usize, pixels: usize, table: *mut *const f32) -> [bool; PIXELS] {
    let (spec, from, width) = (&o.spec, &o.from, o.to.w);
    let k = spec.kernel;
    // Columns from `left` up to `right` have windows that lie inside.
    let left = spec.padding.div_ceil(spec.stride);
    let dense = k == 1 || from.pitch == spec.planes().1;
    let right = (from.w + spec.padding).checked_sub(k).filter(|_| dense).map_or(0, |last| last / spec.stride + 1);
    let mut inside = [false; PIXELS];
    let mut done = 0;
    // One piece of an output row after the other.
    while done < pixels {
        let (y, x) = ((first + done) / width, (first + done) % width);
        let count = (width - x).min(pixels - done);
        (left.max(x)..right.min(x + count)).for_each(|column| inside[done + column - x] = true);
        // Columns that share no tile with a window that leaves the image.
        let apart = (left + MAX_ROWS).clamp(x, x + count)..right.saturating_sub(MAX_ROWS).clamp(x, x + count);
        for row in 0..spec.planes().0 * k {
            let line = (y * spec.stride + row % k).checked_sub(spec.padding).filter(|line| *line < from.h);
            let line = line.map(|line| o.src.wrapping_add((row / k * from.h + line) * from.w * from.pitch));
            for kx in 0..k {
                // SAFETY: the table has as many entries; only pixels of the view are pointed to.
                unsafe {
                    let entries = table.add((row * k + kx) * pixels + done);
                    let any = |column: usize| {
                        let at = (column * spec.stride + kx).wrapping_sub(spec.padding);
                        let source = match line {
                            Some(line) if at < from.w => line.add(at * from.pitch),
                            _ => o.scratch.zeros,
                        };
                        entries.add(column - x).write(source);
                    };
                    if apart.is_empty() {
                        (x..x + count).for_each(any);
                        continue;
                    }
                    (x..apart.start).for_each(any);
                    (apart.end..x + count).for_each(any);
                    if kx == 0 {
                        let step = if line.is_some() { spec.stride * from.pitch } else { 0 };
                        let start = line.map_or(o.scratch.zeros, |line| {
                            line.wrapping_add((apart.start * spec.stride).wrapping_sub(spec.padding) * from.pitch)
                        });
                        let entries = entries.add(apart.start - x);
                        (0..apart.len()).for_each(|i| entries.add(i).write(start.wrapping_add(i * step)));
                    }
                }
            }
        }
        done += count;
    }
    inside
}
