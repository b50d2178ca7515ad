//! Shapes and the pixels they cover.

use crate::vision::Xyxy;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// Samples per pixel and axis.
const SAMPLES: i32 = 4;

/// Points of the outline of a disc.
const DISC_POINTS: usize = 32;

/// What a shape is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Disc,
    Square,
    Triangle,
    Star,
    Cross,
    HalfDisc,
}

impl Kind {
    /// What is to be found, in class order.
    pub const OBJECTS: [Self; 3] = [Self::Disc, Self::Square, Self::Triangle];
    /// What is not.
    pub const OTHERS: [Self; 3] = [Self::Star, Self::Cross, Self::HalfDisc];

    /// Whether a point belongs to the shape that just fits the unit circle.
    fn contains(self, x: f32, y: f32) -> bool {
        let square = x * x + y * y;
        match self {
            Self::Disc => square <= 1.0,
            Self::HalfDisc => square <= 1.0 && y >= 0.0,
            Self::Square => x.abs().max(y.abs()) <= std::f32::consts::FRAC_1_SQRT_2,
            // Equilateral, a corner at (0, -1); each side is half a unit from the centre.
            Self::Triangle => y <= 0.5 && x.abs() * 0.75f32.sqrt() - y * 0.5 <= 0.5,
            Self::Cross => x.abs().min(y.abs()) <= 0.27 && x.abs().max(y.abs()) <= 0.96,
            Self::Star => {
                // Folded into the tenth between a tip at radius 1 and a notch at radius 0.4.
                let tenth = std::f32::consts::PI / 5.0;
                let folded = y.atan2(x).rem_euclid(2.0 * tenth);
                let (sin, cos) = folded.min(2.0 * tenth - folded).sin_cos();
                let (px, py) = (square.sqrt() * cos, square.sqrt() * sin);
                let (notch_x, notch_y) = (0.4 * tenth.cos(), 0.4 * tenth.sin());
                (notch_x - 1.0) * py - notch_y * (px - 1.0) >= 0.0
            }
        }
    }
}

/// A shape in a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub kind: Kind,
    /// Centre, pixels.
    pub x: f32,
    pub y: f32,
    /// Radius of the circle around it before it is stretched, pixels.
    pub radius: f32,
    /// Factor on its height before it is turned.
    pub stretch: f32,
    /// Radians.
    pub angle: f32,
}

/// The pixels that a shape covers.
pub(super) struct Mask {
    /// Pixel, share covered (0 to 1), and the middle of the pixel in the shape's own frame.
    pub pixels: Vec<(usize, f32, [f32; 2])>,
    /// The share of the shape that lies inside the picture.
    pub inside: f32,
    /// The box around that share, pixels.
    pub bbox: Xyxy,
}

impl Mask {
    /// The pixels that belong to the shape for more than half.
    pub fn solid(&self) -> impl Iterator<Item = usize> {
        self.pixels.iter().filter(|(_, share, _)| *share > 0.5).map(|(pixel, _, _)| *pixel)
    }
}

impl Shape {
    /// Any size, turn and place; small ones are as frequent as large ones.
    pub fn random(rng: &mut ChaCha8Rng, kind: Kind, size: usize) -> Self {
        let side = size as f32;
        Self {
            kind,
            x: rng.random_range(0.0..side),
            y: rng.random_range(0.0..side),
            radius: side * 0.05 * 5f32.powf(rng.random_range(0.0..1.0)),
            stretch: rng.random_range(0.8..1.25),
            angle: rng.random_range(0.0..std::f32::consts::TAU),
        }
    }

    /// Its outline in the picture, pixels, as it would go on outside: corners in order, or 32 points of a disc. Only
    /// discs, squares and triangles have one.
    pub fn outline(self) -> Vec<[f32; 2]> {
        let (half, side) = (std::f32::consts::FRAC_1_SQRT_2, 0.75f32.sqrt());
        let own = match self.kind {
            Kind::Disc => (0..DISC_POINTS)
                .map(|i| (i as f32 * std::f32::consts::TAU / DISC_POINTS as f32).sin_cos())
                .map(|(y, x)| [x, y])
                .collect(),
            Kind::Square => vec![[-half, -half], [half, -half], [half, half], [-half, half]],
            Kind::Triangle => vec![[0.0, -1.0], [side, 0.5], [-side, 0.5]],
            _ => Vec::new(),
        };
        own.into_iter().map(|point: [f32; 2]| self.in_picture(point)).collect()
    }

    /// The rectangle around it that is turned as it is: four corners in order, pixels.
    pub fn rectangle(self) -> [[f32; 2]; 4] {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        let [left, top, right, bottom] = match self.kind {
            Kind::Square => [-half, -half, half, half],
            Kind::Triangle => [-(0.75f32.sqrt()), -1.0, 0.75f32.sqrt(), 0.5],
            _ => [-1.0, -1.0, 1.0, 1.0],
        };
        [[left, top], [right, top], [right, bottom], [left, bottom]].map(|point| self.in_picture(point))
    }

    /// A point of the shape's own frame in the picture: [`Shape::to_own`] backwards.
    fn in_picture(self, [u, v]: [f32; 2]) -> [f32; 2] {
        let (sin, cos) = self.angle.sin_cos();
        let v = v * self.stretch;
        [self.x + self.radius * (u * cos - v * sin), self.y + self.radius * (u * sin + v * cos)]
    }

    fn to_own(self, x: f32, y: f32) -> [f32; 2] {
        let (sin, cos) = self.angle.sin_cos();
        let (dx, dy) = ((x - self.x) / self.radius, (y - self.y) / self.radius);
        [dx * cos + dy * sin, (dy * cos - dx * sin) / self.stretch]
    }

    /// The pixels of a `size` x `size` picture that it covers, by 16 samples each.
    pub fn mask(&self, size: usize) -> Mask {
        let reach = self.radius * self.stretch.max(1.0) + 1.0;
        let range = |middle: f32| (middle - reach).floor() as i32..=(middle + reach).ceil() as i32;
        let (mut pixels, mut within, mut all) = (Vec::new(), 0, 0);
        let (mut low, mut high) = ([i32::MAX; 2], [i32::MIN; 2]);
        for y in range(self.y) {
            for x in range(self.x) {
                let inside = (0..size as i32).contains(&x) && (0..size as i32).contains(&y);
                let mut covered = 0;
                for sample in 0..SAMPLES * SAMPLES {
                    let at = [x * SAMPLES + sample % SAMPLES, y * SAMPLES + sample / SAMPLES];
                    let [u, v] = at.map(|a| (a as f32 + 0.5) / SAMPLES as f32);
                    let [u, v] = self.to_own(u, v);
                    if self.kind.contains(u, v) {
                        covered += 1;
                        if inside {
                            low = [low[0].min(at[0]), low[1].min(at[1])];
                            high = [high[0].max(at[0]), high[1].max(at[1])];
                        }
                    }
                }
                all += covered;
                if inside && covered > 0 {
                    within += covered;
                    let share = covered as f32 / (SAMPLES * SAMPLES) as f32;
                    pixels.push((y as usize * size + x as usize, share, self.to_own(x as f32 + 0.5, y as f32 + 0.5)));
                }
            }
        }
        let scale = |v: i32| v as f32 / SAMPLES as f32;
        let bbox =
            if within == 0 { [0.0; 4] } else { [scale(low[0]), scale(low[1]), scale(high[0] + 1), scale(high[1] + 1)] };
        Mask { pixels, inside: within as f32 / all.max(1) as f32, bbox: Xyxy(bbox) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::{FRAC_PI_4, PI};

    #[test]
    fn boxes_are_tight() {
        let at = |kind, angle| Shape { kind, x: 50.0, y: 40.0, radius: 20.0, stretch: 1.0, angle };
        let (half, low) = (20.0 * std::f32::consts::FRAC_1_SQRT_2, 20.0 * 0.75f32.sqrt());
        let cases = [
            (at(Kind::Disc, 1.0), [30.0, 20.0, 70.0, 60.0]),
            (at(Kind::Square, 0.0), [50.0 - half, 40.0 - half, 50.0 + half, 40.0 + half]),
            (at(Kind::Square, FRAC_PI_4), [30.0, 20.0, 70.0, 60.0]),
            (at(Kind::Triangle, 0.0), [50.0 - low, 20.0, 50.0 + low, 50.0]),
            (at(Kind::Triangle, PI), [50.0 - low, 30.0, 50.0 + low, 60.0]),
            (at(Kind::HalfDisc, 0.0), [30.0, 40.0, 70.0, 60.0]),
            (
                at(Kind::Star, 0.0),
                [50.0 - 20.0 * (PI / 5.0).cos(), 40.0 - 20.0 * (0.4 * PI).sin(), 70.0, 40.0 + 20.0 * (0.4 * PI).sin()],
            ),
            (Shape { x: 5.0, ..at(Kind::Disc, 0.0) }, [0.0, 20.0, 25.0, 60.0]),
            (Shape { stretch: 0.5, ..at(Kind::Disc, 0.0) }, [30.0, 30.0, 70.0, 50.0]),
        ];
        for (shape, expected) in cases {
            let mask = shape.mask(100);
            for (found, expected) in mask.bbox.0.iter().zip(expected) {
                // Sharp corners end between two samples.
                assert!((found - expected).abs() <= 0.8, "{shape:?}: {:?}", mask.bbox);
            }
        }
    }

    #[test]
    fn outlines_and_rectangles_are_those_of_the_pixels() {
        for (i, kind) in Kind::OBJECTS.into_iter().enumerate() {
            let shape = Shape { kind, x: 50.0, y: 45.0, radius: 25.0, stretch: 0.8, angle: 0.7 + i as f32 };
            let (outline, pixels) = (shape.outline(), shape.mask(100).pixels);
            let covered: f32 = pixels.iter().map(|pixel| pixel.1).sum();
            let area = crate::vision::polygon::area(&outline) as f32;
            assert!((area - covered).abs() < 0.015 * covered, "{kind:?}: {area} for {covered}");
            // Every corner of the outline lies in the rectangle, which is the smallest that is turned so.
            let inside = crate::vision::Rotated::around(&shape.rectangle());
            let around = crate::vision::Rotated::around(&[outline, shape.rectangle().to_vec()].concat());
            assert!(around.overlap(&inside) > 0.99, "{kind:?}: {around:?} {inside:?}");
        }
    }

    #[test]
    fn areas_are_those_of_geometry() {
        let cases = [
            (Kind::Disc, PI),
            (Kind::Square, 2.0),
            (Kind::Triangle, 1.299),
            (Kind::HalfDisc, PI / 2.0),
            (Kind::Star, 1.1756),
        ];
        for (kind, area) in cases {
            let mask = Shape { kind, x: 50.0, y: 50.0, radius: 30.0, stretch: 1.0, angle: 0.4 }.mask(100);
            let found: f32 = mask.pixels.iter().map(|p| p.1).sum::<f32>() / 900.0;
            assert!((found - area).abs() < 0.02 * area, "{kind:?}: {found} for {area}");
            assert_eq!(mask.inside, 1.0);
        }
    }
}
