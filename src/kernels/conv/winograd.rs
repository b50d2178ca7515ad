//! Convolution of 3 x 3 windows at stride 1 by Winograd's minimal filtering F(4 x 4, 3 x 3): 36 multiplications for 16
//! outputs instead of 144 (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016). The interpolation
//! points 0, +-3/4, +-3/2 and infinity round half as much as the usual 0, +-1, +-2 and infinity, and all their powers
//! that are needed are exact in f32.
//!
//! A thread takes a run of output tiles: it transforms their inputs into 36 matrices of tiles x input channels, and
//! then for one panel of output channels after the other multiplies each with its matrix of transformed weights and
//! transforms the 36 products back.

use super::operands::Operands;
use super::spec::{
    ConvSpec, WINOGRAD_IN as IN, WINOGRAD_OUT as OUT, WINOGRAD_POSITIONS as POSITIONS, winograd_tiles as tiles,
};
use crate::kernels::isa::for_isa;
use crate::kernels::isa::lanes::{Lanes, activate, load_up_to, store_up_to};
use crate::kernels::product::{
    Epilogue, Layout, MAX_ROWS, MAX_VECTORS, Output, Panel, Prefetch, Product, Sources, even_rows, panels,
};
use crate::kernels::{Isa, Kernels};

/// The nearer and the farther pair of interpolation points, and what the transforms need of them.
const NEAR: f32 = 0.75;
const FAR: f32 = 1.5;
const NEAR_2: f32 = NEAR * NEAR;
const FAR_2: f32 = FAR * FAR;

/// Values that the matrices of a run may take: a part of the second level of cache.
const SPACE: usize = 112 << 10;

/// The most tiles of a run.
fn run_tiles(isa: Isa, spec: &ConvSpec) -> usize {
    let per_tile = POSITIONS * (spec.c_in.next_multiple_of(isa.lanes()) + MAX_VECTORS * isa.lanes());
    (SPACE / per_tile).clamp(4, 4 * MAX_ROWS)
}

/// Values of working space that a thread needs.
pub(super) fn scratch(isa: Isa, spec: &ConvSpec) -> usize {
    let columns = spec.c_in.next_multiple_of(isa.lanes()) + MAX_VECTORS * isa.lanes();
    POSITIONS * columns * run_tiles(isa, spec)
}

/// The 36 values of a transformed 3 x 3 window.
pub(super) fn transform_kernel(window: &[f32]) -> [f32; POSITIONS] {
    let [a, b] = [f64::from(NEAR), f64::from(FAR)];
    let (a_2, b_2) = (a * a, b * b);
    let pass = |g: [f64; 3]| {
        let pair = |point: f64, over: f64| {
            let (even, odd) = (g[0] + point * point * g[2], point * g[1]);
            [(even + odd) / over, (even - odd) / over]
        };
        let [near, minus_near] = pair(a, 2.0 * a_2 * (a_2 - b_2));
        let [far, minus_far] = pair(b, 2.0 * b_2 * (b_2 - a_2));
        [g[0] / (a_2 * b_2), near, minus_near, far, minus_far, g[2]]
    };
    let columns: [[f64; IN]; 3] = std::array::from_fn(|x| pass(std::array::from_fn(|y| f64::from(window[3 * y + x]))));
    let rows: [[f64; IN]; IN] = std::array::from_fn(|y| pass(std::array::from_fn(|x| columns[x][y])));
    std::array::from_fn(|p| rows[p / IN][p % IN] as f32)
}

struct Args {
    operands: Operands,
    /// Tiles of a run, of a row of the image, and of the image.
    run: usize,
    across: usize,
    tiles: usize,
}

/// Runs a convolution.
pub(super) fn run(kernels: &mut Kernels, operands: Operands) {
    let (across, tiles) = (operands.to.w.div_ceil(OUT), tiles(operands.to.h, operands.to.w));
    let isa = kernels.isa;
    let (run, runs) = kernels.parts(tiles, run_tiles(isa, &operands.spec), 1);
    let args = Args { operands, run, across, tiles };
    // SAFETY: `conv` checked all sizes. Items write different tiles of the output.
    kernels.pool.run(runs, &|item, worker| unsafe { run_item(isa, &args, item, worker) });
}

for_isa!(run_item, item, Args);

#[inline(always)]
unsafe fn item<V: Lanes>(args: &Args, item: usize, worker: usize) {
    let o = &args.operands;
    let first = item * args.run;
    let count = args.run.min(args.tiles - first);
    let pitch = o.spec.c_in.next_multiple_of(V::LANES);
    // SAFETY: every thread has `scratch` values of its own, which hold both sets of matrices.
    unsafe {
        let inputs = o.scratch.workspace.add(worker * o.scratch.space);
        let products = inputs.add(POSITIONS * count * pitch);
        for tile in 0..count {
            let at = first + tile;
            let (y, x) = (at / args.across * OUT, at % args.across * OUT);
            transform_input::<V>(o, y, x, inputs.add(tile * pitch), count * pitch);
        }
        for panel in panels(o.spec.c_out, V::LANES) {
            multiply::<V>(o, &panel, inputs, count, pitch, products);
            for tile in 0..count {
                let at = first + tile;
                let (y, x) = (at / args.across * OUT, at % args.across * OUT);
                for vector in 0..panel.vectors {
                    let width = panel.vectors * V::LANES;
                    let from = products.add(tile * width + vector * V::LANES);
                    let start = panel.start + vector * V::LANES;
                    transform_output::<V>(o, y, x, from, count * width, start);
                }
            }
        }
    }
}

/// The products of all positions for one panel: `[36, tiles, width of the panel]`.
#[inline(always)]
unsafe fn multiply<V: Lanes>(
    o: &Operands,
    panel: &Panel,
    inputs: *const f32,
    tiles: usize,
    pitch: usize,
    products: *mut f32,
) {
    let width = panel.vectors * V::LANES;
    let rows = even_rows(tiles, (V::SUMS / panel.vectors).min(MAX_ROWS));
    // Every tile fetches its part of the next position's weights.
    let step = width.div_ceil(tiles.div_ceil(rows));
    for position in 0..POSITIONS {
        for at in (0..tiles).step_by(rows) {
            // SAFETY: positions, tiles and panels are inside their matrices.
            unsafe {
                let first = inputs.add((position * tiles + at) * pitch);
                let sources: [*const f32; MAX_ROWS] = std::array::from_fn(|i| first.wrapping_add(i * pitch));
                let weights = o.weights.add(panel.start * o.spec.depth() + position * o.spec.c_in * width);
                let product = Product {
                    weights,
                    prefetch: Prefetch { from: weights.wrapping_add(o.spec.c_in * (width + at / rows * step)), step },
                    sources: Sources { table: sources.as_ptr(), stride: 0, taps: 1, len: o.spec.c_in },
                    epilogue: Epilogue::NONE,
                    output: Output {
                        to: products.add((position * tiles + at) * width),
                        layout: Layout::Pixels { pitch: width },
                    },
                    channels: width,
                };
                V::tile(&product, rows.min(tiles - at), panel.vectors);
            }
        }
    }
}

/// One dimension of the input transform.
#[inline(always)]
unsafe fn input_pass<V: Lanes>(d: [V; IN]) -> [V; IN] {
    // SAFETY: no pointers.
    unsafe {
        let (near, far) = (V::splat(NEAR), V::splat(FAR));
        let (both, neither) = (V::splat(NEAR_2 * FAR_2), V::splat(-NEAR_2 - FAR_2));
        let (even, odd) = (d[2].fma(V::splat(-FAR_2), d[4]), d[1].fma(V::splat(-FAR_2), d[3]));
        let (even_far, odd_far) = (d[2].fma(V::splat(-NEAR_2), d[4]), d[1].fma(V::splat(-NEAR_2), d[3]));
        [
            d[0].fma(both, d[2].fma(neither, d[4])),
            odd.fma(near, even),
            odd.fma(V::splat(-NEAR), even),
            odd_far.fma(far, even_far),
            odd_far.fma(V::splat(-FAR), even_far),
            d[1].fma(both, d[3].fma(neither, d[5])),
        ]
    }
}

/// Transforms the inputs of the tile whose first output is at (`y`, `x`); position `p` goes to `to + p * stride`.
#[inline(always)]
unsafe fn transform_input<V: Lanes>(o: &Operands, y: usize, x: usize, to: *mut f32, stride: usize) {
    let (from, padding) = (&o.from, o.spec.padding);
    let inside = y >= padding && x >= padding && y + IN <= from.h + padding && x + IN <= from.w + padding;
    // SAFETY: only pixels of the view are pointed to, and zeros; the matrices have room for whole vectors.
    unsafe {
        if inside {
            let corner = o.src.add(((y - padding) * from.w + x - padding) * from.pitch);
            let row = from.w * from.pitch;
            transform_at::<V>(o.spec.c_in, |iy, ix| corner.add(iy * row + ix * from.pitch), to, stride);
        } else {
            let at = |iy: usize, ix: usize| {
                let (iy, ix) = ((y + iy).wrapping_sub(padding), (x + ix).wrapping_sub(padding));
                if iy < from.h && ix < from.w { o.src.add((iy * from.w + ix) * from.pitch) } else { o.scratch.zeros }
            };
            let pointers: [[*const f32; IN]; IN] = std::array::from_fn(|iy| std::array::from_fn(|ix| at(iy, ix)));
            transform_at::<V>(o.spec.c_in, |iy, ix| pointers[iy][ix], to, stride);
        }
    }
}

#[inline(always)]
unsafe fn transform_at<V: Lanes>(c: usize, at: impl Fn(usize, usize) -> *const f32, to: *mut f32, stride: usize) {
    let whole = c - c % V::LANES;
    // SAFETY: the caller keeps the contract.
    unsafe {
        for channel in (0..whole).step_by(V::LANES) {
            transform_vector::<V>(|iy, ix| V::load(at(iy, ix).add(channel)), to.add(channel), stride);
        }
        if whole < c {
            let load = |iy, ix| V::load_first(at(iy, ix).add(whole), c - whole);
            transform_vector::<V>(load, to.add(whole), stride);
        }
    }
}

// Plain index loops, which the compiler unrolls.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn transform_vector<V: Lanes>(load: impl Fn(usize, usize) -> V, to: *mut f32, stride: usize) {
    // SAFETY: see `transform_input`.
    unsafe {
        let mut half = [[V::splat(0.0); IN]; IN];
        for ix in 0..IN {
            let mut column = [V::splat(0.0); IN];
            for iy in 0..IN {
                column[iy] = load(iy, ix);
            }
            let column = input_pass(column);
            for iy in 0..IN {
                half[iy][ix] = column[iy];
            }
        }
        for iy in 0..IN {
            let row = input_pass(half[iy]);
            for ix in 0..IN {
                row[ix].store(to.add((iy * IN + ix) * stride));
            }
        }
    }
}

/// One dimension of the output transform.
#[inline(always)]
unsafe fn output_pass<V: Lanes>(m: [V; IN]) -> [V; OUT] {
    // SAFETY: no pointers.
    unsafe {
        let (near, near_odd) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (far, far_odd) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(near).add(far),
            far_odd.fma(V::splat(FAR), near_odd.mul(V::splat(NEAR))),
            far.fma(V::splat(FAR_2), near.mul(V::splat(NEAR_2))),
            far_odd.fma(V::splat(FAR * FAR_2), near_odd.fma(V::splat(NEAR * NEAR_2), m[5])),
        ]
    }
}

/// Transforms one vector of a tile's products back, and writes the channels from `start` on of the outputs that lie
/// inside the image.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn transform_output<V: Lanes>(o: &Operands, y: usize, x: usize, from: *const f32, stride: usize, start: usize) {
    let (height, width) = ((o.to.h - y).min(OUT), (o.to.w - x).min(OUT));
    let n = o.spec.c_out - start;
    // SAFETY: the pixels are inside the output, and so are `n` channels from `start` on.
    unsafe {
        let mut half = [[V::splat(0.0); IN]; OUT];
        for ix in 0..IN {
            let mut column = [V::splat(0.0); IN];
            for iy in 0..IN {
                column[iy] = V::load(from.add((iy * IN + ix) * stride));
            }
            let column = output_pass(column);
            for oy in 0..OUT {
                half[oy][ix] = column[oy];
            }
        }
        let bias = match o.epilogue.bias {
            Some(bias) => V::load(bias.add(start)),
            None => V::splat(0.0),
        };
        for oy in 0..height {
            let row = output_pass(half[oy]);
            for ox in 0..width {
                let pixel = (y + oy) * o.to.w + x + ox;
                let value = activate(o.epilogue.act, row[ox].add(bias));
                let value = match o.epilogue.residual {
                    None => value,
                    Some(residual) => value.add(load_up_to(residual.from.add(pixel * residual.pitch + start), n)),
                };
                store_up_to(value, o.output.to.add(pixel * o.to.pitch + start), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_one_tap_is_transformed_as_its_definition_says() {
        // Rows of powers of the points, over the product of the differences from the other points.
        let points = [0.0f64, 0.75, -0.75, 1.5, -1.5];
        let mut g = [[0.0; 3]; IN];
        for (i, p) in points.iter().enumerate() {
            let over: f64 = points.iter().filter(|q| *q != p).map(|q| p - q).product();
            g[i] = [1.0 / over, p / over, p * p / over];
        }
        g[IN - 1] = [0.0, 0.0, 1.0];
        for tap in 0..9 {
            let mut window = [0.0; 9];
            window[tap] = 1.0;
            for (p, found) in transform_kernel(&window).into_iter().enumerate() {
                let wanted = g[p / IN][tap / 3] * g[p % IN][tap % 3];
                assert!((f64::from(found) - wanted).abs() < 1e-7, "tap {tap}, position {p}");
            }
        }
    }
}
