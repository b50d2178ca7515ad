//! The picture: an uneven ground, paint, and what a camera adds.

use super::shape::{Mask, Shape};
use crate::vision::Image;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// Linear RGB, 0 to 1, row after row.
pub(super) struct Canvas {
    size: usize,
    pixels: Vec<[f32; 3]>,
}

/// A colour of any hue, mostly neither black nor white.
fn colour(rng: &mut ChaCha8Rng) -> [f32; 3] {
    let (hue, saturation, value) =
        (rng.random_range(0.0..6f32), rng.random_range(0.0..1f32), rng.random_range(0.15..1f32));
    [5.0, 3.0, 1.0].map(|offset: f32| {
        let k = (offset + hue) % 6.0;
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

/// The largest difference of two colours in a channel.
fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The colour a share of the way from one to the other.
fn between(a: [f32; 3], b: [f32; 3], share: f32) -> [f32; 3] {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// Bands of a direction and a period, -1 to 1.
fn bands(rng: &mut ChaCha8Rng, shortest: f32, longest: f32) -> impl Fn(f32, f32) -> f32 + use<> {
    let (sin, cos) = rng.random_range(0.0..std::f32::consts::TAU).sin_cos();
    let step = std::f32::consts::TAU / rng.random_range(shortest..longest);
    move |x, y| ((x * cos + y * sin) * step).sin()
}

impl Canvas {
    /// Two colours that run into each other, under clouds of two sizes and sometimes bands.
    pub fn ground(rng: &mut ChaCha8Rng, size: usize) -> Self {
        let (one, other) = (colour(rng), colour(rng));
        let side = size as f32;
        let slope = bands(rng, 1.5 * side, 4.0 * side);
        let coarse = clouds(rng, size, cell(side, 4.0));
        let fine = clouds(rng, size, cell(side, 16.0));
        let (much, little) = (rng.random_range(0.0..0.3f32), rng.random_range(0.0..0.2f32));
        let striped = if rng.random_bool(0.3) { rng.random_range(0.02..0.1f32) } else { 0.0 };
        let stripes = bands(rng, 0.03 * side, 0.3 * side);
        let pixel = |i: usize| {
            let (x, y) = ((i % size) as f32, (i / size) as f32);
            let base = between(one, other, 0.5 + 0.5 * slope(x, y));
            base.map(|v| v + much * coarse[i] + little * fine[i] + striped * stripes(x, y))
        };
        Self { size, pixels: (0..size * size).map(pixel).collect() }
    }

    /// Fills a shape: plain, shaded or striped, in colours that differ from the ground.
    pub fn paint(&mut self, rng: &mut ChaCha8Rng, shape: &Shape, mask: &Mask) {
        let count = mask.pixels.len().max(1) as f32;
        let sum = mask
            .pixels
            .iter()
            .fold([0.0; 3], |sum: [f32; 3], (pixel, _, _)| std::array::from_fn(|i| sum[i] + self.pixels[*pixel][i]));
        let under = sum.map(|v| v / count);
        let mut differing = || {
            let mut chosen = colour(rng);
            for _ in 0..8 {
                if distance(chosen, under) > 0.2 {
                    break;
                }
                chosen = colour(rng);
            }
            chosen
        };
        let (one, other) = (differing(), differing());
        let shade = rng.random_range(0.0..0.6f32);
        let pattern = bands(rng, 0.3, 1.0);
        let striped = rng.random_bool(0.25);
        let (sin, cos) = rng.random_range(0.0..std::f32::consts::TAU).sin_cos();
        let opaque = if shape.radius < 0.1 * self.size as f32 { 1.0 } else { rng.random_range(0.75..=1.0) };
        for (pixel, share, [x, y]) in &mask.pixels {
            let tone = if striped {
                f32::from(u8::from(pattern(*x, *y) > 0.0))
            } else {
                shade * (0.5 + 0.5 * (x * cos + y * sin))
            };
            let fill = between(one, other, tone.clamp(0.0, 1.0));
            self.pixels[*pixel] = between(self.pixels[*pixel], fill, share * opaque);
        }
    }

    /// A thin line across everything.
    pub fn scratch(&mut self, rng: &mut ChaCha8Rng) {
        let side = self.size as f32;
        let (sin, cos) = rng.random_range(0.0..std::f32::consts::TAU).sin_cos();
        let (x0, y0) = (rng.random_range(0.0..side), rng.random_range(0.0..side));
        let half = side * rng.random_range(0.003..0.012);
        let ink = colour(rng);
        for (i, pixel) in self.pixels.iter_mut().enumerate() {
            let (x, y) = ((i % self.size) as f32 + 0.5, (i / self.size) as f32 + 0.5);
            let off = ((x - x0) * sin - (y - y0) * cos).abs();
            *pixel = between(*pixel, ink, (half + 0.5 - off).clamp(0.0, 1.0));
        }
    }

    /// Light, blur and grain, then 8 bits.
    pub fn develop(mut self, rng: &mut ChaCha8Rng) -> Image {
        let (gain, lift) = (rng.random_range(0.65..1.2f32), rng.random_range(-0.05..0.1f32));
        for _ in 0..rng.random_range(0..=3) {
            self.blur();
        }
        let grain = rng.random_range(0.0..0.08f32);
        let byte = |v: f32| (255.0 * v).round().clamp(0.0, 255.0) as u8;
        let data = self
            .pixels
            .iter()
            .flatten()
            .map(|v| byte(v.clamp(0.0, 1.0) * gain + lift + grain * rng.random_range(-1.0..1.0)))
            .collect();
        Image::new(self.size, self.size, data)
    }

    /// The mean of three neighbours with weights 1, 2, 1, along both axes.
    fn blur(&mut self) {
        let size = self.size;
        for step in [1, size] {
            let old = self.pixels.clone();
            for (i, pixel) in self.pixels.iter_mut().enumerate() {
                let place = if step == 1 { i % size } else { i / size };
                let before = old[if place > 0 { i - step } else { i }];
                let after = old[if place + 1 < size { i + step } else { i }];
                *pixel = std::array::from_fn(|c| 0.25 * before[c] + 0.5 * old[i][c] + 0.25 * after[c]);
            }
        }
    }
}

/// Side of a cell of the clouds, pixels.
fn cell(side: f32, cells: f32) -> f32 {
    (side / cells).max(1.0)
}

/// Smooth noise from -1 to 1: random values on a lattice, blended between (value noise).
fn clouds(rng: &mut ChaCha8Rng, size: usize, cell: f32) -> Vec<f32> {
    let points = (size as f32 / cell).ceil() as usize + 2;
    let lattice: Vec<f32> = (0..points * points).map(|_| rng.random_range(-1.0..1.0)).collect();
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let value = |i: usize| {
        let (x, y) = ((i % size) as f32 / cell, (i / size) as f32 / cell);
        let (column, row) = (x as usize, y as usize);
        let (u, v) = (ease(x.fract()), ease(y.fract()));
        let at = |dx: usize, dy: usize| lattice[(row + dy) * points + column + dx];
        let (above, below) = (at(0, 0) + (at(1, 0) - at(0, 0)) * u, at(0, 1) + (at(1, 1) - at(0, 1)) * u);
        above + (below - above) * v
    };
    (0..size * size).map(value).collect()
}
