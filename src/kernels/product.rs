//! What a tile of a matrix product computes: its operands, its epilogue, and how channels and rows are divided into
//! tiles.
//!
//! Only data and sizes: [`tile`](super::tile) does the arithmetic.

use crate::graph::Activation;

/// The most rows of a tile on any instruction set.
pub(super) const MAX_ROWS: usize = 12;

/// The most registers of output channels of a tile.
pub(super) const MAX_VECTORS: usize = 3;

/// One product: what is summed, what happens to the sums, and where they go.
pub(super) struct Product {
    /// Row after row of `vectors * LANES` values, `taps * len` rows.
    pub weights: *const f32,
    pub prefetch: Prefetch,
    pub sources: Sources,
    pub epilogue: Epilogue,
    pub output: Output,
    /// Channels to write, more than `(vectors - 1) * LANES`.
    pub channels: usize,
}

/// What is read soon, and how far each step of the sum fetches it ahead.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    pub from: *const f32,
    pub step: usize,
}

/// Where the rows of a product read.
#[derive(Clone, Copy)]
pub(super) struct Sources {
    /// Row `i` of tap `t` reads `len` values from `table[t * stride + i]` on.
    pub table: *const *const f32,
    pub stride: usize,
    pub taps: usize,
    pub len: usize,
}

/// What happens to sums on their way out: `act(bias + sum) + residual`, with int8 and f16
/// `act(scale * (bias + sum) + shift) + residual`.
#[derive(Clone, Copy)]
pub(super) struct Epilogue {
    /// What the sums start with, a value per channel; zeros without.
    pub bias: Option<*const f32>,
    /// Only and always for products of packed lanes.
    pub requantize: Option<Requantize>,
    pub act: Activation,
    /// Added to the activated sums.
    pub residual: Option<Residual>,
}

/// Makes f32 of the sums of packed lanes: factor and summand, a value per channel each.
#[derive(Clone, Copy)]
pub(super) struct Requantize {
    pub scale: *const f32,
    pub shift: *const f32,
}

/// A tensor of the output's shape whose pixels lie `pitch` values apart.
#[derive(Clone, Copy)]
pub(super) struct Residual {
    pub from: *const f32,
    pub pitch: usize,
}

impl Epilogue {
    /// Leaves the sums as they are.
    pub const NONE: Self = Self { bias: None, requantize: None, act: Activation::Identity, residual: None };

    /// The epilogue of a tile whose first output is the given pixel and channel.
    ///
    /// # Safety
    /// Both must lie in the output.
    #[inline(always)]
    pub unsafe fn at(&self, pixel: usize, channel: usize) -> Self {
        // SAFETY: biases and scales have a value for every channel, the residual has the shape of the output.
        unsafe {
            Self {
                bias: self.bias.map(|bias| bias.add(channel)),
                requantize: self
                    .requantize
                    .map(|r| Requantize { scale: r.scale.add(channel), shift: r.shift.add(channel) }),
                act: self.act,
                residual: self.residual.map(|r| Residual { from: r.from.add(pixel * r.pitch + channel), ..r }),
            }
        }
    }
}

/// Where outputs are written.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub to: *mut f32,
    pub layout: Layout,
}

/// How pixels and channels of an output lie.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// Channel `c` of pixel `p` at `p * pitch + c`.
    Pixels { pitch: usize },
    /// Channel `c` of pixel `p` at `c * area + p`.
    Planes { area: usize },
}

impl Output {
    /// The output of a tile whose first value is the given pixel and channel.
    ///
    /// # Safety
    /// Both must lie in the output.
    #[inline(always)]
    pub unsafe fn at(&self, pixel: usize, channel: usize) -> Self {
        let offset = match self.layout {
            Layout::Pixels { pitch } => pixel * pitch + channel,
            Layout::Planes { area } => channel * area + pixel,
        };
        // SAFETY: the caller keeps the contract.
        unsafe { Self { to: self.to.add(offset), ..*self } }
    }
}

/// Divides `c_out` output channels into panels as wide as registers: pairs, and one of three where their number is odd.
/// A single register is left only where there is no other.
pub(super) fn panels(c_out: usize, lanes: usize) -> impl Iterator<Item = Panel> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = c_out.saturating_sub(start).div_ceil(lanes);
        let vectors = if left == MAX_VECTORS { MAX_VECTORS } else { left.min(2) };
        let panel = Panel { start, vectors, channels: (c_out - start).min(vectors * lanes) };
        start = (start + vectors * lanes).min(c_out);
        (vectors > 0).then_some(panel)
    })
}

/// Output channels that a tile computes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panel {
    /// First channel, a multiple of the lanes.
    pub start: usize,
    pub vectors: usize,
    pub channels: usize,
}

/// Rows of the tiles that `total` rows are divided into, at most `most`, as equal as can be.
pub(super) fn even_rows(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_all_channels_once() {
        for lanes in [8, 16] {
            for c_out in 1..200 {
                let all: Vec<Panel> = panels(c_out, lanes).collect();
                let mut next = 0;
                for p in &all {
                    assert_eq!(p.start, next);
                    assert!((1..=MAX_VECTORS).contains(&p.vectors) && p.channels > (p.vectors - 1) * lanes);
                    next += p.channels;
                }
                assert_eq!(next, c_out);
                assert!(all.len() == 1 || all.iter().all(|p| p.vectors > 1), "{all:?}");
            }
        }
    }

    #[test]
    fn tiles_are_as_equal_as_can_be() {
        assert_eq!([13, 12, 1, 25, 100].map(|n| even_rows(n, 12)), [7, 12, 1, 9, 12]);
    }
}
