//! Accuracy control: leaves the layers out of int8 whose quantization costs most, until the network is accurate enough.
//!
//! 1. Where the whole network in int8 is accurate enough, nothing is left out.
//! 2. Measure every layer's sensitivity: the divergence of the outputs where it alone is int8 ([`sensitivities`]).
//! 3. Order the layers by divergence per millisecond that leaving them out costs ([`time_lost`]).
//! 4. Leave out the first one, two, four, ... until the accuracy suffices; then find the least number by bisection.
//! 5. Of those, try to quantize again, one after the other: the slowest first, and of equal times what helps least.

use super::choose::divergence;
use super::divergence::{Images, outputs};
use super::ranges::Ranges;
use super::{Exceptions, int8_layers, quantise, quantise_except};
use crate::engine::{Engine, EngineError, Options};
use crate::graph::{Dtype, Op};
use crate::model::Model;
use half::f16;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Frames of which the fastest counts for a layer's time.
const FRAMES: usize = 5;

/// Share of its f32 time that leaving a layer out costs at least: a measured gain near zero is noise.
const LEAST_SHARE: f64 = 0.05;

/// Layers that are tried again in int8.
const RETRIES: usize = 16;

/// Inputs beyond this leave f16 too little room for the sums of a layer.
const MOST_F16_INPUT: f32 = 4096.0;

/// A layer that stays out of int8, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Name of the layer.
    pub layer: String,
    /// What it computes in.
    pub dtype: Dtype,
    /// Divergence of the outputs where it alone is int8, nats per confident prediction.
    pub divergence: f64,
    /// Milliseconds that leaving it out of int8 costs.
    pub lost_ms: f64,
}

/// The accuracy that is demanded, and how it is measured.
pub struct Limit<'a, E> {
    /// The least accuracy.
    pub least: f64,
    /// Measures a model; higher is better.
    pub accuracy: &'a mut dyn FnMut(&Model) -> Result<f64, E>,
}

/// The int8 model that is at least as accurate as demanded, and the layers that were left out for it, most costly first.
/// `sensitivities` is asked for only where the whole network in int8 does not suffice. Where even a network with every
/// layer left out does not, that one is given.
///
/// # Errors
/// As its arguments.
pub fn control<E>(
    model: &Model,
    ranges: &Ranges,
    sensitivities: impl FnOnce() -> Result<Vec<Kept>, E>,
    limit: Limit<E>,
) -> Result<(Model, Vec<Kept>), E> {
    let Limit { least, accuracy } = limit;
    let whole = quantise(model, ranges);
    if accuracy(&whole)? >= least {
        return Ok((whole, Vec::new()));
    }
    let mut order = sensitivities()?;
    let saved = |kept: &Kept| kept.divergence / kept.lost_ms.max(f64::MIN_POSITIVE);
    order.sort_by(|a, b| saved(b).total_cmp(&saved(a)));
    let without = |kept: &[Kept]| {
        let exceptions: Exceptions = kept.iter().map(|kept| (kept.layer.clone(), kept.dtype)).collect();
        quantise_except(model, ranges, &exceptions)
    };
    // Too few, and enough.
    let (mut few, mut enough) = (0, 1.min(order.len()));
    while enough < order.len() && accuracy(&without(&order[..enough]))? < least {
        (few, enough) = (enough, (2 * enough).min(order.len()));
    }
    while enough - few > 1 {
        let middle = usize::midpoint(few, enough);
        if accuracy(&without(&order[..middle]))? < least { few = middle } else { enough = middle }
    }
    order.truncate(enough);
    let mut slowest: Vec<String> = order.iter().rev().map(|kept| kept.layer.clone()).collect();
    let lost = |layer: &String| order.iter().find(|kept| kept.layer == *layer).map_or(0.0, |kept| kept.lost_ms);
    slowest.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
    // The last one is needed: that is how the number was found.
    let last = order.last().map(|kept| kept.layer.clone());
    for layer in slowest.into_iter().filter(|layer| Some(layer) != last.as_ref()).take(RETRIES) {
        let rest: Vec<Kept> = order.iter().filter(|kept| kept.layer != layer).cloned().collect();
        if accuracy(&without(&rest))? >= least {
            order = rest;
        }
    }
    Ok((without(&order), order))
}

/// What every layer's quantization alone costs in divergence over images, and what leaving it out
/// costs in time; in execution order. A layer would stay in f16, or in f32 where its values are too large for f16.
///
/// # Errors
/// If the model cannot be run at this size.
pub fn sensitivities(
    model: &Model,
    ranges: &Ranges,
    lost_ms: &BTreeMap<String, f64>,
    images: &Images,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Kept>, EngineError> {
    let plain = model.clone().into_f32();
    let reference = outputs(&plain, images)?;
    let layers = int8_layers(&plain);
    let names: Vec<&String> = layers.iter().map(|id| &plain.graph.node(*id).name).collect();
    let mut found = Vec::with_capacity(names.len());
    for (done, (id, layer)) in layers.iter().zip(&names).enumerate() {
        let others = names.iter().filter(|name| *name != layer);
        let exceptions = others.map(|name| ((*name).clone(), Dtype::F32)).collect();
        let alone = quantise_except(&plain, ranges, &exceptions);
        found.push(Kept {
            layer: (*layer).clone(),
            dtype: fallback(&plain, &plain.graph.node(*id).op, ranges.get(*layer)),
            divergence: divergence(&alone, &reference, images)?,
            lost_ms: lost_ms.get(*layer).copied().unwrap_or(1.0),
        });
        progress(done + 1, layers.len());
    }
    Ok(found)
}

/// What a layer computes in where it is left out of int8.
fn fallback(model: &Model, op: &Op, range: Option<&[f32; 2]>) -> Dtype {
    let Op::Conv(conv) = op else { return Dtype::F32 };
    let kernel = model.tensor(&conv.weight).data();
    let fits = kernel.iter().all(|w| f16::from_f32(*w).is_finite())
        && range.is_some_and(|range| range.iter().all(|end| end.abs() <= MOST_F16_INPUT));
    if fits { Dtype::F16 } else { Dtype::F32 }
}

/// By layer the milliseconds that it takes longer on this machine in f32 than in int8, on one thread.
///
/// # Errors
/// If the model cannot be run at this size.
pub fn time_lost(
    model: &Model,
    ranges: &Ranges,
    image: &[f32],
    (height, width): (usize, usize),
) -> Result<BTreeMap<String, f64>, EngineError> {
    let plain = model.clone().into_f32();
    let times = |model: &Model| -> Result<BTreeMap<String, f64>, EngineError> {
        let mut engine = Engine::new(model, height, width, &Options { threads: 1, ..Options::default() })?;
        let mut least: BTreeMap<String, f64> = BTreeMap::new();
        for _ in 0..FRAMES {
            let mut frame: BTreeMap<u32, f64> = BTreeMap::new();
            for step in engine.profile(image)? {
                *frame.entry(step.node.0).or_default() += step.nanos as f64 / 1e6;
            }
            for (node, ms) in frame {
                let name = &model.graph.nodes[node as usize].name;
                least.entry(name.clone()).and_modify(|least| *least = least.min(ms)).or_insert(ms);
            }
        }
        Ok(least)
    };
    let (slow, fast) = (times(&plain)?, times(&quantise(&plain, ranges))?);
    let lost = |(layer, slow): (String, f64)| {
        let fast = fast.get(&layer).copied().unwrap_or(slow);
        (layer, (slow - fast).max(LEAST_SHARE * slow))
    };
    Ok(slow.into_iter().filter(|(layer, _)| ranges.contains_key(layer)).map(lost).collect())
}
