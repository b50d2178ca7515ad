//! What a tile of a dense convolution takes on a multiprocessor.
//!
//! A convolution is a product over tiles: rows are output pixels, columns output channels, and a block goes through
//! the depth (taps times input channels) slice by slice. The first block of a multiprocessor takes `S = start +
//! start_slice * slices` from its start to its end; each further one adds `block + block_slice * slices`, of which the
//! share `hidden` of `S` disappears behind the first. With `B` blocks on `MP` multiprocessors the launch takes `S +
//! max(0, B / MP * (block + block_slice * slices) - hidden * S)`. The tile is the one that takes least; that is the
//! staircase over the widths. All constants are microseconds of a multiprocessor at 1.98 GHz, fitted to kernels that
//! use nothing newer than sm_80, timed on 132 and on 8 multiprocessors of an H200.

use super::architecture::{Gpu, MEASURED_GHZ};
use crate::graph::Dtype;

/// A tile of the product.
struct Tile {
    rows: usize,
    columns: usize,
    /// Depth of a slice, in chunks of 16 bytes.
    chunks: usize,
    start: f64,
    start_slice: f64,
    block: f64,
    block_slice: f64,
    hidden: f64,
}

const fn tile(shape: [usize; 3], first: [f64; 2], further: [f64; 2], hidden: f64) -> Tile {
    let ([rows, columns, chunks], [start, start_slice], [block, block_slice]) = (shape, first, further);
    Tile { rows, columns, chunks, start, start_slice, block, block_slice, hidden }
}

/// Tiles on tensor cores for windows.
const WINDOW: [Tile; 5] = [
    tile([32, 32, 8], [2.23, 0.181], [0.232, 0.0798], 0.30),
    tile([128, 16, 4], [2.20, 0.241], [0.557, 0.0808], 0.30),
    tile([128, 32, 4], [2.20, 0.263], [0.562, 0.1034], 0.35),
    tile([64, 64, 4], [2.21, 0.251], [0.673, 0.0943], 0.40),
    tile([16, 32, 8], [2.05, 0.159], [0.218, 0.0456], 0.19),
];

/// Tiles on tensor cores for 1 x 1 windows.
const POINT: [Tile; 5] = [
    tile([64, 32, 8], [1.98, 0.304], [0.128, 0.1473], 0.16),
    tile([64, 64, 8], [2.06, 0.338], [0.294, 0.1921], 0.25),
    tile([16, 32, 8], [1.96, 0.134], [0.162, 0.0451], 0.18),
    tile([64, 80, 4], [2.36, 0.295], [0.415, 0.1259], 0.26),
    tile([64, 64, 4], [2.20, 0.214], [0.331, 0.0929], 0.23),
];

/// Tiles of the f32 units, for the first layer in f32: 64 x 16, 32 x 32, 64 x 32 and 64 x 64, slices of 16 values.
const UNITS: [Tile; 4] = [
    tile([64, 16, 4], [3.63, 1.194], [0.706, 0.2124], 0.60),
    tile([32, 32, 4], [3.63, 0.785], [0.706, 0.2124], 0.60),
    tile([64, 32, 4], [3.63, 0.683], [1.412, 0.4248], 0.60),
    tile([64, 64, 4], [3.63, 1.032], [2.824, 0.8496], 0.60),
];

/// Blocks below which the kernels of the f32 units take their smallest tile.
const FEW_BLOCKS: usize = 48;

/// What the epilogue adds to the first block: packing to f16; for int8 scaling and rounding besides.
const EPILOGUE_US: [f64; 2] = [0.25, 0.70];

/// What f32 as three products of TF32 values changes: added to `start`, factors of `start_slice`, `block` and
/// `block_slice`. Fitted to 11 layers on 132 multiprocessors and to a network on 8.
const SPLIT: [f64; 4] = [2.4, 0.70, 3.0, 2.25];

/// Products of TF32 values, each at half the rate of f16, that make one of f32 values.
const F16_OF_F32: f64 = 6.0;

/// A dense convolution as a product.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Output pixels.
    pub pixels: usize,
    /// Positions of the window.
    pub taps: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
}

/// Microseconds of a product on a GPU, an empty node of the measured GPU included, by arithmetic and instructions
/// alone.
pub(super) fn micros(gpu: &Gpu, dtype: Dtype, product: Product) -> f64 {
    let [values, rate, epilogue] = match dtype {
        Dtype::F32 => [4.0, gpu.per_clock(Dtype::F16) / F16_OF_F32, SPLIT[0]],
        Dtype::F16 => [8.0, gpu.per_clock(dtype), EPILOGUE_US[0]],
        Dtype::Int8 => [16.0, gpu.per_clock(dtype), EPILOGUE_US[1]],
    };
    let of = |tile: &Tile| {
        let mut tile = Tile { start: tile.start + epilogue, ..*tile };
        if dtype == Dtype::F32 {
            let [_, start_slice, block, block_slice] = SPLIT;
            tile.start_slice *= start_slice;
            tile.block *= block;
            tile.block_slice *= block_slice;
        }
        // Every tap begins at a whole chunk.
        let chunks = product.taps * product.c_in.div_ceil(values as usize);
        of_tile(gpu, [values, rate], (product, chunks), &tile)
    };
    let candidates = if product.taps == 1 { &POINT } else { &WINDOW };
    candidates.iter().map(of).min_by(f64::total_cmp).unwrap_or(0.0)
}

/// The same on the f32 units, whose kernels choose by the output alone, and count single values.
pub(super) fn micros_on_f32_units(gpu: &Gpu, product: Product) -> f64 {
    let blocks = product.pixels.div_ceil(64) * product.c_out.div_ceil(64);
    let tile = match product.c_out {
        ..=16 => &UNITS[0],
        _ if blocks < FEW_BLOCKS => &UNITS[1],
        17..=32 => &UNITS[2],
        _ => &UNITS[3],
    };
    let chunks = (product.taps * product.c_in).div_ceil(4);
    of_tile(gpu, [4.0, gpu.per_clock(Dtype::F32)], (product, chunks), tile)
}

/// For a depth of so many chunks, of so many values each, at a rate of operations per clock.
fn of_tile(gpu: &Gpu, [values, rate]: [f64; 2], (product, chunks): (Product, usize), tile: &Tile) -> f64 {
    let Product { pixels, c_out, .. } = product;
    let slices = chunks.div_ceil(tile.chunks) as f64;
    let across = c_out.div_ceil(tile.columns);
    let blocks = (pixels.div_ceil(tile.rows) * across) as f64;
    // No slice is faster than its multiplications at the peak rate.
    let operations = (2 * tile.rows * tile.columns * tile.chunks) as f64 * values;
    let least = operations / rate / (MEASURED_GHZ * 1e3);
    // Columns that nobody asked for are multiplied, but not stored.
    let stored = c_out as f64 / (across * tile.columns) as f64;
    let first = tile.start + tile.start_slice.max(least) * slices;
    let further = tile.block * stored + tile.block_slice.max(least) * slices;
    let added = blocks / gpu.multiprocessors * further - tile.hidden * first;
    (first + added.max(0.0)) * gpu.slower()
}
