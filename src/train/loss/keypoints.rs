//! Keypoints: the similarity that COCO judges them by as a loss (Maji et al., "YOLO-Pose", 2022), whether they are
//! visible, and the likelihood of their residuals (Li et al., "Human Pose Regression with Residual Log-likelihood
//! Estimation", ICCV 2021).

use super::batch::{Batch, Convention, Level, Shapes, Task, Truth};
use super::{Flow, bce, sigmoid};
use crate::vision::sigmas;

/// The share of its box that an object fills, where the assignment needs its area.
const FILLED: f64 = 0.53;
/// Guards divisions.
const EPS: f64 = 1e-9;

/// Labelled keypoints in pixels, and whether each counts.
pub(super) fn in_pixels(points: &[[f32; 3]], [width, height]: [f64; 2]) -> Vec<([f64; 2], bool)> {
    points.iter().map(|[x, y, v]| ([f64::from(*x) * width, f64::from(*y) * height], *v != 0.0)).collect()
}

/// The squared distance at which a keypoint has lost `1 - 1/e` of its similarity.
fn reach(sigma: f64, area: f64) -> f64 {
    2.0 * (2.0 * sigma).powi(2) * (area + EPS)
}

/// A predicted keypoint, in cells.
fn place(level: &Level<'_>, cell: usize, at: usize, convention: Convention) -> [f64; 2] {
    let centre = level.centre(cell);
    [0, 1].map(|axis| {
        let raw = level.extra(at + axis, cell);
        match convention {
            Convention::Distribution => 2.0 * raw + centre[axis] - 0.5,
            Convention::Direct => raw + centre[axis],
        }
    })
}

/// Similarity of the keypoints that a cell of YOLO26 predicts and labelled ones (pixels) of an object with a box of
/// this size, 0 to 1; 0 where none is labelled.
pub(super) fn similarity(
    level: &Level<'_>,
    cell: usize,
    dims: usize,
    points: &[([f64; 2], bool)],
    size: [f64; 2],
) -> f64 {
    let sigmas = sigmas(points.len(), dims);
    let area = FILLED * size[0] * size[1];
    let (mut sum, mut labelled) = (0.0, 0.0);
    for (k, (point, _)) in points.iter().enumerate().filter(|(_, (_, labelled))| *labelled) {
        let found = place(level, cell, k * dims, Convention::Direct).map(|v| v * level.stride);
        let apart: f64 = [0, 1].iter().map(|axis| (found[*axis] - point[*axis]).powi(2)).sum();
        sum += (-apart / reach(sigmas[k], area)).exp();
        labelled += 1.0;
    }
    sum / (labelled + EPS)
}

/// The three terms of keypoints, without their gains.
#[derive(Clone, Copy, Default)]
pub(super) struct Terms {
    /// Loss of similarity.
    pub place: f64,
    /// Cross-entropy of being visible.
    pub seen: f64,
    /// Negative logarithm of the residuals' likelihood.
    pub likelihood: f64,
}

/// What the terms are divided by, and multiplied with in the gradient.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// Foreground cells times keypoints.
    pub points: f64,
    /// Labelled keypoints of all foreground cells.
    pub labelled: f64,
    /// Factors on the gradients of the three terms.
    pub factors: [f64; 3],
}

/// The gradients of one image's level: of the keypoints, and of the deviations.
pub(super) struct Grads<'g> {
    pub extra: &'g mut [f32],
    pub sigmas: &'g mut [f32],
    /// Of the flow's parameters, once for all.
    pub flow: Option<&'g mut Flow>,
}

/// The terms of a cell against its object. Adds their gradients, times the factors of `scale`.
pub(super) fn loss(
    batch: &Batch<'_>,
    (level, cell): (&Level<'_>, usize),
    truth: &Truth,
    scale: &Scale,
    grads: &mut Grads<'_>,
) -> Terms {
    let (Task::Pose { keypoints, dims }, Shapes::Keypoints(points)) = (batch.branch.task, batch.shapes) else {
        return Terms::default();
    };
    let points: Vec<([f64; 2], bool)> = in_pixels(&points[truth.label], batch.size())
        .into_iter()
        .map(|(point, seen)| (point.map(|v| v / level.stride), seen))
        .collect();
    let labelled = points.iter().filter(|(_, seen)| *seen).count() as f64;
    let share = keypoints as f64 / (labelled + EPS) / scale.points;
    let area = truth.size().iter().map(|side| side / level.stride).product::<f64>();
    let (convention, area_of) = (batch.branch.convention, level.area());
    let step = if convention == Convention::Direct { 1.0 } else { 2.0 };
    let mut terms = Terms::default();
    for (k, (sigma, (point, seen))) in sigmas(keypoints, dims).into_iter().zip(points).enumerate() {
        let mut add = |row: usize, d: f64| grads.extra[row * area_of + cell] += d as f32;
        if dims == 3 {
            let row = 3 * k + 2;
            let (value, slope) = bce(level.extra[row * area_of + cell], f32::from(u8::from(seen)));
            terms.seen += f64::from(value) / scale.points;
            add(row, scale.factors[1] * f64::from(slope) / scale.points);
        }
        if !seen {
            continue;
        }
        let found = place(level, cell, k * dims, convention);
        let off = [0, 1].map(|axis| found[axis] - point[axis]);
        let reach = reach(sigma, area);
        let kept = (-(off[0] * off[0] + off[1] * off[1]) / reach).exp();
        terms.place += share * (1.0 - kept);
        for (axis, off) in off.iter().enumerate() {
            add(k * dims + axis, scale.factors[0] * share * kept * 2.0 * off / reach * step);
        }
        if let (Some(flow), false) = (batch.outputs.flow, level.sigmas.is_empty()) {
            terms.likelihood += likelihood(flow, (level, cell), (k, dims), off, scale, grads);
        }
    }
    terms
}

/// The negative log-likelihood of the residual of one keypoint: both axes behind a Laplace distribution and the flow.
fn likelihood(
    flow: &Flow,
    (level, cell): (&Level<'_>, usize),
    (k, dims): (usize, usize),
    off: [f64; 2],
    scale: &Scale,
    grads: &mut Grads<'_>,
) -> f64 {
    let area = level.area();
    let row = |axis: usize| (2 * k + axis) * area + cell;
    let sigma = [0, 1].map(|axis| f64::from(sigmoid(level.sigmas[row(axis)])));
    let residual = [off[0] / sigma[0], off[1] / sigma[1]];
    let factor = scale.factors[2] / scale.labelled;
    // The likelihood under the flow stands in the terms of both axes.
    let pass = flow.log_density(residual);
    let d_flow = flow.add_gradient(&pass, -2.0 * factor, grads.flow.as_deref_mut());
    let mut value = -2.0 * pass.log_density;
    for axis in 0..2 {
        value += sigma[axis].ln() + (2.0 * sigma[axis]).ln() + residual[axis].abs();
        let sign = if residual[axis] == 0.0 { 0.0 } else { residual[axis].signum() };
        let d_residual = d_flow[axis] + factor * sign;
        grads.extra[(k * dims + axis) * area + cell] += (d_residual / sigma[axis]) as f32;
        let d_sigma = 2.0 * factor / sigma[axis] - d_residual * residual[axis] / sigma[axis];
        grads.sigmas[row(axis)] += (d_sigma * sigma[axis] * (1.0 - sigma[axis])) as f32;
    }
    value / scale.labelled
}
