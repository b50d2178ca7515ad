//! The square that a classifier sees: the image with its short side scaled to the square's, and of the long one the middle.
//!
//! Scaling is the bilinear filter of Pillow, with which those tools scale that classifiers are trained with (torchvision,
//! timm, ultralytics): a triangle that reaches over a source pixel to each side, or over an output pixel where the image
//! shrinks, so that no pixel is left out. Weights have 22 bits, and between the passes values have 8, as there.

use super::Image;

/// Bits of a weight.
const BITS: u32 = 22;

/// Buffers that scaling uses again from image to image.
#[derive(Clone, Debug, Default)]
pub struct SquareBuffers {
    columns: Taps,
    rows: Taps,
    /// Rows of the image that are scaled across, one after the other.
    scaled: Vec<u8>,
}

/// Where output pixels along one axis take their source pixels, and the weights of these.
#[derive(Clone, Debug, Default)]
struct Taps {
    /// First source pixel of every output pixel, and how many there are.
    spans: Vec<[usize; 2]>,
    /// Weights, [`Taps::most`] for every output pixel.
    weights: Vec<i32>,
    /// The most source pixels of an output pixel.
    most: usize,
}

impl Taps {
    /// Becomes those of `count` output pixels from `first` on, where `from` pixels become `to`.
    fn set(&mut self, [from, to]: [usize; 2], [first, count]: [usize; 2]) {
        let scale = from as f64 / to as f64;
        let reach = scale.max(1.0);
        let steepness = 1.0 / reach;
        self.most = 2 * reach.ceil() as usize + 1;
        self.spans.clear();
        self.weights.clear();
        self.weights.resize(count * self.most, 0);
        for (at, weights) in (first..first + count).zip(self.weights.chunks_exact_mut(self.most)) {
            let centre = (at as f64 + 0.5) * scale;
            let low = (centre - reach + 0.5).max(0.0) as usize;
            let high = ((centre + reach + 0.5) as usize).min(from);
            let triangle = |source: usize| (1.0 - ((source as f64 - centre + 0.5) * steepness).abs()).max(0.0);
            let sum: f64 = (low..high).map(triangle).sum();
            for (weight, source) in weights.iter_mut().zip(low..high) {
                *weight = (triangle(source) / sum * f64::from(1 << BITS) + 0.5) as i32;
            }
            self.spans.push([low, high.saturating_sub(low).min(self.most)]);
        }
    }

    /// First source pixel and weights of every output pixel.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.weights.chunks_exact(self.most.max(1));
        self.spans.iter().zip(weights).map(|([first, count], weights)| (*first, &weights[..*count]))
    }
}

/// The weighted sum of every `step`-th value, rounded to 8 bits.
fn blend(values: &[u8], step: usize, weights: &[i32]) -> u8 {
    let sum = values.iter().step_by(step).zip(weights).fold(1 << (BITS - 1), |sum, (v, w)| sum + i32::from(*v) * w);
    (sum >> BITS).clamp(0, 255) as u8
}

/// Half of what is left over, rounded to even where it has a half.
fn middle(left_over: usize) -> usize {
    let half = left_over / 2;
    if left_over % 4 == 3 { half + 1 } else { half }
}

impl Image {
    /// The square of `side` pixels that a classifier sees.
    pub fn centre_square(&self, side: usize) -> Self {
        let mut square = Self::default();
        self.centre_square_to(side, &mut square, &mut SquareBuffers::default());
        square
    }

    /// As [`Image::centre_square`], over another image; allocates only where that and the buffers have served no image as
    /// large before.
    pub(super) fn centre_square_to(&self, side: usize, square: &mut Self, buffers: &mut SquareBuffers) {
        let SquareBuffers { columns, rows, scaled } = buffers;
        let (w, h) = (self.width(), self.height());
        let short = w.min(h);
        let pixels = square.resize(side, side);
        if side == 0 || short == 0 {
            return pixels.fill(0);
        }
        let long = |length: usize| side * length / short;
        columns.set([w, long(w)], [middle(long(w) - side), side]);
        rows.set([h, long(h)], [middle(long(h) - side), side]);
        let top = rows.iter().map(|(first, _)| first).min().unwrap_or(0);
        let bottom = rows.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(0);
        scaled.clear();
        scaled.resize(3 * side * (bottom - top), 0);
        for (row, source) in scaled.chunks_exact_mut(3 * side).zip(self.data().chunks_exact(3 * w).skip(top)) {
            for (pixel, (first, weights)) in row.chunks_exact_mut(3).zip(columns.iter()) {
                for (c, value) in pixel.iter_mut().enumerate() {
                    *value = blend(&source[3 * first + c..], 3, weights);
                }
            }
        }
        for (row, (first, weights)) in pixels.chunks_exact_mut(3 * side).zip(rows.iter()) {
            for (x, value) in row.iter_mut().enumerate() {
                *value = blend(&scaled[3 * side * (first - top) + x..], 3 * side, weights);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture without any pattern.
    fn noise(width: usize, height: usize) -> Image {
        let value = |i: usize| ((i * 7919 + i / 13 * 104_729) % 251) as u8;
        Image::new(width, height, (0..3 * width * height).map(value).collect())
    }

    #[test]
    fn a_square_of_its_own_size_stays_as_it_is() {
        assert_eq!(noise(9, 9).centre_square(9), noise(9, 9));
        let wide = noise(12, 4).centre_square(4);
        let row = |y: usize| noise(12, 4).data()[3 * (12 * y + 4)..3 * (12 * y + 8)].to_vec();
        assert_eq!(wide.data(), (0..4).flat_map(row).collect::<Vec<_>>());
        assert!(noise(5, 3).centre_square(0).data().is_empty());
    }

    #[test]
    fn halves_are_rounded_to_even_as_python_does() {
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(middle), [0, 0, 1, 2, 2, 2, 3, 4]);
    }

    #[test]
    fn every_pixel_counts_where_the_image_shrinks() {
        // One bright column of sixteen: a filter of two pixels would miss it.
        let mut image = Image::new(16, 16, vec![0; 3 * 256]);
        image.data_mut().chunks_exact_mut(48).for_each(|row| row[3 * 5..3 * 6].fill(240));
        let small = image.centre_square(2);
        assert!(small.data()[0] > 25 && small.data()[3] < small.data()[0], "{:?}", small.data());
        let mean = |image: &Image| image.data().iter().map(|v| f64::from(*v)).sum::<f64>() / image.data().len() as f64;
        assert!((mean(&noise(60, 60).centre_square(7)) - mean(&noise(60, 60))).abs() < 3.0);
    }
}
