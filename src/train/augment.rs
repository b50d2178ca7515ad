//! Augmentation: training images placed on a square canvas with random size, position, mirror and colour, or four of
//! them in a mosaic (Bochkovskiy et al., "YOLOv4", 2020). Without augmentation the result is the letterbox of
//! inference.

use super::loss::Target;
use crate::data::Label;
use crate::vision::{Image, NormalisedXywh};
use rand::RngExt;
use rand::rngs::StdRng;

/// Grey of empty canvas in inference.
const PAD: f32 = 114.0 / 255.0;
/// A box that keeps less than this share of its area on the canvas is dropped.
const MIN_VISIBLE: f64 = 0.2;
/// A box with a side below this many pixels is dropped.
const MIN_SIDE: f64 = 2.0;

/// How strongly images are varied; all zero leaves them as inference sees them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augment {
    /// Probability of a horizontal mirror.
    pub mirror: f64,
    /// Probability of a vertical mirror.
    pub upside_down: f64,
    /// Size varies by up to this share, up and down.
    pub scale: f64,
    /// Position varies by up to this share of the canvas.
    pub translate: f64,
    /// Colour saturation varies by up to this share.
    pub saturation: f64,
    /// Brightness varies by up to this share.
    pub brightness: f64,
    /// Grey of empty canvas, 0 to 1.
    pub pad: f32,
}

impl Default for Augment {
    fn default() -> Self {
        Self { mirror: 0.5, upside_down: 0.0, scale: 0.25, translate: 0.1, saturation: 0.4, brightness: 0.25, pad: PAD }
    }
}

impl Augment {
    /// No variation.
    pub const NONE: Self =
        Self { mirror: 0.0, upside_down: 0.0, scale: 0.0, translate: 0.0, saturation: 0.0, brightness: 0.0, pad: PAD };

    /// For written signs, light on black: size and place only.
    pub const SIGNS: Self = Self { scale: 0.1, translate: 0.06, pad: 0.0, ..Self::NONE };
}

/// Puts one image on a canvas `[3, side, side]` (RGB, 0..1); gives its labels as targets of image `index`.
pub fn single(
    (image, labels): (&Image, &[Label]),
    augment: &Augment,
    rng: &mut StdRng,
    side: usize,
    index: usize,
    canvas: &mut [f32],
) -> Vec<Target> {
    canvas.fill(augment.pad);
    let (w, h) = (image.width() as f64, image.height() as f64);
    let fit = (side as f64 / w).min(side as f64 / h);
    let zoom = fit * around(rng, augment.scale);
    let shift = [0, 1].map(|_| side as f64 * augment.translate * symmetric(rng));
    // At no variation the content has whole pixels, as the letterbox has.
    let [cw, ch] = if zoom == fit { [(w * fit).round(), (h * fit).round()] } else { [w * zoom, h * zoom] };
    let offset = [(side as f64 - cw) / 2.0, (side as f64 - ch) / 2.0];
    let offset = if shift == [0.0; 2] {
        offset.map(|o| (o - 0.1).round())
    } else {
        [offset[0] + shift[0], offset[1] + shift[1]]
    };
    let place = Place { scale: [cw / w, ch / h], offset, window: [0, 0, side, side] };
    let look = Look::draw(augment, rng);
    place.draw(image, &look, side, canvas);
    place.targets(image, labels, &look, side, index)
}

/// Puts four images around a random point of the canvas; otherwise as [`single`].
pub fn mosaic(
    parts: [(&Image, &[Label]); 4],
    augment: &Augment,
    rng: &mut StdRng,
    side: usize,
    index: usize,
    canvas: &mut [f32],
) -> Vec<Target> {
    canvas.fill(augment.pad);
    let [x, y] = [0, 1].map(|_| (side as f64 * rng.random_range(0.3..0.7)).round());
    let (px, py) = (x as usize, y as usize);
    let mut targets = Vec::new();
    for (quadrant, (image, labels)) in parts.into_iter().enumerate() {
        let (right, below) = (quadrant % 2 == 1, quadrant / 2 == 1);
        let (w, h) = (image.width() as f64, image.height() as f64);
        let zoom = (side as f64 / w).min(side as f64 / h) * 0.75 * around(rng, augment.scale.max(0.25));
        let offset = [if right { x } else { x - w * zoom }, if below { y } else { y - h * zoom }];
        let window = [
            if right { px } else { 0 },
            if below { py } else { 0 },
            if right { side } else { px },
            if below { side } else { py },
        ];
        let place = Place { scale: [zoom; 2], offset, window };
        let look = Look::draw(augment, rng);
        place.draw(image, &look, side, canvas);
        targets.extend(place.targets(image, labels, &look, side, index));
    }
    targets
}

/// A factor within `1 / (1 + share)` and `1 + share`, even in its logarithm.
fn around(rng: &mut StdRng, share: f64) -> f64 {
    (symmetric(rng) * share.ln_1p()).exp()
}

/// -1 to 1.
fn symmetric(rng: &mut StdRng) -> f64 {
    rng.random_range(-1.0..=1.0)
}

/// Mirrors and colour of one image.
struct Look {
    mirror: [bool; 2],
    saturation: f32,
    brightness: f32,
}

impl Look {
    fn draw(augment: &Augment, rng: &mut StdRng) -> Self {
        Self {
            mirror: [augment.mirror, augment.upside_down].map(|p| rng.random_range(0.0..1.0) < p),
            saturation: around(rng, augment.saturation) as f32,
            brightness: around(rng, augment.brightness) as f32,
        }
    }

    fn colour(&self, [r, g, b]: [f32; 3]) -> [f32; 3] {
        let grey = 0.299 * r + 0.587 * g + 0.114 * b;
        [r, g, b].map(|v| ((grey + (v - grey) * self.saturation) * self.brightness).clamp(0.0, 1.0))
    }
}

/// Where an image goes: canvas = scale * image + offset, within a window (left, top, right, bottom).
struct Place {
    scale: [f64; 2],
    offset: [f64; 2],
    window: [usize; 4],
}

impl Place {
    /// Bilinear sampling at pixel centres.
    fn draw(&self, image: &Image, look: &Look, side: usize, canvas: &mut [f32]) {
        let (w, h) = (image.width(), image.height());
        let pixels = image.data();
        // For every column (row) of the window: first source pixel, second, and the second's share.
        let taps = |axis: usize, len: usize, window: (usize, usize)| -> Vec<(usize, [usize; 2], f32)> {
            let mut taps = Vec::with_capacity(window.1.saturating_sub(window.0));
            for at in window.0..window.1 {
                let source = (at as f64 + 0.5 - self.offset[axis]) / self.scale[axis];
                if source < 0.0 || source >= len as f64 {
                    continue;
                }
                let source = if look.mirror[axis] { len as f64 - source } else { source };
                let source = (source - 0.5).clamp(0.0, (len - 1) as f64);
                let low = source as usize;
                taps.push((at, [low, (low + 1).min(len - 1)], (source - low as f64) as f32));
            }
            taps
        };
        let columns = taps(0, w, (self.window[0], self.window[2]));
        for (y, rows, fy) in taps(1, h, (self.window[1], self.window[3])) {
            for (x, cols, fx) in &columns {
                let pixel = |row: usize, col: usize, c: usize| f32::from(pixels[(row * w + col) * 3 + c]);
                let rgb = std::array::from_fn(|c| {
                    let top = pixel(rows[0], cols[0], c) * (1.0 - fx) + pixel(rows[0], cols[1], c) * fx;
                    let bottom = pixel(rows[1], cols[0], c) * (1.0 - fx) + pixel(rows[1], cols[1], c) * fx;
                    (top * (1.0 - fy) + bottom * fy) / 255.0
                });
                for (c, value) in look.colour(rgb).into_iter().enumerate() {
                    canvas[(c * side + y) * side + x] = value;
                }
            }
        }
    }

    fn targets(&self, image: &Image, labels: &[Label], look: &Look, side: usize, index: usize) -> Vec<Target> {
        let size = [image.width() as f64, image.height() as f64];
        let target = |label: &Label| {
            let centre = [f64::from(label.cx), f64::from(label.cy)];
            let extent = [f64::from(label.w), f64::from(label.h)];
            let mut low = [0.0; 2];
            let mut high = [0.0; 2];
            let mut area = 1.0;
            for axis in 0..2 {
                let centre = if look.mirror[axis] { 1.0 - centre[axis] } else { centre[axis] };
                let on_canvas = |v: f64| v * size[axis] * self.scale[axis] + self.offset[axis];
                let [a, b] = [on_canvas(centre - extent[axis] / 2.0), on_canvas(centre + extent[axis] / 2.0)];
                let bound = |v: f64| v.clamp(self.window[axis] as f64, self.window[axis + 2] as f64);
                (low[axis], high[axis]) = (bound(a), bound(b));
                area *= b - a;
            }
            let [w, h] = [high[0] - low[0], high[1] - low[1]];
            if w < MIN_SIDE || h < MIN_SIDE || w * h < MIN_VISIBLE * area {
                return None;
            }
            let bbox = [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0, w, h].map(|v| (v / side as f64) as f32);
            Some(Target { image: index, class: label.class, bbox: NormalisedXywh(bbox) })
        };
        labels.iter().filter_map(target).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{Letterbox, Xyxy};
    use rand::SeedableRng;

    /// A bright block on a dark ground, and its label.
    fn block() -> (Image, [Label; 1]) {
        let (w, h) = (60, 40);
        let inside = |x: usize, y: usize| (12..30).contains(&x) && (8..28).contains(&y);
        let pixel = |i: usize| if inside(i % w, i / w) { [240, 200, 220] } else { [10, 20, 15] };
        let data = (0..w * h).flat_map(pixel).collect();
        (Image::new(w, h, data), [Label { class: 1, cx: 0.35, cy: 0.45, w: 0.3, h: 0.5 }])
    }

    #[test]
    fn without_variation_it_is_the_letterbox() {
        let (image, labels) = block();
        let mut rng = StdRng::seed_from_u64(1);
        let (mut found, mut wanted) = (vec![0.0; 3 * 64 * 64], vec![0.0; 3 * 64 * 64]);
        let targets = single((&image, &labels), &Augment::NONE, &mut rng, 64, 3, &mut found);
        let letterbox = Letterbox::new(60, 40, 64, 64);
        letterbox.forward(&image, &mut wanted);
        let worst = found.iter().zip(&wanted).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst <= 1.5 / 255.0, "{worst}");
        let [x1, y1, x2, y2] = letterbox.to_input(Xyxy([12.0, 8.0, 30.0, 28.0])).0.map(|v| v / 64.0);
        let bbox = [(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1];
        assert_eq!((targets.len(), targets[0].image, targets[0].class), (1, 3, 1));
        assert!(targets[0].bbox.0.iter().zip(bbox).all(|(a, b)| (a - b).abs() < 1e-5), "{targets:?}, {bbox:?}");
    }

    #[test]
    fn labels_follow_the_pixels() {
        let (image, labels) = block();
        let augment = Augment { upside_down: 0.5, saturation: 0.0, brightness: 0.0, ..Augment::default() };
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut canvas = vec![0.0; 3 * 96 * 96];
            let targets = match seed % 2 {
                0 => single((&image, &labels), &augment, &mut rng, 96, 0, &mut canvas),
                _ => mosaic([(&image, &labels[..]); 4], &augment, &mut rng, 96, 0, &mut canvas),
            };
            assert!(!targets.is_empty() && targets.len() <= 4);
            // Bright pixels are those inside the boxes, but for their rims and for boxes that were dropped.
            let inside = |x: usize, y: usize, grow: f32| {
                let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
                targets.iter().any(|t| {
                    let [cx, cy, w, h] = t.bbox.0.map(|v| v * 96.0);
                    (x - cx).abs() < w / 2.0 + grow && (y - cy).abs() < h / 2.0 + grow
                })
            };
            for (x, y) in (0..96).flat_map(|y| (0..96).map(move |x| (x, y))) {
                let bright = canvas[y * 96 + x] > 0.6;
                assert!(bright || !inside(x, y, -1.5), "seed {seed}: {x}, {y} is dark inside a box");
                if seed % 2 == 0 {
                    assert!(!bright || inside(x, y, 1.5), "seed {seed}: {x}, {y} is bright outside");
                }
            }
        }
    }
}
