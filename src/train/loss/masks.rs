//! Masks from prototypes (Bolya et al., "YOLACT", ICCV 2019): cross-entropy inside the box, and the semantic loss that
//! YOLO26's prototypes are trained with (cross-entropy and Dice; Milletari et al., "V-Net", 2016).

use super::batch::{Batch, Level, Shapes, Truth};
use super::{BOX_GAIN, bce, sigmoid};

/// Guards the division by an empty union.
const EPS: f64 = 1e-7;
/// Keeps Dice defined where a class is nowhere.
const SMOOTH: f64 = 1.0;

/// The labelled pixels of one object at the size of the prototypes.
pub(super) struct Plane<'a> {
    pixels: &'a [u8],
    /// The value that its pixels have; any but 0 where `None`.
    value: Option<usize>,
}

impl<'a> Plane<'a> {
    /// Of the `object`-th object of an image, which is label `label` of the batch.
    pub fn of(batch: &Batch<'a>, image: usize, object: usize, label: usize) -> Self {
        let Shapes::Masks(masks) = batch.shapes else { return Self { pixels: &[], value: None } };
        let len = masks.size[0] * masks.size[1];
        let (plane, value) = if masks.overlap { (image, Some(object + 1)) } else { (label, None) };
        Self { pixels: masks.planes.get(plane * len..(plane + 1) * len).unwrap_or_default(), value }
    }

    fn at(&self, pixel: usize) -> bool {
        let found = self.pixels.get(pixel).map_or(0, |v| usize::from(*v));
        self.value.map_or(found != 0, |value| found == value)
    }
}

/// The columns or rows `low <= c < high` of an axis.
fn cells(low: f64, high: f64, side: usize) -> std::ops::Range<usize> {
    let at = |v: f64| (v.ceil().max(0.0) as usize).min(side);
    at(low)..at(high)
}

/// The weighted sum of the prototypes at a pixel.
fn logit(prototypes: &[f32], len: usize, pixel: usize, (level, cell): (&Level<'_>, usize)) -> f64 {
    let planes = prototypes.chunks_exact(len).enumerate();
    planes.map(|(row, plane)| level.extra(row, cell) * f64::from(plane[pixel])).sum()
}

/// The part of a box (corners in pixels of the input) at the size of the prototypes: columns and rows.
fn part(batch: &Batch<'_>, bbox: [f64; 4], [h, w]: [usize; 2]) -> [std::ops::Range<usize>; 2] {
    let [width, height] = batch.size();
    let (x, y) = (w as f64 / width, h as f64 / height);
    [cells(bbox[0] * x, bbox[2] * x, w), cells(bbox[1] * y, bbox[3] * y, h)]
}

/// Intersection over union of an object's mask and of the mask that a cell predicts inside its own box (corners in
/// pixels).
pub(super) fn overlap(
    batch: &Batch<'_>,
    image: usize,
    cell: (&Level<'_>, usize),
    bbox: [f64; 4],
    target: &Plane<'_>,
) -> f64 {
    let (prototypes, [h, w]) = batch.prototypes(image);
    let [columns, rows] = part(batch, bbox, [h, w]);
    let (mut both, mut found) = (0.0, 0.0);
    for pixel in rows.flat_map(|row| columns.clone().map(move |column| row * w + column)) {
        if logit(prototypes, h * w, pixel, cell) > 0.0 {
            found += 1.0;
            both += f64::from(u8::from(target.at(pixel)));
        }
    }
    let labelled = (0..h * w).filter(|pixel| target.at(*pixel)).count() as f64;
    both / (found + labelled - both + EPS)
}

/// The mask loss of a cell against its object: the cross-entropy inside the object's box, as a mean over the whole map,
/// divided by the box's share of the image. Adds `factor` times its gradient to that of the coefficients and of the
/// prototypes.
pub(super) fn loss(
    batch: &Batch<'_>,
    (image, object): (usize, usize),
    (level, cell): (&Level<'_>, usize),
    truth: &Truth,
    factor: f64,
    (coefficients, prototype_grad): (&mut [f32], &mut [f32]),
) -> f64 {
    let (prototypes, [h, w]) = batch.prototypes(image);
    let target = Plane::of(batch, image, object, truth.label);
    let [columns, rows] = part(batch, truth.bbox, [h, w]);
    let [width, height] = batch.size();
    let share = truth.size()[0] * truth.size()[1] / (width * height);
    let (len, mut loss) = (h * w, 0.0);
    if share <= 0.0 {
        return 0.0;
    }
    let scale = 1.0 / (len as f64 * share);
    let mut own = vec![0.0f64; prototypes.len() / len.max(1)];
    for pixel in rows.flat_map(|row| columns.clone().map(move |column| row * w + column)) {
        let x = logit(prototypes, len, pixel, (level, cell)) as f32;
        let (value, slope) = bce(x, f32::from(u8::from(target.at(pixel))));
        loss += f64::from(value) * scale;
        let slope = factor * scale * f64::from(slope);
        for (row, own) in own.iter_mut().enumerate() {
            *own += slope * f64::from(prototypes[row * len + pixel]);
            prototype_grad[row * len + pixel] += (slope * level.extra(row, cell)) as f32;
        }
    }
    for (row, own) in own.into_iter().enumerate() {
        coefficients[row * level.area() + cell] += own as f32;
    }
    loss
}

/// What one image adds to the semantic loss, with its gain: half the mean cross-entropy of every pixel and class, half
/// the mean Dice loss of every class. Its gradient, times the batch, goes into `grad`.
pub(super) fn semantic(batch: &Batch<'_>, image: usize, truths: &[Truth], grad: &mut [f32]) -> f64 {
    let Some((logits, [h, w])) = batch.semantic(image) else { return 0.0 };
    let (len, nc, n) = (h * w, batch.branch.nc, batch.images() as f64);
    let Shapes::Masks(masks) = batch.shapes else { return 0.0 };
    let gain = BOX_GAIN / 2.0;
    let mut loss = 0.0;
    for class in 0..nc {
        let mut wanted = vec![false; len];
        for (object, truth) in truths.iter().enumerate().filter(|(_, truth)| truth.class == class) {
            let plane = Plane::of(batch, image, object, truth.label);
            for (at, wanted) in wanted.iter_mut().enumerate() {
                // The nearest pixel of the labels, counted from the corner.
                let [row, column] = [(at / w) * masks.size[0] / h, (at % w) * masks.size[1] / w];
                *wanted |= plane.at(row * masks.size[1] + column);
            }
        }
        let logits = &logits[class * len..(class + 1) * len];
        let truth = |at: usize| f64::from(u8::from(wanted[at]));
        let (mut both, mut sum) = (0.0, 0.0);
        for (at, x) in logits.iter().enumerate() {
            let p = f64::from(sigmoid(*x));
            both += p * truth(at);
            sum += p + truth(at);
        }
        let (above, below) = (2.0 * both + SMOOTH, sum + SMOOTH);
        loss += gain * (1.0 - above / below) / (n * nc as f64);
        for (at, x) in logits.iter().enumerate() {
            let (value, slope) = bce(*x, truth(at) as f32);
            let p = f64::from(sigmoid(*x));
            loss += gain * f64::from(value) / (n * (nc * len) as f64);
            let dice = (above / below - 2.0 * truth(at)) / below * p * (1.0 - p);
            grad[class * len + at] += (gain * (f64::from(slope) / len as f64 + dice) / nc as f64) as f32;
        }
    }
    loss
}
