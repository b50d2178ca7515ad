//! The reference: every operator by its definition, one node after the other, nothing fused.
//!
//! Slow on purpose, and in f64 inside, so that its rounding does not count. It shares no code with the compiled engine,
//! so that tests can compare the two.

use super::EngineError;
use crate::graph::{Activation, Attention, Conv, ConvTranspose, Op, Shape};
use crate::model::Model;

/// The tensor `[C, h, w]` of every node, in node order, for one image `[C, height, width]`.
///
/// # Errors
/// If the graph does not fit the size, or the input has another length than the graph's input at this size.
pub fn run(model: &Model, input: &[f32], height: usize, width: usize) -> Result<Vec<Vec<f32>>, EngineError> {
    let graph = &model.graph;
    let shapes = graph.shapes(height, width)?;
    let expected = shapes.first().map_or(0, Shape::len);
    if input.len() != expected {
        return Err(EngineError::Input { found: input.len(), expected });
    }
    let mut tensors: Vec<Vec<f64>> = Vec::with_capacity(graph.nodes.len());
    for (node, shape) in graph.nodes.iter().zip(&shapes) {
        let from = |i: usize| (&tensors[node.inputs[i].index()][..], shapes[node.inputs[i].index()]);
        let tensor = match &node.op {
            Op::Input { .. } => input.iter().map(|v| f64::from(*v)).collect(),
            Op::Conv(conv) => convolve(model, conv, from(0), *shape),
            Op::ConvTranspose(conv) => convolve_transposed(model, conv, from(0), *shape),
            Op::Activate { act } => from(0).0.iter().map(|v| activate(*act, *v)).collect(),
            Op::MaxPool { kernel, stride, padding } => max_pool(from(0), *shape, *kernel, *stride, *padding),
            Op::AvgPool { kernel, stride } => avg_pool(from(0), *shape, *kernel, *stride),
            Op::Upsample { factor } => upsample(from(0), *shape, *factor),
            Op::Concat => (0..node.inputs.len()).flat_map(|i| from(i).0.iter().copied()).collect(),
            Op::Slice { start, len } => {
                let (x, s) = from(0);
                x[start * s.area()..(start + len) * s.area()].to_vec()
            }
            Op::Add => from(0).0.iter().zip(from(1).0).map(|(a, b)| a + b).collect(),
            Op::Attention(a) => attention(a, from(0)),
            Op::AttentionValues(a) => attention_values(a, from(0)),
            Op::GlobalAvgPool => {
                let (x, s) = from(0);
                x.chunks(s.area()).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect()
            }
        };
        tensors.push(tensor);
    }
    Ok(tensors.into_iter().map(|t| t.into_iter().map(|v| v as f32).collect()).collect())
}

fn convolve(model: &Model, conv: &Conv, (x, s): (&[f64], Shape), out: Shape) -> Vec<f64> {
    let weights = model.tensor(&conv.weight).data();
    let per_group = conv.c_in / conv.groups;
    let (k, stride, pad) = (conv.kernel, conv.stride, conv.padding);
    let mut y = vec![0.0f64; out.len()];
    for (co, plane) in y.chunks_mut(out.area()).enumerate() {
        let first = co / (conv.c_out / conv.groups) * per_group;
        for ci in 0..per_group {
            let source = &x[(first + ci) * s.area()..][..s.area()];
            for (tap, weight) in weights[(co * per_group + ci) * k * k..][..k * k].iter().enumerate() {
                let (ky, kx) = (tap / k, tap % k);
                // The columns whose tap falls inside the image.
                let from = pad.saturating_sub(kx).div_ceil(stride);
                let until = (s.w + pad).saturating_sub(kx).div_ceil(stride).min(out.w);
                for (oy, row) in plane.chunks_mut(out.w).enumerate() {
                    let Some(iy) = (oy * stride + ky).checked_sub(pad).filter(|iy| *iy < s.h) else { continue };
                    if from >= until {
                        continue;
                    }
                    let taps = &source[iy * s.w + from * stride + kx - pad..];
                    row[from..until]
                        .iter_mut()
                        .zip(taps.iter().step_by(stride))
                        .for_each(|(y, x)| *y += f64::from(*weight) * x);
                }
            }
        }
    }
    for (co, plane) in y.chunks_mut(out.area()).enumerate() {
        let bias = conv.bias.as_ref().map_or(0.0, |key| f64::from(model.tensor(key).data()[co]));
        plane.iter_mut().for_each(|v| *v += bias);
        if let Some(norm) = &conv.norm {
            let [gamma, beta, mean, var] = norm.keys().map(|key| f64::from(model.tensor(&key).data()[co]));
            let root = (var + f64::from(norm.eps)).sqrt();
            plane.iter_mut().for_each(|v| *v = (*v - mean) / root * gamma + beta);
        }
        plane.iter_mut().for_each(|v| *v = activate(conv.act, *v));
    }
    y
}

fn convolve_transposed(model: &Model, conv: &ConvTranspose, (x, s): (&[f64], Shape), out: Shape) -> Vec<f64> {
    let (weights, f) = (model.tensor(&conv.weight).data(), conv.factor);
    let mut y = vec![0.0; out.len()];
    for co in 0..conv.c_out {
        let bias = conv.bias.as_ref().map_or(0.0, |key| f64::from(model.tensor(key).data()[co]));
        for (oy, ox) in (0..out.h).flat_map(|oy| (0..out.w).map(move |ox| (oy, ox))) {
            let tap = |ci: usize| f64::from(weights[((ci * conv.c_out + co) * f + oy % f) * f + ox % f]);
            let sum: f64 = (0..conv.c_in).map(|ci| tap(ci) * x[(ci * s.h + oy / f) * s.w + ox / f]).sum();
            y[(co * out.h + oy) * out.w + ox] = sum + bias;
        }
    }
    y
}

fn max_pool((x, s): (&[f64], Shape), out: Shape, kernel: usize, stride: usize, padding: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(out.len());
    for c in 0..out.c {
        for oy in 0..out.h {
            for ox in 0..out.w {
                let inside = |o: usize, side: usize| {
                    (o * stride).saturating_sub(padding)..(o * stride + kernel).saturating_sub(padding).min(side)
                };
                let mut best = f64::NEG_INFINITY;
                for iy in inside(oy, s.h) {
                    for ix in inside(ox, s.w) {
                        best = best.max(x[(c * s.h + iy) * s.w + ix]);
                    }
                }
                y.push(best);
            }
        }
    }
    y
}

fn avg_pool((x, s): (&[f64], Shape), out: Shape, kernel: usize, stride: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(out.len());
    for (c, oy) in (0..out.c).flat_map(|c| (0..out.h).map(move |oy| (c, oy))) {
        for ox in 0..out.w {
            let row = |dy: usize| &x[(c * s.h + oy * stride + dy) * s.w + ox * stride..][..kernel];
            y.push((0..kernel).flat_map(row).sum::<f64>() / (kernel * kernel) as f64);
        }
    }
    y
}

fn upsample((x, s): (&[f64], Shape), out: Shape, factor: usize) -> Vec<f64> {
    let mut y = Vec::with_capacity(out.len());
    for c in 0..out.c {
        for oy in 0..out.h {
            y.extend((0..out.w).map(|ox| x[(c * s.h + oy / factor) * s.w + ox / factor]));
        }
    }
    y
}

fn attention(a: &Attention, (x, s): (&[f64], Shape)) -> Vec<f64> {
    let n = s.area();
    let run = n / a.areas;
    let mut y = vec![0.0f64; a.heads * a.head_dim * n];
    for head in 0..a.heads {
        let channel = |c: usize| &x[(head * a.packed() + c) * n..][..n];
        for i in 0..n {
            let logit = |j: usize| {
                f64::from(a.scale) * (0..a.key_dim).map(|c| channel(c)[i] * channel(a.key_dim + c)[j]).sum::<f64>()
            };
            let area = i / run * run..(i / run + 1) * run;
            let logits: Vec<f64> = area.clone().map(logit).collect();
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for c in 0..a.head_dim {
                let v = &channel(2 * a.key_dim + c)[area.clone()];
                y[(head * a.head_dim + c) * n + i] = weights.iter().zip(v).map(|(w, v)| w * v).sum::<f64>() / total;
            }
        }
    }
    y
}

fn attention_values(a: &Attention, (x, s): (&[f64], Shape)) -> Vec<f64> {
    let n = s.area();
    (0..a.heads).flat_map(|h| x[(h * a.packed() + 2 * a.key_dim) * n..][..a.head_dim * n].iter().copied()).collect()
}

fn activate(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}
