//! The geometry of a convolution: sizes, and where the taps of its window fall inside the image.

use crate::graph::Conv;
use std::ops::Range;

/// The geometry of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros on every side.
    pub padding: usize,
    /// Whether every channel is convolved by itself.
    pub depthwise: bool,
}

impl Geometry {
    /// The geometry of a layer.
    pub fn of(conv: &Conv) -> Self {
        let Conv { c_in, c_out, kernel, stride, padding, groups, .. } = *conv;
        Self { c_in, c_out, kernel, stride, padding, depthwise: groups > 1 }
    }

    /// Outputs along a side of `n` inputs.
    pub fn side(&self, n: usize) -> usize {
        (n + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Output positions of an `h` x `w` image.
    pub fn area(&self, h: usize, w: usize) -> usize {
        self.side(h) * self.side(w)
    }

    /// Rows of the patch matrix.
    pub(super) fn rows(&self) -> usize {
        self.c_in * self.kernel * self.kernel
    }

    /// Whether the image is its own patch matrix.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    /// Whether the window covers the image, so that a convolution is a matrix product of flat images.
    pub(super) fn covers_image(&self, (h, w): (usize, usize)) -> bool {
        !self.depthwise && self.padding == 0 && (h, w) == (self.kernel, self.kernel)
    }

    /// Images that go through one matrix product.
    pub(super) fn images_per_product(&self, h: usize, w: usize) -> usize {
        (COLUMNS / self.area(h, w)).max(1)
    }

    /// For an offset inside the window: the outputs `from..to` whose input is inside `0..n`.
    pub(super) fn valid(&self, offset: usize, n: usize) -> (usize, usize) {
        // A window larger than the image may see nothing of it with some of its taps.
        let from = self.padding.saturating_sub(offset).div_ceil(self.stride).min(self.side(n));
        let to = (n + self.padding).saturating_sub(offset).div_ceil(self.stride).min(self.side(n));
        (from, to.max(from))
    }

    /// Output lines whose patch matrix stays in the cache while it is used.
    pub(super) fn bands(&self, (h, w): (usize, usize)) -> impl Iterator<Item = Range<usize>> + use<> {
        let (all, lines) = (self.side(h), (BAND / (self.rows() * self.side(w)).max(1)).max(1));
        (0..all).step_by(lines).map(move |from| from..(from + lines).min(all))
    }

    /// Calls `visit(row of the patch matrix, first output, first input, count)` for every run of outputs in some lines
    /// whose inputs are inside the image; outputs count from the first line, input positions advance by the stride.
    #[inline(always)]
    pub(super) fn runs(
        &self,
        (h, w): (usize, usize),
        lines: &Range<usize>,
        channel: usize,
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) {
        let ow = self.side(w);
        for ky in 0..self.kernel {
            let (y0, y1) = self.valid(ky, h);
            for kx in 0..self.kernel {
                let (x0, x1) = self.valid(kx, w);
                if x0 == x1 {
                    continue;
                }
                let row = (channel * self.kernel + ky) * self.kernel + kx;
                for oy in y0.max(lines.start)..y1.min(lines.end) {
                    let input = (oy * self.stride + ky - self.padding) * w + x0 * self.stride + kx - self.padding;
                    visit(row, (oy - lines.start) * ow + x0, input, x1 - x0);
                }
            }
        }
    }
}

/// Positions that a matrix product should at least have: images with fewer are taken together.
const COLUMNS: usize = 256;

/// Values of the patch matrix of a band of lines, about.
const BAND: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_of_every_tap_are_those_whose_input_is_inside() {
        for (kernel, stride, n) in (1..6).flat_map(|k| (1..4).flat_map(move |s| (1..6).map(move |n| (k, s, n)))) {
            for padding in (0..=kernel / 2).filter(|padding| n + 2 * padding >= kernel) {
                let g = Geometry { c_in: 1, c_out: 1, kernel, stride, padding, depthwise: false };
                for offset in 0..kernel {
                    let inside = |out: &usize| (padding..n + padding).contains(&(out * stride + offset));
                    let wanted: Vec<usize> = (0..g.side(n)).filter(inside).collect();
                    let (from, to) = g.valid(offset, n);
                    assert!(from <= to && to <= g.side(n), "{g:?}, {n}, tap {offset}: {from}..{to}");
                    assert_eq!((from..to).collect::<Vec<_>>(), wanted, "{g:?}, {n}, tap {offset}");
                }
            }
        }
    }
}
