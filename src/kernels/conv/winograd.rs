//! Convolution of 3 x 3 windows by Winograd's minimal filtering F(4 x 4, 3 x 3): at stride 1 36 multiplications for 16
//! outputs instead of 144 (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016), at stride 2, where
//! even and odd rows and columns of the input are filtered apart, 81 ([`filter`](super::filter)).
//!
//! A thread takes a run of output tiles: it transforms their inputs into 36 (at stride 2 81) matrices of tiles x input
//! channels, and then for one panel of output channels after the other multiplies each with its matrix of transformed
//! weights and transforms the products back. There are 36 matrices of weights at stride 2 too: odd rows and columns are
//! not transformed, and all of a tile's meet the same weights.

use super::filter::{FAR, FAR_2, NEAR, NEAR_2};
use super::operands::Operands;
use super::spec::{ConvSpec, WINOGRAD_OUT as OUT, WINOGRAD_SIDE as SIDE, winograd_tiles as tiles};
use crate::kernels::isa::for_isa;
use crate::kernels::isa::lanes::{Lanes, activate, load_up_to, store_up_to};
use crate::kernels::product::{
    Epilogue, Layout, MAX_ROWS, MAX_VECTORS, Output, Panel, Prefetch, Product, Sources, even_rows, panels,
};
use crate::kernels::{Isa, Kernels};

/// Values that the matrices of a run may take: a part of the second level of cache.
const SPACE: usize = 112 << 10;

/// Inputs of a tile along a side, and transformed ones: at stride 1, and at stride 2.
const DENSE: usize = OUT + 2;
const STRIDED: usize = 2 * OUT + 1;

/// Transformed inputs of even columns at stride 2, before those of odd ones.
const EVEN: usize = OUT + 1;

/// Values that the matrices of a tile take.
fn per_tile(isa: Isa, spec: &ConvSpec) -> usize {
    let side = if spec.stride == 1 { DENSE } else { STRIDED };
    side * side * (spec.c_in.next_multiple_of(isa.lanes()) + MAX_VECTORS * isa.lanes())
}

/// The most tiles of a run.
fn run_tiles(isa: Isa, spec: &ConvSpec) -> usize {
    (SPACE / per_tile(isa, spec)).clamp(4, 4 * MAX_ROWS)
}

/// Values of working space that a thread needs.
pub(super) fn scratch(isa: Isa, spec: &ConvSpec) -> usize {
    per_tile(isa, spec) * run_tiles(isa, spec)
}

/// Where the matrix of a position of the transformed inputs lies: those that are multiplied with the same weights lie side
/// by side.
const fn place<const IN: usize>(y: usize, x: usize) -> usize {
    if IN == DENSE || y < EVEN { y * IN + x } else { EVEN * IN + x * OUT + y - EVEN }
}

/// The first of the matrices that are multiplied with the weights of a position of the transformed window, and how many
/// there are.
const fn matrices<const IN: usize>(y: usize, x: usize) -> (usize, usize) {
    if IN == DENSE {
        return (place::<IN>(y, x), 1);
    }
    let (rows, columns) = (if y == EVEN { OUT } else { 1 }, if x == EVEN { OUT } else { 1 });
    (place::<IN>(y, x), rows * columns)
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
    // SAFETY: the caller keeps the contract.
    unsafe {
        match args.operands.spec.stride {
            1 => item_of::<V, DENSE>(args, item, worker),
            _ => item_of::<V, STRIDED>(args, item, worker),
        }
    }
}

#[inline(always)]
unsafe fn item_of<V: Lanes, const IN: usize>(args: &Args, item: usize, worker: usize) {
    let o = &args.operands;
    let first = item * args.run;
    let count = args.run.min(args.tiles - first);
    let pitch = o.spec.c_in.next_multiple_of(V::LANES);
    // SAFETY: every thread has `scratch` values of its own, which hold both sets of matrices.
    unsafe {
        let inputs = o.scratch.workspace.add(worker * o.scratch.space);
        let products = inputs.add(IN * IN * count * pitch);
        for tile in 0..count {
            let at = first + tile;
            let (y, x) = (at / args.across * OUT, at % args.across * OUT);
            transform_input::<V, IN>(o, y, x, inputs.add(tile * pitch), count * pitch);
        }
        for panel in panels(o.spec.c_out, V::LANES) {
            multiply::<V, IN>(o, &panel, inputs, count, pitch, products);
            for tile in 0..count {
                let at = first + tile;
                let (y, x) = (at / args.across * OUT, at % args.across * OUT);
                for vector in 0..panel.vectors {
                    let width = panel.vectors * V::LANES;
                    let from = products.add(tile * width + vector * V::LANES);
                    let start = panel.start + vector * V::LANES;
                    transform_output::<V, IN>(o, y, x, from, count * width, start);
                }
            }
        }
    }
}

/// The products of all positions for one panel: `[positions, tiles, width of the panel]`.
#[inline(always)]
unsafe fn multiply<V: Lanes, const IN: usize>(
    o: &Operands,
    panel: &Panel,
    inputs: *const f32,
    tiles: usize,
    pitch: usize,
    products: *mut f32,
) {
    let width = panel.vectors * V::LANES;
    for position in 0..SIDE * SIDE {
        let (matrix, matrices) = matrices::<IN>(position / SIDE, position % SIDE);
        let (first, pixels) = (matrix * tiles, matrices * tiles);
        let rows = even_rows(pixels, (V::SUMS / panel.vectors).min(MAX_ROWS));
        // Every tile fetches its part of the next position's weights.
        let step = width.div_ceil(pixels.div_ceil(rows));
        for at in (0..pixels).step_by(rows) {
            // SAFETY: positions, tiles and panels are inside their matrices.
            unsafe {
                let from = inputs.add((first + at) * pitch);
                let sources: [*const f32; MAX_ROWS] = std::array::from_fn(|i| from.wrapping_add(i * pitch));
                let weights = o.weights.add(panel.start * o.spec.depth() + position * o.spec.c_in * width);
                let product = Product {
                    weights,
                    prefetch: Prefetch { from: weights.wrapping_add(o.spec.c_in * (width + at / rows * step)), step },
                    sources: Sources { table: sources.as_ptr(), stride: 0, taps: 1, len: o.spec.c_in },
                    epilogue: Epilogue::NONE,
                    output: Output { to: products.add((first + at) * width), layout: Layout::Pixels { pitch: width } },
                    channels: width,
                };
                V::tile(&product, rows.min(pixels - at), panel.vectors);
            }
        }
    }
}

/// One dimension of the input transform.
#[inline(always)]
unsafe fn input_pass<V: Lanes, const IN: usize>(d: [V; IN]) -> [V; IN] {
    // SAFETY: no pointers.
    unsafe {
        let mut t = d;
        if IN == STRIDED {
            let (even, odd) = (d[0].fma(V::splat(-FAR_2), d[4]), d[2].fma(V::splat(-FAR_2), d[6]));
            let (even_far, odd_far) = (d[0].fma(V::splat(-NEAR_2), d[4]), d[2].fma(V::splat(-NEAR_2), d[6]));
            t[0] = even.fma(V::splat(NEAR), odd);
            t[1] = even.fma(V::splat(-NEAR), odd);
            t[2] = even_far.fma(V::splat(FAR), odd_far);
            t[3] = even_far.fma(V::splat(-FAR), odd_far);
            t[4] = d[0].fma(V::splat(NEAR_2 * FAR_2), d[4].fma(V::splat(-NEAR_2 - FAR_2), d[8]));
            for i in 0..OUT {
                t[EVEN + i] = d[2 * i + 1];
            }
            return t;
        }
        let (near, far) = (V::splat(NEAR), V::splat(FAR));
        let (both, neither) = (V::splat(NEAR_2 * FAR_2), V::splat(-NEAR_2 - FAR_2));
        let (even, odd) = (d[2].fma(V::splat(-FAR_2), d[4]), d[1].fma(V::splat(-FAR_2), d[3]));
        let (even_far, odd_far) = (d[2].fma(V::splat(-NEAR_2), d[4]), d[1].fma(V::splat(-NEAR_2), d[3]));
        t[0] = d[0].fma(both, d[2].fma(neither, d[4]));
        t[1] = odd.fma(near, even);
        t[2] = odd.fma(V::splat(-NEAR), even);
        t[3] = odd_far.fma(far, even_far);
        t[4] = odd_far.fma(V::splat(-FAR), even_far);
        t[5] = d[1].fma(both, d[3].fma(neither, d[5]));
        t
    }
}

/// Transforms the inputs of the tile whose first output is at (`y`, `x`); position `p` goes to `to + p * stride`.
#[inline(always)]
unsafe fn transform_input<V: Lanes, const IN: usize>(o: &Operands, y: usize, x: usize, to: *mut f32, stride: usize) {
    let (from, padding) = (&o.from, o.spec.padding);
    let (y, x) = (y * o.spec.stride, x * o.spec.stride);
    let inside = y >= padding && x >= padding && y + IN <= from.h + padding && x + IN <= from.w + padding;
    // SAFETY: only pixels of the view are pointed to, and zeros; the matrices have room for whole vectors.
    unsafe {
        if inside {
            let corner = o.src.add(((y - padding) * from.w + x - padding) * from.pitch);
            let row = from.w * from.pitch;
            transform_at::<V, IN>(o.spec.c_in, |iy, ix| corner.add(iy * row + ix * from.pitch), to, stride);
        } else {
            let at = |iy: usize, ix: usize| {
                let (iy, ix) = ((y + iy).wrapping_sub(padding), (x + ix).wrapping_sub(padding));
                if iy < from.h && ix < from.w { o.src.add((iy * from.w + ix) * from.pitch) } else { o.scratch.zeros }
            };
            let pointers: [[*const f32; IN]; IN] = std::array::from_fn(|iy| std::array::from_fn(|ix| at(iy, ix)));
            transform_at::<V, IN>(o.spec.c_in, |iy, ix| pointers[iy][ix], to, stride);
        }
    }
}

#[inline(always)]
unsafe fn transform_at<V: Lanes, const IN: usize>(
    c: usize,
    at: impl Fn(usize, usize) -> *const f32,
    to: *mut f32,
    stride: usize,
) {
    let whole = c - c % V::LANES;
    // SAFETY: the caller keeps the contract.
    unsafe {
        for channel in (0..whole).step_by(V::LANES) {
            transform_vector::<V, IN>(|iy, ix| V::load(at(iy, ix).add(channel)), to.add(channel), stride);
        }
        if whole < c {
            let load = |iy, ix| V::load_first(at(iy, ix).add(whole), c - whole);
            transform_vector::<V, IN>(load, to.add(whole), stride);
        }
    }
}

// Plain index loops, which the compiler unrolls.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn transform_vector<V: Lanes, const IN: usize>(load: impl Fn(usize, usize) -> V, to: *mut f32, stride: usize) {
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
                row[ix].store(to.add(place::<IN>(iy, ix) * stride));
            }
        }
    }
}

/// One dimension of the output transform.
#[inline(always)]
unsafe fn output_pass<V: Lanes, const IN: usize>(m: [V; IN]) -> [V; OUT] {
    // SAFETY: no pointers.
    unsafe {
        if IN == STRIDED {
            let (near, near_odd) = (m[0].add(m[1]), m[0].sub(m[1]));
            let (far, far_odd) = (m[2].add(m[3]), m[2].sub(m[3]));
            let last = near_odd.fma(V::splat(NEAR * NEAR_2), m[4].add(m[8]));
            return [
                near.add(far).add(m[5]),
                far_odd.fma(V::splat(FAR), near_odd.fma(V::splat(NEAR), m[6])),
                far.fma(V::splat(FAR_2), near.fma(V::splat(NEAR_2), m[7])),
                far_odd.fma(V::splat(FAR * FAR_2), last),
            ];
        }
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
unsafe fn transform_output<V: Lanes, const IN: usize>(
    o: &Operands,
    y: usize,
    x: usize,
    from: *const f32,
    stride: usize,
    start: usize,
) {
    let (height, width) = ((o.to.h - y).min(OUT), (o.to.w - x).min(OUT));
    let n = o.spec.c_out - start;
    // SAFETY: the pixels are inside the output, and so are `n` channels from `start` on.
    unsafe {
        let mut half = [[V::splat(0.0); IN]; OUT];
        for ix in 0..IN {
            let mut column = [V::splat(0.0); IN];
            for iy in 0..IN {
                column[iy] = V::load(from.add(place::<IN>(iy, ix) * stride));
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
