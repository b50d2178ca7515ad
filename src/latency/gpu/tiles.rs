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

/// Tiles of the f32 units: 64 x 16, 32 x 32, 64 x 32 and 64 x 64, slices of 16 values.
const F32: [Tile; 4] = [
    tile([64, 16, 4], [3.63, 1.194], [0.706, 0.2124], 0.60),
    tile([32, 32, 4], [3.63, 0.785], [0.706, 0.2124], 0.60),
    tile([64, 32, 4], [3.63, 0.683], [1.412, 0.4248], 0.60),
    tile([64, 64, 4], [3.63, 1.032], [2.824, 0.8496], 0.60),
];

/// Blocks below which the f32 kernels take their smallest tile.
const FEW_BLOCKS: usize = 48;

/// What the epilogue adds to the first block: packing to f16; for int8 scaling and rounding besides.
const EPILOGUE_US: [f64; 2] = [0.25, 0.70];

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
    let candidates = match (dtype, product.taps) {
        (Dtype::F32, _) => std::slice::from_ref(f32_tile(product)),
        (_, 1) => &POINT,
        _ => &WINDOW,
    };
    let all = candidates.iter().map(|tile| of_tile(gpu, dtype, product, tile));
    all.min_by(f64::total_cmp).unwrap_or(0.0)
}

/// The choice of the f32 kernels, which looks at the output alone.
fn f32_tile(product: Product) -> &'static Tile {
    let blocks = product.pixels.div_ceil(64) * product.c_out.div_ceil(64);
    match product.c_out {
        ..=16 => &F32[0],
        _ if blocks < FEW_BLOCKS => &F32[1],
        17..=32 => &F32[2],
        _ => &F32[3],
    }
}

fn of_tile(gpu: &Gpu, dtype: Dtype, product: Product, tile: &Tile) -> f64 {
    let Product { pixels, taps, c_in, c_out } = product;
    let (values, epilogue) = match dtype {
        Dtype::F32 => (4, 0.0),
        Dtype::F16 => (8, EPILOGUE_US[0]),
        Dtype::Int8 => (16, EPILOGUE_US[1]),
    };
    // On tensor cores every tap begins at a whole chunk; the f32 kernels count single values.
    let chunks = if dtype == Dtype::F32 { (taps * c_in).div_ceil(values) } else { taps * c_in.div_ceil(values) };
    let slices = chunks.div_ceil(tile.chunks) as f64;
    let across = c_out.div_ceil(tile.columns);
    let blocks = (pixels.div_ceil(tile.rows) * across) as f64;
    // No slice is faster than its multiplications at the peak rate.
    let operations = (2 * tile.rows * tile.columns * tile.chunks * values) as f64;
    let least = operations / gpu.per_clock(dtype) / (MEASURED_GHZ * 1e3);
    // Columns that nobody asked for are multiplied, but not stored.
    let stored = c_out as f64 / (across * tile.columns) as f64;
    let first = tile.start + epilogue + tile.start_slice.max(least) * slices;
    let further = tile.block * stored + tile.block_slice.max(least) * slices;
    let added = blocks / gpu.multiprocessors * further - tile.hidden * first;
    (first + added.max(0.0)) * gpu.slower()
}
