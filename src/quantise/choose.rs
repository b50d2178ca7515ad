//! Chooses how the ranges follow from the calibration images: by what the int8 network makes of images that were held back.
//!
//! No labels are needed, and the images of the validation are never looked at: the measure is the divergence of the int8
//! network's outputs from those in f32.

use super::divergence::{Images, kl_divergence, outputs};
use super::quantise;
use super::ranges::{Observed, RangeMethod, Ranges, symmetric};
use crate::engine::EngineError;
use crate::model::Model;

/// The ranges of a method, and how far the network gets from f32 with them.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The method.
    pub method: RangeMethod,
    /// Its ranges.
    pub ranges: Ranges,
    /// Divergence of the outputs, nats per confident prediction (see [`kl_divergence`]).
    pub divergence: f64,
}

/// The ranges of the method with the least divergence over images that were held back; with `zero_centred` among those around zero ([`symmetric`]).
///
/// # Errors
/// If the model cannot be run at this size.
pub fn choose(
    model: &Model,
    observed: &Observed,
    methods: &[RangeMethod],
    zero_centred: bool,
    held_back: &Images,
) -> Result<Option<Chosen>, EngineError> {
    let plain = model.clone().into_f32();
    let reference = outputs(&plain, held_back)?;
    let mut best: Option<Chosen> = None;
    for method in methods {
        let ranges = observed.ranges(*method);
        let ranges = if zero_centred { symmetric(&ranges) } else { ranges };
        let divergence = divergence(&quantise(&plain, &ranges), &reference, held_back)?;
        if best.as_ref().is_none_or(|best| divergence < best.divergence) {
            best = Some(Chosen { method: *method, ranges, divergence });
        }
    }
    Ok(best)
}

/// The mean divergence of a model's outputs from those of a reference.
pub(super) fn divergence(model: &Model, reference: &[Vec<Vec<f32>>], on: &Images) -> Result<f64, EngineError> {
    let found = outputs(model, on)?;
    let pairs = reference.iter().zip(&found);
    let total: f64 = pairs.map(|(reference, found)| kl_divergence(&model.graph.head, on.size, reference, found)).sum();
    Ok(total / on.images.len().max(1) as f64)
}
