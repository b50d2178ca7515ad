//! Max-pooling, nearest-neighbour upsampling and runs of channels.

use rayon::prelude::*;

/// A pooling window; padding never wins.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Side of the window.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Positions added on every side.
    pub padding: usize,
}

impl Pool {
    /// Outputs along a side of `n` inputs.
    pub fn side(&self, n: usize) -> usize {
        (n + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// For every output of a plane, the position of its first largest value.
    fn winners(&self, x: &[f32], (h, w): (usize, usize)) -> Vec<usize> {
        if self.kernel <= 3 && self.padding < self.kernel {
            return self.winners_of_small(x, (h, w));
        }
        let range = |o: usize, n: usize| {
            let from = (o * self.stride).saturating_sub(self.padding);
            from..(o * self.stride + self.kernel).saturating_sub(self.padding).min(n)
        };
        let larger = |best: usize, at: usize| if x[at] > x[best] { at } else { best };
        // The best of every row's run, then the best of those.
        let (oh, ow) = (self.side(h), self.side(w));
        let mut runs = Vec::with_capacity(h * ow);
        for y in 0..h {
            runs.extend((0..ow).map(|o| range(o, w).map(|x| y * w + x).reduce(larger)));
        }
        let mut winners = Vec::with_capacity(oh * ow);
        for oy in 0..oh {
            for ox in 0..ow {
                let best = range(oy, h).filter_map(|y| runs[y * ow + ox]).reduce(larger);
                winners.push(best.unwrap_or(0));
            }
        }
        winners
    }

    /// As [`Pool::winners`], value by value: windows of up to 3 share too little to keep it. Every window has a value
    /// inside the plane.
    fn winners_of_small(&self, x: &[f32], (h, w): (usize, usize)) -> Vec<usize> {
        let range = |o: usize, n: usize| {
            let from = (o * self.stride).saturating_sub(self.padding);
            (from.min(n - 1), (o * self.stride + self.kernel - self.padding).min(n))
        };
        let columns: Vec<(usize, usize)> = (0..self.side(w)).map(|o| range(o, w)).collect();
        let mut winners = Vec::with_capacity(self.side(h) * columns.len());
        for oy in 0..self.side(h) {
            let (y0, y1) = range(oy, h);
            for &(x0, x1) in &columns {
                let (mut best, mut most) = (y0 * w + x0, x[y0 * w + x0]);
                for row in (y0..y1).map(|y| y * w) {
                    for (at, value) in (row + x0..).zip(&x[row + x0..row + x1]) {
                        if *value > most {
                            (best, most) = (at, *value);
                        }
                    }
                }
                winners.push(best);
            }
        }
        winners
    }

    /// The largest values for planes `[planes, h, w]`.
    pub fn forward(&self, x: &[f32], (h, w): (usize, usize)) -> Vec<f32> {
        let area = self.side(h) * self.side(w);
        let mut y = vec![0.0; x.len() / (h * w) * area];
        y.par_chunks_exact_mut(area).zip(x.par_chunks_exact(h * w)).for_each(|(y, x)| {
            y.iter_mut().zip(self.winners(x, (h, w))).for_each(|(y, at)| *y = x[at]);
        });
        y
    }

    /// The gradient of the input: each output's goes to its winner.
    pub fn backward(&self, x: &[f32], dy: &[f32], (h, w): (usize, usize)) -> Vec<f32> {
        let area = self.side(h) * self.side(w);
        let mut dx = vec![0.0; x.len()];
        let planes = dx.par_chunks_exact_mut(h * w).zip(x.par_chunks_exact(h * w));
        planes.zip(dy.par_chunks_exact(area)).for_each(|((dx, x), dy)| {
            self.winners(x, (h, w)).into_iter().zip(dy).for_each(|(at, d)| dx[at] += d);
        });
        dx
    }
}

/// Repeats every value of rows of `width` `factor` times in both directions.
pub fn upsample(x: &[f32], width: usize, factor: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len() * factor * factor];
    y.par_chunks_exact_mut(width * factor).enumerate().for_each(|(row, y)| {
        let x = &x[row / factor * width..][..width];
        y.chunks_exact_mut(factor).zip(x).for_each(|(y, x)| y.fill(*x));
    });
    y
}

/// The gradient of [`upsample`]: sums over the copies.
pub fn upsample_backward(dy: &[f32], width: usize, factor: usize) -> Vec<f32> {
    let mut dx = vec![0.0; dy.len() / (factor * factor)];
    dx.par_chunks_exact_mut(width).zip(dy.par_chunks_exact(width * factor * factor)).for_each(|(dx, dy)| {
        for row in dy.chunks_exact(width * factor) {
            dx.iter_mut().zip(row.chunks_exact(factor)).for_each(|(dx, dy)| *dx += dy.iter().sum::<f32>());
        }
    });
    dx
}

/// Takes from every image of `per_image` values the `len` values from `start` on.
pub fn slice(x: &[f32], per_image: usize, start: usize, len: usize) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len() / per_image * len);
    x.chunks_exact(per_image).for_each(|image| y.extend_from_slice(&image[start..start + len]));
    y
}

/// The gradient of [`slice`]: zeros around.
pub fn slice_backward(dy: &[f32], per_image: usize, start: usize, len: usize) -> Vec<f32> {
    let mut dx = vec![0.0; dy.len() / len * per_image];
    for (dx, dy) in dx.chunks_exact_mut(per_image).zip(dy.chunks_exact(len)) {
        dx[start..start + len].copy_from_slice(dy);
    }
    dx
}
