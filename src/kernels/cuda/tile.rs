//! The tiles of products on tensor cores, and which of them a product takes: the one that takes the least time by a
//! formula whose constants were fitted to times of every tile on 8, 16 and 132 multiprocessors.

/// What a product writes, and from what it computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// f16 pixel after pixel, computed in f16.
    F16,
    /// f32 plane after plane, computed in f16.
    Planes,
    /// f32 pixel after pixel, computed in int8.
    F32,
    /// int8 pixel after pixel, computed in int8.
    Int8,
    /// f32 pixel after pixel, computed in f32.
    Single,
    /// f32 plane after plane, computed in f32.
    SinglePlanes,
}

impl Output {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::F16, Self::Planes, Self::F32, Self::Int8, Self::Single, Self::SinglePlanes];

    /// The forms that there are kernels for.
    pub fn forms(self) -> &'static [Form] {
        match self {
            Self::F16 | Self::Single => &[Form::Window, Form::Point, Form::Pair],
            _ => &[Form::Window, Form::Point],
        }
    }

    /// Whether it is computed in f32.
    pub fn is_single(self) -> bool {
        matches!(self, Self::Single | Self::SinglePlanes)
    }
}

/// What a product reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Windows.
    Window,
    /// 1x1.
    Point,
    /// 1x1 of two tensors.
    Pair,
}

/// A tile: `rows` output pixels by `columns` output channels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    pub rows: usize,
    pub columns: usize,
    /// Warps along rows, columns and depth.
    warps: [usize; 3],
    /// Chunks of the depth at a time.
    chunks: usize,
    stages: usize,
    /// Microseconds of an H200, of which only the proportions matter: of a block from start to end, and of every
    /// further block of a multiprocessor; each as a constant and per slice of the depth.
    alone: [f64; 2],
    further: [f64; 2],
    /// The share of the former that disappears behind further blocks.
    hidden: f64,
}

/// By position: the tiles of windows, as `tiles.h` lists them.
const WINDOW: [Tile; 5] = [
    tile([128, 32], [4, 1, 1], [4, 4], [2.20, 0.263], [0.562, 0.1034], 0.35),
    tile([128, 16], [4, 1, 1], [4, 4], [2.20, 0.241], [0.557, 0.0808], 0.30),
    tile([64, 64], [2, 2, 1], [4, 4], [2.21, 0.251], [0.673, 0.0943], 0.40),
    tile([32, 32], [2, 1, 2], [8, 4], [2.23, 0.181], [0.232, 0.0798], 0.30),
    tile([16, 32], [1, 1, 4], [8, 4], [2.05, 0.159], [0.218, 0.0456], 0.19),
];

/// The tiles of 1x1.
const POINT: [Tile; 5] = [
    tile([64, 80], [4, 1, 1], [4, 4], [2.36, 0.295], [0.415, 0.1259], 0.26),
    tile([64, 64], [2, 2, 1], [8, 3], [2.06, 0.338], [0.294, 0.1921], 0.25),
    tile([64, 64], [2, 2, 1], [4, 4], [2.20, 0.214], [0.331, 0.0929], 0.23),
    tile([64, 32], [4, 1, 1], [8, 4], [1.98, 0.304], [0.128, 0.1473], 0.16),
    tile([16, 32], [1, 1, 4], [8, 4], [1.96, 0.134], [0.162, 0.0451], 0.18),
];

const fn tile(
    [rows, columns]: [usize; 2],
    warps: [usize; 3],
    [chunks, stages]: [usize; 2],
    alone: [f64; 2],
    further: [f64; 2],
    hidden: f64,
) -> Tile {
    Tile { rows, columns, warps, chunks, stages, alone, further, hidden }
}

/// What three products of TF32 values in place of one change, as `latency::gpu` has it: added to the constant of `alone`,
/// then factors of its slices, and of both of `further`.
const SPLIT: [f64; 4] = [2.4, 0.70, 3.0, 2.25];

/// The tiles for a window, or for 1x1.
pub(super) fn tiles(form: Form) -> &'static [Tile; 5] {
    if form == Form::Window { &WINDOW } else { &POINT }
}

impl Tile {
    /// The kernel's name in `product.h`.
    pub fn kernel(&self, output: Output, form: Form) -> String {
        let prefix = match output {
            Output::F16 => "f16",
            Output::Planes => "f16_planes",
            Output::F32 => "int8",
            Output::Int8 => "int8_int8",
            Output::Single => "f32",
            Output::SinglePlanes => "f32_planes",
        };
        let form = match form {
            Form::Window => "window",
            Form::Point => "point",
            Form::Pair => "pair",
        };
        let Self { rows, columns, warps: [wm, wn, wk], chunks, .. } = self;
        format!("{prefix}_{form}_{rows}x{columns}_{wm}{wn}{wk}_c{chunks}")
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        32 * self.warps.iter().product::<usize>() as u32
    }

    /// Bytes of shared memory for a depth of so many chunks: no more stages than there are slices, and what the warps
    /// that share a tile exchange.
    pub fn shared(&self, k_chunks: usize) -> u32 {
        let [wm, wn, wk] = self.warps;
        let stages = self.stages.min(k_chunks.div_ceil(self.chunks)) * (self.rows + self.columns) * self.chunks * 16;
        let (tall, wide) = (self.rows / wm / 16, self.columns / wn / 8);
        let exchange = if wk > 1 { wk * wm * wn * tall * wide.div_ceil(4) * 2 * 1024 } else { 0 };
        stages.max(exchange) as u32
    }

    /// Relative time of a product of so many pixels and columns, in f32 or in a dtype of which a slice takes one product.
    fn time(&self, is_single: bool, [pixels, columns, k_chunks]: [usize; 3], multiprocessors: u32) -> f64 {
        let [start, start_slice, block, block_slice] = if is_single { SPLIT } else { [0.0, 1.0, 1.0, 1.0] };
        let blocks = (pixels.div_ceil(self.rows) * columns.div_ceil(self.columns)) as f64;
        let slices = k_chunks.div_ceil(self.chunks) as f64;
        let alone = self.alone[0] + start + self.alone[1] * start_slice * slices;
        let further = self.further[0] * block + self.further[1] * block_slice * slices;
        let further = blocks / f64::from(multiprocessors.max(1)) * further;
        alone + (further - self.hidden * alone).max(0.0)
    }
}

/// The position of the tile with the least time for `[pixels, columns, chunks of the depth]`.
pub(super) fn choose(output: Output, form: Form, size: [usize; 3], multiprocessors: u32) -> usize {
    let all = tiles(form);
    // Tiles more than twice as wide as the columns are never the best.
    let fits = |tile: &Tile| tile.columns <= 32 || tile.columns < 2 * size[1].next_multiple_of(16);
    let time = |at: &usize| all[*at].time(output.is_single(), size, multiprocessors);
    let candidates = (0..all.len()).filter(|at| fits(&all[*at]));
    candidates.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(all.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pixels_take_small_tiles_and_many_take_large_ones() {
        // 3x3 of 64 to 64 channels: 72 chunks.
        assert!(WINDOW[choose(Output::F16, Form::Window, [20 * 20, 64, 72], 8)].rows <= 32);
        assert!(WINDOW[choose(Output::F16, Form::Window, [160 * 160, 64, 72], 8)].rows >= 64);
        // On many multiprocessors the same layer takes smaller tiles.
        assert!(
            WINDOW[choose(Output::F16, Form::Window, [40 * 40, 64, 72], 132)].rows
                <= WINDOW[choose(Output::F16, Form::Window, [40 * 40, 64, 72], 8)].rows
        );
    }

    #[test]
    fn shared_memory_is_what_every_launch_may_take() {
        let all = WINDOW.iter().chain(&POINT);
        assert!(all.clone().all(|tile| tile.shared(1000) <= 48 << 10 && tile.threads() == 128));
        assert!(all.clone().all(|tile| tile.shared(1) <= tile.shared(1000)));
    }
}
