//! A kind of input, and how its inputs are made from seeds.

use crate::mutate::{Rng, mutate};
use crate::place::Place;
use crate::{json, pickle};

/// A kind of input.
pub struct Target {
    pub name: &'static str,
    /// What the mutations start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Tokens of the format.
    pub tokens: &'static [&'static [u8]],
    pub how: How,
    /// Uses an input, with a folder for files.
    pub run: fn(&mut Place, &[u8]),
}

/// How a kind of input is mutated.
pub enum How {
    Bytes,
    Pickle,
    Json,
    /// A length of eight bytes, then JSON (with more JSON in its texts), then the rest.
    Safetensors,
}

impl Target {
    /// Input number `input`: the same for the same seed.
    pub fn input(&self, seeds: &[Vec<u8>], seed: u64, input: u64) -> Vec<u8> {
        let mut rng = Rng::of(seed, self.name, input);
        // The first inputs are the seeds themselves.
        if let Some(seed) = seeds.get(input as usize) {
            return seed.clone();
        }
        let mut bytes = seeds[rng.below(seeds.len())].clone();
        match self.how {
            How::Pickle => pickle::mutate(&mut bytes, seeds, &mut rng),
            How::Safetensors if rng.below(4) > 0 => {
                let length = bytes.first_chunk().map_or(0, |n| u64::from_le_bytes(*n) as usize);
                let header = bytes.get(8..8 + length).unwrap_or_default().to_vec();
                let header = if rng.below(2) == 0 {
                    let mut header = header;
                    mutate(&mut header, &[], self.tokens, &mut rng);
                    header
                } else {
                    header_as_json(&header, &mut rng)
                };
                let body = bytes.split_off((8 + length).min(bytes.len()));
                bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &body].concat();
            }
            How::Json if rng.below(2) == 0 => {
                if let Ok(mut value) = serde_json::from_slice(&bytes) {
                    json::mutate(&mut value, &mut rng);
                    bytes = value.to_string().into_bytes();
                }
            }
            _ => mutate(&mut bytes, seeds, self.tokens, &mut rng),
        }
        bytes
    }
}

/// A header that remains JSON; often it is the graph in it that changes.
fn header_as_json(header: &[u8], rng: &mut Rng) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(header) else { return header.to_vec() };
    let key = ["secateurs.graph", "secateurs.graph", "secateurs.graph", "secateurs.info", ""][rng.below(5)];
    let inner = value.pointer_mut(&format!("/__metadata__/{key}"));
    match inner.and_then(|text| serde_json::from_str(text.as_str()?).ok().map(|parsed| (text, parsed))) {
        Some((text, mut parsed)) => {
            json::mutate(&mut parsed, rng);
            *text = parsed.to_string().into();
        }
        None => json::mutate(&mut value, rng),
    }
    value.to_string().into_bytes()
}
