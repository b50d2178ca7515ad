//! Augmentation: training images placed on a canvas of the network's input size with random size, position, mirror and colour, or four of
//! them in a mosaic (Bochkovskiy et al., "YOLOv4", 2020). Without augmentation the result is the letterbox of
//! inference.

use super::loss::Target;
use super::shapes::Moved;
use super::variation::Augment;
use crate::data::{Label, Shapes};
use crate::size::ImageSize;
use crate::vision::polygon::{area, clip};
use crate::vision::{Image, NormalisedXywh, Rotated};
use rand::RngExt;
use rand::rngs::StdRng;

/// A box that keeps less than this share of its area on the canvas is dropped.
const MIN_VISIBLE: f64 = 0.2;
/// A box with a side below this many pixels is dropped.
const MIN_SIDE: f64 = 2.0;

/// An image, and what it shows.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Its pixels.
    pub image: &'a Image,
    /// Its objects.
    pub labels: &'a [Label],
    /// What is labelled beside their boxes.
    pub shapes: &'a Shapes,
    /// For every keypoint the one that it becomes in a mirror.
    pub flip: Option<&'a [usize]>,
}

/// The objects on a canvas.
#[derive(Debug, Default, PartialEq)]
pub struct Placed {
    /// Their classes and boxes.
    pub targets: Vec<Target>,
    /// Their shapes.
    pub shapes: Moved,
}

/// Puts one image on a canvas `[3, height, width]` (RGB, 0..1); gives its labels as targets of image `index`.
pub fn single(
    shown: Shown<'_>,
    augment: &Augment,
    rng: &mut StdRng,
    size: ImageSize,
    index: usize,
    canvas: &mut [f32],
) -> Placed {
    let image = shown.image;
    canvas.fill(augment.pad);
    let factor = around(rng, augment.scale);
    let shift = [size.width, size.height].map(|side| side as f64 * augment.translate * symmetric(rng));
    let place = Place::fitted(image, size, factor, shift);
    let look = Look::draw(augment, rng);
    place.draw(image, &look, size, canvas);
    place.objects(shown, &look, size, index)
}

/// The objects of an image in the letterbox of inference; of its mirror image if so asked.
pub fn letterboxed(shown: Shown<'_>, size: ImageSize, mirrored: bool) -> Placed {
    let mut place = Place::fitted(shown.image, size, 1.0, [0.0; 2]);
    if mirrored {
        // The border is mirrored too.
        place.offset[0] = size.width as f64 - place.offset[0] - place.scale[0] * shown.image.width() as f64;
    }
    let look = Look { mirror: [mirrored, false], saturation: 1.0, brightness: 1.0, hue: None };
    place.objects(shown, &look, size, 0)
}

/// Puts four images around a random point of the canvas; otherwise as [`single`].
pub fn mosaic(
    parts: [Shown<'_>; 4],
    augment: &Augment,
    rng: &mut StdRng,
    size: ImageSize,
    index: usize,
    canvas: &mut [f32],
) -> Placed {
    canvas.fill(augment.pad);
    let sides = [size.width, size.height];
    let [x, y] = sides.map(|side| (side as f64 * rng.random_range(0.3..0.7)).round());
    let (px, py) = (x as usize, y as usize);
    let mut placed = Placed::default();
    for (quadrant, shown) in parts.into_iter().enumerate() {
        let image = shown.image;
        let (right, below) = (quadrant % 2 == 1, quadrant / 2 == 1);
        let (w, h) = (image.width() as f64, image.height() as f64);
        let zoom = fit(sides, [w, h]) * 0.75 * around(rng, augment.scale.max(0.25));
        let offset = [if right { x } else { x - w * zoom }, if below { y } else { y - h * zoom }];
        let window = [
            if right { px } else { 0 },
            if below { py } else { 0 },
            if right { size.width } else { px },
            if below { size.height } else { py },
        ];
        let place = Place { scale: [zoom; 2], offset, window };
        let look = Look::draw(augment, rng);
        place.draw(image, &look, size, canvas);
        let next = place.objects(shown, &look, size, index);
        placed.targets.extend(next.targets);
        placed.shapes.append(next.shapes);
    }
    placed
}

/// The scale at which an image of a width and a height fits a canvas of these.
fn fit(canvas: [usize; 2], image: [f64; 2]) -> f64 {
    (canvas[0] as f64 / image[0]).min(canvas[1] as f64 / image[1])
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
    /// A turn of the colours around grey, as a matrix.
    hue: Option<[[f32; 3]; 3]>,
}

impl Look {
    fn draw(augment: &Augment, rng: &mut StdRng) -> Self {
        Self {
            mirror: [augment.mirror, augment.upside_down].map(|p| rng.random_range(0.0..1.0) < p),
            saturation: around(rng, augment.saturation) as f32,
            brightness: around(rng, augment.brightness) as f32,
            hue: (augment.hue > 0.0).then(|| turn(symmetric(rng) * augment.hue)),
        }
    }

    fn colour(&self, rgb: [f32; 3]) -> [f32; 3] {
        let turned = self.hue.map(|rows| rows.map(|[a, b, c]| a * rgb[0] + b * rgb[1] + c * rgb[2]));
        let [r, g, b] = turned.unwrap_or(rgb);
        let grey = 0.299 * r + 0.587 * g + 0.114 * b;
        [r, g, b].map(|v| ((grey + (v - grey) * self.saturation) * self.brightness).clamp(0.0, 1.0))
    }
}

/// The turn of colours around the grey axis by a share of the circle: greys stay (Rodrigues' formula).
fn turn(share: f64) -> [[f32; 3]; 3] {
    let (sin, cos) = (share * std::f64::consts::TAU).sin_cos();
    let (same, side) = ((1.0 - cos) / 3.0, sin / 3f64.sqrt());
    let entry = |row: usize, column: usize| match (column + 3 - row) % 3 {
        0 => cos + same,
        1 => same - side,
        _ => same + side,
    };
    std::array::from_fn(|row| std::array::from_fn(|column| entry(row, column) as f32))
}

/// Where an image goes: canvas = scale * image + offset, within a window (left, top, right, bottom).
struct Place {
    scale: [f64; 2],
    offset: [f64; 2],
    window: [usize; 4],
}

impl Place {
    /// An image in the middle of the canvas, as large as fits times a factor, shifted by so many pixels.
    fn fitted(image: &Image, size: ImageSize, factor: f64, shift: [f64; 2]) -> Self {
        let (w, h) = (image.width() as f64, image.height() as f64);
        let fit = fit([size.width, size.height], [w, h]);
        let zoom = fit * factor;
        // At no variation the content has whole pixels, as the letterbox has.
        let [cw, ch] = if zoom == fit { [(w * fit).round(), (h * fit).round()] } else { [w * zoom, h * zoom] };
        let offset = [(size.width as f64 - cw) / 2.0, (size.height as f64 - ch) / 2.0];
        let offset = if shift == [0.0; 2] {
            offset.map(|o| (o - 0.1).round())
        } else {
            [offset[0] + shift[0], offset[1] + shift[1]]
        };
        Self { scale: [cw / w, ch / h], offset, window: [0, 0, size.width, size.height] }
    }

    /// Bilinear sampling at pixel centres.
    fn draw(&self, image: &Image, look: &Look, canvas_size: ImageSize, canvas: &mut [f32]) {
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
                    canvas[(c * canvas_size.height + y) * canvas_size.width + x] = value;
                }
            }
        }
    }

    /// A point of the image (shares of it) on the canvas, pixels.
    fn point(&self, [x, y]: [f32; 2], size: [f64; 2], look: &Look) -> [f32; 2] {
        let moved = |axis: usize, share: f32| {
            let share = if look.mirror[axis] { 1.0 - f64::from(share) } else { f64::from(share) };
            (share * size[axis] * self.scale[axis] + self.offset[axis]) as f32
        };
        [moved(0, x), moved(1, y)]
    }

    fn objects(&self, shown: Shown<'_>, look: &Look, canvas: ImageSize, index: usize) -> Placed {
        let sides = [canvas.width as f32, canvas.height as f32];
        let size = [shown.image.width() as f64, shown.image.height() as f64];
        let point = |place: [f32; 2]| self.point(place, size, look);
        let window = self.window.map(|v| v as f32);
        let mut placed = Placed::default();
        let mut add = |class: usize, bbox: [f32; 4], shape: Moved| {
            let [cx, cy, w, h] = bbox;
            let bbox = NormalisedXywh([cx / sides[0], cy / sides[1], w / sides[0], h / sides[1]]);
            placed.targets.push(Target { image: index, class, bbox });
            placed.shapes.append(shape);
        };
        let share = |[x, y]: [f32; 2]| [x / sides[0], y / sides[1]];
        for (at, label) in shown.labels.iter().enumerate() {
            match shown.shapes {
                Shapes::None => {
                    if let Some(bbox) = self.bbox(label, size, look) {
                        add(label.class, bbox, Moved::Boxes);
                    }
                }
                Shapes::Keypoints(all) => {
                    let (Some(bbox), Some(points)) = (self.bbox(label, size, look), all.get(at)) else { continue };
                    let moved = |[x, y, seen]: &[f32; 3]| {
                        let [x, y] = point([*x, *y]);
                        let inside = x >= window[0] && y >= window[1] && x < window[2] && y < window[3];
                        let [x, y] = share([x, y]);
                        [x, y, if inside { *seen } else { 0.0 }]
                    };
                    let mut points: Vec<[f32; 3]> = points.iter().map(moved).collect();
                    if let (Some(flip), true) = (shown.flip, look.mirror[0] != look.mirror[1]) {
                        points = flip.iter().filter_map(|from| points.get(*from).copied()).collect();
                    }
                    add(label.class, bbox, Moved::Keypoints(vec![points]));
                }
                Shapes::Outlines(all) => {
                    let Some(points) = all.get(at) else { continue };
                    let whole: Vec<[f32; 2]> = points.iter().map(|place| point(*place)).collect();
                    let part = clip(whole.clone(), window);
                    if let Some(bbox) = seen(&whole, &part) {
                        add(label.class, bbox, Moved::Outlines(vec![part.into_iter().map(share).collect()]));
                    }
                }
                Shapes::Corners(all) => {
                    let Some(corners) = all.get(at) else { continue };
                    let corners = corners.map(point);
                    if seen(&corners, &clip(corners.to_vec(), window)).is_none() {
                        continue;
                    }
                    let Rotated { centre: [x, y], size: [w, h], angle } = Rotated::around(&corners);
                    add(label.class, [x, y, w, h], Moved::Angles(vec![angle]));
                }
            }
        }
        placed
    }

    /// The box of a label on the canvas (centre and sides, pixels), unless too little of it is left.
    fn bbox(&self, label: &Label, size: [f64; 2], look: &Look) -> Option<[f32; 4]> {
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
        Some([(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0, w, h].map(|v| v as f32))
    }
}

/// The box (centre and sides) around the part of a polygon that is left, unless that is too little.
fn seen(whole: &[[f32; 2]], part: &[[f32; 2]]) -> Option<[f32; 4]> {
    let range = |axis: usize| {
        let of = part.iter().map(|point| point[axis]);
        (of.clone().fold(f32::INFINITY, f32::min), of.fold(f32::NEG_INFINITY, f32::max))
    };
    let ((x0, x1), (y0, y1)) = (range(0), range(1));
    let (w, h) = (x1 - x0, y1 - y0);
    let there = f64::from(w) >= MIN_SIDE && f64::from(h) >= MIN_SIDE && area(part) >= MIN_VISIBLE * area(whole);
    there.then(|| [(x0 + x1) / 2.0, (y0 + y1) / 2.0, w, h])
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

    fn shown<'a>(image: &'a Image, labels: &'a [Label], shapes: &'a Shapes) -> Shown<'a> {
        Shown { image, labels, shapes, flip: Some(&[1, 0, 3, 2]) }
    }

    /// The corners of the block: left and right above, left and right below.
    const CORNERS: [[f32; 2]; 4] = [[0.2, 0.2], [0.5, 0.2], [0.2, 0.7], [0.5, 0.7]];

    #[test]
    fn without_variation_it_is_the_letterbox() {
        let (image, labels) = block();
        for size in [[64, 64], [64, 128], [96, 32]].map(ImageSize::from) {
            let mut rng = StdRng::seed_from_u64(1);
            let (mut found, mut wanted) = (vec![0.0; 3 * size.area()], vec![0.0; 3 * size.area()]);
            let targets =
                single(shown(&image, &labels, &Shapes::None), &Augment::NONE, &mut rng, size, 3, &mut found).targets;
            let letterbox = Letterbox::new(60, 40, size.width, size.height);
            letterbox.forward(&image, &mut wanted);
            let worst = found.iter().zip(&wanted).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= 1.5 / 255.0, "{size}: {worst}");
            let [x1, y1, x2, y2] = letterbox.to_input(Xyxy([12.0, 8.0, 30.0, 28.0])).0;
            let (w, h) = (size.width as f32, size.height as f32);
            let bbox = [(x1 + x2) / 2.0 / w, (y1 + y2) / 2.0 / h, (x2 - x1) / w, (y2 - y1) / h];
            assert_eq!((targets.len(), targets[0].image, targets[0].class), (1, 3, 1));
            assert!(targets[0].bbox.0.iter().zip(bbox).all(|(a, b)| (a - b).abs() < 1e-5), "{targets:?}, {bbox:?}");
        }
    }

    #[test]
    fn labels_follow_the_pixels() {
        let (image, labels) = block();
        let augment = Augment { upside_down: 0.5, saturation: 0.0, brightness: 0.0, ..Augment::default() };
        for seed in 0..60 {
            let mut rng = StdRng::seed_from_u64(seed);
            let size = ImageSize::from([[96, 96], [96, 160], [128, 64]][seed as usize % 3]);
            let mut canvas = vec![0.0; 3 * size.area()];
            let targets = match seed % 2 {
                0 => single(shown(&image, &labels, &Shapes::None), &augment, &mut rng, size, 0, &mut canvas),
                _ => mosaic([shown(&image, &labels, &Shapes::None); 4], &augment, &mut rng, size, 0, &mut canvas),
            }
            .targets;
            assert!(!targets.is_empty() && targets.len() <= 4);
            // Bright pixels are those inside the boxes, but for their rims and for boxes that were dropped.
            let inside = |x: usize, y: usize, grow: f32| {
                let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
                targets.iter().any(|t| {
                    let [cx, cy, w, h] = t.bbox.0;
                    let [cx, w] = [cx, w].map(|v| v * size.width as f32);
                    let [cy, h] = [cy, h].map(|v| v * size.height as f32);
                    (x - cx).abs() < w / 2.0 + grow && (y - cy).abs() < h / 2.0 + grow
                })
            };
            for (x, y) in (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y))) {
                let bright = canvas[y * size.width + x] > 0.6;
                assert!(bright || !inside(x, y, -1.5), "seed {seed}: {x}, {y} is dark inside a box");
                if seed % 2 == 0 {
                    assert!(!bright || inside(x, y, 1.5), "seed {seed}: {x}, {y} is bright outside");
                }
            }
        }
    }

    #[test]
    fn shapes_follow_the_pixels() {
        let (image, labels) = block();
        let [a, b, c, d] = CORNERS;
        let ring = vec![a, b, d, c];
        let points = CORNERS.iter().map(|[x, y]| [*x, *y, 2.0]).collect();
        let shapes =
            [Shapes::Outlines(vec![ring]), Shapes::Corners(vec![[a, b, d, c]]), Shapes::Keypoints(vec![points])];
        let augment = Augment { translate: 0.3, saturation: 0.0, brightness: 0.0, ..Augment::default() };
        let (mut mirrored, mut cut) = (0, 0);
        for seed in 0..60 {
            let run = |shapes: &Shapes| {
                let (mut rng, mut canvas) = (StdRng::seed_from_u64(seed), vec![0.0; 3 * 96 * 96]);
                let placed = match seed % 3 {
                    0 => mosaic([shown(&image, &labels, shapes); 4], &augment, &mut rng, 96.into(), 0, &mut canvas),
                    _ => single(shown(&image, &labels, shapes), &augment, &mut rng, 96.into(), 0, &mut canvas),
                };
                (placed, canvas)
            };
            let [outlines, rotated, keypoints] = [0, 1, 2].map(|i| run(&shapes[i]));
            let boxes = run(&Shapes::None).0;
            // An upright block: outlines have its box, and so have rotated boxes that were not cut.
            let near = |a: [f32; 4], b: [f32; 4]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
            assert_eq!(outlines.0.targets.len(), boxes.targets.len(), "seed {seed}");
            assert_eq!(keypoints.0.targets, boxes.targets, "seed {seed}");
            for (found, wanted) in outlines.0.targets.iter().zip(&boxes.targets) {
                assert!(near(found.bbox.0, wanted.bbox.0), "seed {seed}: {found:?} {wanted:?}");
            }
            let Moved::Angles(angles) = &rotated.0.shapes else { panic!("seed {seed}") };
            assert_eq!(angles.len(), rotated.0.targets.len());
            // Pixels of the outlines are the bright ones, but for their rims.
            if seed % 3 != 0 {
                let (planes, _) = outlines.0.shapes.planes(&outlines.0.targets, 1, [96, 96]);
                let wrong = (0..96 * 96).filter(|p| (planes[*p] > 0) != (outlines.1[*p] > 0.6)).count();
                assert!(wrong < 120, "seed {seed}: {wrong}");
            }
            let Moved::Keypoints(all) = &keypoints.0.shapes else { panic!("seed {seed}") };
            for (points, target) in all.iter().zip(&keypoints.0.targets) {
                let [cx, cy, w, h] = target.bbox.0;
                let whole = points.iter().all(|point| point[2] == 2.0);
                cut += usize::from(!whole);
                // Left stays left and above stays above, also in the mirror.
                assert!(points[0][0] < points[1][0] && points[2][0] < points[3][0] && points[0][1] < points[2][1]);
                if whole {
                    let wanted = [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0];
                    assert!(near([points[0][0], points[0][1], points[3][0], points[3][1]], wanted), "seed {seed}");
                }
            }
            mirrored += usize::from(seed % 3 != 0 && outlines.1 != canvas_of_unmirrored(&image, seed, &augment));
        }
        assert!(mirrored > 5 && cut > 5, "{mirrored} {cut}");
    }

    #[test]
    fn a_turned_hue_leaves_grey_and_a_third_of_the_circle_makes_red_green() {
        let near = |found: [f32; 3], wanted: [f32; 3]| found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5);
        let colour = |share: f64, rgb| {
            Look { mirror: [false; 2], saturation: 1.0, brightness: 1.0, hue: Some(turn(share)) }.colour(rgb)
        };
        assert!([0.0, 0.1, 0.7].into_iter().all(|share| near(colour(share, [0.4; 3]), [0.4; 3])));
        assert!(near(colour(1.0 / 3.0, [0.8, 0.1, 0.3]), [0.3, 0.8, 0.1]));
        assert!(near(colour(1.0, [0.8, 0.1, 0.3]), [0.8, 0.1, 0.3]));
    }

    /// The canvas of a seed without mirrors.
    fn canvas_of_unmirrored(image: &Image, seed: u64, augment: &Augment) -> Vec<f32> {
        let (mut rng, mut canvas) = (StdRng::seed_from_u64(seed), vec![0.0; 3 * 96 * 96]);
        let augment = Augment { mirror: 0.0, ..*augment };
        single(shown(image, &[], &Shapes::None), &augment, &mut rng, 96.into(), 0, &mut canvas);
        canvas
    }
}
