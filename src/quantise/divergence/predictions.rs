//! What a head predicts for the objects it is sure of, beside classes and boxes: mask pixels, keypoints, angles. Each is
//! one number with a divergence of its own, so that the comparison of outputs, its curvature and distillation speak of the
//! same thing.
//!
//! * A pixel of a mask is a Bernoulli distribution, whose logit is the sum of the prototypes weighted with the cell's
//!   coefficients.
//! * Coordinates of keypoints diverge by `ln(1 + c d^2 / 2)`, whose second derivative at 0 is `c`: the exponent of the
//!   object keypoint similarity, but bounded in its slope.
//! * The angle of a rotated box diverges by the Bhattacharyya distance of the two normal distributions with its sides
//!   (Llerena et al., "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union", 2021).

use crate::graph::Head;
use crate::vision::{Level, levels, sigmas};
use std::f64::consts::PI;

/// A cell whose best class is less likely than this predicts nothing.
pub(super) const CONFIDENT: f64 = 0.01;

/// Pixels of a mask along either axis of its box that are looked at.
const SAMPLES: usize = 10;

/// The share of its box that an object of keypoints is taken to fill.
const FILLED: f64 = 0.53;

/// How two values of an output diverge.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// As the logits of a Bernoulli distribution.
    Bernoulli,
    /// By `ln(1 + c d^2 / 2)`.
    Distance(f64),
    /// As angles of a box with this curvature in the angle; the flag says that the output is the angle itself, in
    /// radians, and not its logit.
    Angle(f64, bool),
}

/// One predicted number.
#[derive(Clone, Copy, Debug)]
pub struct Prediction<'a> {
    /// How much it counts.
    pub weight: f64,
    source: Source<'a>,
    kind: Kind,
}

/// The outputs that a predicted number follows from.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// One value: number of the output, and its place there.
    Value(usize, usize),
    /// A pixel of a mask.
    Pixel(&'a Mask),
}

/// Where a sum of prototypes lies in the outputs.
#[derive(Clone, Copy, Debug)]
struct Mask {
    /// Number of prototypes.
    count: usize,
    /// Number of the output of coefficients, the place of the first, and from one to the next.
    coefficients: (usize, usize, usize),
    /// The same of the pixel in the prototypes.
    prototypes: (usize, usize, usize),
}

impl Mask {
    fn places(&self) -> impl Iterator<Item = [(usize, usize); 2]> {
        let of = |(output, first, step): (usize, usize, usize), i: usize| (output, first + i * step);
        let Self { count, coefficients, prototypes } = *self;
        (0..count).map(move |i| [of(coefficients, i), of(prototypes, i)])
    }
}

impl Prediction<'_> {
    /// The number that outputs give.
    fn value(&self, outputs: &[&[f32]]) -> f64 {
        let at = |(output, at): (usize, usize)| f64::from(outputs[output][at]);
        match self.source {
            Source::Value(output, place) => at((output, place)),
            Source::Pixel(mask) => mask.places().map(|[c, p]| at(c) * at(p)).sum(),
        }
    }

    /// Adds to the gradient by every output that the number follows from, where its own gradient is `slope`.
    pub fn pass_down(&self, outputs: &[&[f32]], slope: f64, add: &mut dyn FnMut(usize, usize, f64)) {
        match self.source {
            Source::Value(output, at) => add(output, at, slope),
            Source::Pixel(mask) => {
                for [(c, at), (p, pixel)] in mask.places() {
                    add(c, at, slope * f64::from(outputs[p][pixel]));
                    add(p, pixel, slope * f64::from(outputs[c][at]));
                }
            }
        }
    }

    /// Second derivative of its divergence by the number, where both outputs agree; without the weight.
    pub fn curvature(&self, outputs: &[&[f32]]) -> f64 {
        match self.kind {
            Kind::Bernoulli => sigmoid_slope(self.value(outputs)),
            Kind::Distance(curvature) => curvature,
            Kind::Angle(curvature, true) => curvature,
            Kind::Angle(curvature, false) => curvature * (PI * sigmoid_slope(self.value(outputs))).powi(2),
        }
    }

    /// Its divergence, and that one's derivative by the number that `found` gives; without the weight.
    fn diverge(&self, reference: &[&[f32]], found: &[&[f32]]) -> (f64, f64) {
        let (r, f) = (self.value(reference), self.value(found));
        match self.kind {
            Kind::Bernoulli => (bernoulli_divergence(r, f), sigmoid(f) - sigmoid(r)),
            Kind::Distance(c) => {
                let sum = 1.0 + c * (f - r).powi(2) / 2.0;
                (sum.ln(), c * (f - r) / sum)
            }
            Kind::Angle(c, plain) => {
                let (off, slope) =
                    if plain { (f - r, 1.0) } else { (PI * (sigmoid(f) - sigmoid(r)), PI * sigmoid_slope(f)) };
                let (sin, cos) = off.sin_cos();
                let sum = 1.0 + c * sin * sin;
                (sum.ln() / 2.0, c * sin * cos / sum * slope)
            }
        }
    }
}

/// How far `found` is from `reference` in all that the reference predicts for one image of `size` (height, width), the
/// sum over the cells it is sure of, each with its confidence as weight. `add`, where given, gets the derivative by every
/// value of `found`: number of the output, its place there, the derivative.
pub fn task_divergence(
    head: &Head,
    size: (usize, usize),
    reference: &[&[f32]],
    found: &[&[f32]],
    mut add: Option<&mut dyn FnMut(usize, usize, f64)>,
) -> f64 {
    let mut total = 0.0;
    predictions(head, size, reference, &mut |prediction| {
        let (divergence, slope) = prediction.diverge(reference, found);
        total += prediction.weight * divergence;
        if let Some(add) = &mut add {
            prediction.pass_down(found, prediction.weight * slope, &mut **add);
        }
    });
    total
}

/// Gives everything that outputs predict for one image of `size` (height, width), beside classes and boxes.
/// Outputs of other sizes predict nothing.
pub fn predictions(head: &Head, size: (usize, usize), outputs: &[&[f32]], give: &mut dyn FnMut(&Prediction)) {
    let Some(boxes) = head.boxes() else { return };
    let (plain, count) = (boxes.reg_max == 1, boxes.strides.len());
    let deviations = match head.branch() {
        Head::Pose { keypoints, dims, .. } => sigmas(*keypoints, *dims),
        _ => Vec::new(),
    };
    if head.extra() == 0 {
        return;
    }
    for level in levels(head, size, outputs) {
        let extra = 2 * count + level.number;
        if outputs.get(extra).is_none_or(|values| values.len() != head.extra() * level.area) {
            continue;
        }
        for cell in 0..level.area {
            let best = (0..level.classes()).map(|c| level.logit(c, cell)).fold(f32::MIN, f32::max);
            let weight = sigmoid(f64::from(best));
            if weight.is_nan() || weight < CONFIDENT {
                continue;
            }
            let place = Place { level: &level, cell, extra, weight, plain };
            match head.branch() {
                Head::Segment { masks, .. } => place.mask((*masks, 3 * count), size, outputs, give),
                Head::Pose { dims, .. } => place.keypoints(*dims, &deviations, outputs, give),
                Head::Obb { .. } => place.angle(give),
                Head::Detect { .. } | Head::Classify { .. } | Head::EndToEnd { .. } => {}
            }
        }
    }
}

/// A cell that is sure of an object.
struct Place<'a> {
    level: &'a Level<'a>,
    cell: usize,
    /// Number of the output of the task.
    extra: usize,
    weight: f64,
    /// Whether the head gives plain numbers.
    plain: bool,
}

impl Place<'_> {
    /// Pixels of the mask in the cell's box, evenly spread.
    fn mask(
        &self,
        (count, prototypes): (usize, usize),
        (height, width): (usize, usize),
        outputs: &[&[f32]],
        give: &mut dyn FnMut(&Prediction),
    ) {
        // Twice as fine as the finest level.
        let area = outputs.get(prototypes).map_or(0, |values| values.len() / count.max(1));
        let scale = (area as f64 / (height * width).max(1) as f64).sqrt();
        let [h, w] = [height, width].map(|side| (side as f64 * scale).round() as usize);
        if area == 0 || h * w != area || outputs[prototypes].len() != count * area {
            return;
        }
        let corners = self.level.bbox(self.cell).0.map(|v| f64::from(v) * scale);
        let range = |low: f64, high: f64, side: usize| {
            let low = low.clamp(0.0, side as f64) as usize;
            let high = (high.clamp(0.0, side as f64).ceil() as usize).max(low);
            (low, high - low)
        };
        let ((x0, across), (y0, down)) = (range(corners[0], corners[2], w), range(corners[1], corners[3], h));
        let (columns, rows) = (across.min(SAMPLES), down.min(SAMPLES));
        let weight = self.weight / (columns * rows).max(1) as f64;
        let spread = |i: usize, len: usize, of: usize| (2 * i + 1) * len / (2 * of);
        for at in 0..columns * rows {
            let (x, y) = (x0 + spread(at % columns, across, columns), y0 + spread(at / columns, down, rows));
            let mask = Mask {
                count,
                coefficients: (self.extra, self.cell, self.level.area),
                prototypes: (prototypes, y * w + x, area),
            };
            give(&Prediction { weight, source: Source::Pixel(&mask), kind: Kind::Bernoulli });
        }
    }

    /// Places of the keypoints as far as they are visible, and whether they are.
    fn keypoints(&self, dims: usize, deviations: &[f64], outputs: &[&[f32]], give: &mut dyn FnMut(&Prediction)) {
        let (area, cell) = (self.level.area, self.cell);
        let filled = FILLED * f64::from(self.level.bbox(cell).area()).max(1.0);
        let gain = f64::from(self.level.stride) * if self.plain { 1.0 } else { 2.0 };
        let each = self.weight / deviations.len().max(1) as f64;
        for (k, deviation) in deviations.iter().enumerate() {
            let at = |row: usize| (k * dims + row) * area + cell;
            let seen = if dims == 3 { sigmoid(f64::from(outputs[self.extra][at(2)])) } else { 1.0 };
            let curvature = gain * gain / (4.0 * deviation * deviation * filled);
            for axis in 0..2 {
                let source = Source::Value(self.extra, at(axis));
                give(&Prediction { weight: each * seen, source, kind: Kind::Distance(curvature) });
            }
            if dims == 3 {
                let source = Source::Value(self.extra, at(2));
                give(&Prediction { weight: each, source, kind: Kind::Bernoulli });
            }
        }
    }

    /// The angle of the box: none of a square matters.
    fn angle(&self, give: &mut dyn FnMut(&Prediction)) {
        let [left, top, right, bottom] = self.level.distances(self.cell).map(f64::from);
        let [a, b] = [left + right, top + bottom].map(|side| side.max(1e-3).powi(2));
        let curvature = (a - b).powi(2) / (4.0 * a * b);
        let source = Source::Value(self.extra, self.cell);
        give(&Prediction { weight: self.weight, source, kind: Kind::Angle(curvature, self.plain) });
    }
}

/// Divergence of two logits of Bernoulli distributions.
pub(super) fn bernoulli_divergence(reference: f64, found: f64) -> f64 {
    // Below the threshold of any detection on both sides the difference cannot matter.
    if reference == found || (reference < -12.0 && found < -12.0) {
        return 0.0;
    }
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let p = 1.0 / (1.0 + (-reference).exp());
    ((softplus(found) - p * found) - (softplus(reference) - p * reference)).max(0.0)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn sigmoid_slope(x: f64) -> f64 {
    let p = sigmoid(x);
    p * (1.0 - p)
}
