//! A training in the middle, in one file.
//!
//! The file is a model file: what loads models loads the averaged model of the last finished epoch. Further tensors,
//! which that reader leaves out, hold the rest: `train/raw/{key}` the weights that are being trained,
//! `train/{slot}/{key}` the optimiser. Counters and settings stand in the provenance below `train.`. One file, written
//! beside and renamed, so that an interrupted training never leaves parts of two epochs.

use super::config::TrainError;
use crate::files;
use crate::model::{self, FileError, Info, Model, Weights};
use std::path::Path;

/// All that a training goes on from after a finished epoch.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Finished epochs.
    pub epochs: usize,
    /// The trained weights.
    pub raw: Weights,
    /// Their moving average.
    pub average: Weights,
    /// Updates of the average.
    pub updates: u64,
    /// Optimiser tensors by `{slot}/{key}`.
    pub slots: Weights,
    /// Optimiser steps.
    pub steps: u64,
}

const PREFIX: &str = "train/";
const RAW: &str = "raw/";
const KEYS: [&str; 4] = ["train.epochs", "train.updates", "train.steps", "train.settings"];

/// Writes a state; `model` lends its graph and its info.
pub(super) fn save(state: &State, model: &Model, settings: &str, path: &Path) -> Result<(), TrainError> {
    let mut weights = state.average.clone();
    let raw = state.raw.iter().map(|(key, tensor)| (format!("{PREFIX}{RAW}{key}"), tensor.clone()));
    let slots = state.slots.iter().map(|(key, tensor)| (format!("{PREFIX}{key}"), tensor.clone()));
    weights.extend(raw.chain(slots));
    let mut info = model.info.clone();
    let values = [state.epochs.to_string(), state.updates.to_string(), state.steps.to_string(), settings.to_owned()];
    info.provenance.extend(KEYS.map(str::to_owned).into_iter().zip(values));
    // Not through `Model::new`, which drops the further tensors.
    model::save(&Model { graph: model.graph.clone(), weights, info }, path)?;
    Ok(())
}

/// Reads a state that was written for the same graph and settings.
pub(super) fn load(model: &Model, settings: &str, path: &Path) -> Result<State, TrainError> {
    let fail = |problem: String| TrainError::Checkpoint { path: path.into(), problem };
    let bytes = files::read(path, model::MAX_FILE).map_err(|source| FileError::Io { path: path.into(), source })?;
    let saved = model::from_bytes(path, &bytes)?;
    if saved.graph != model.graph {
        return Err(fail("is the checkpoint of another network".into()));
    }
    let found = |key: &str| saved.info.provenance.get(key).ok_or_else(|| fail("is a model, not a checkpoint".into()));
    if found(KEYS[3])? != settings {
        return Err(fail(format!("was written with other settings ({})", found(KEYS[3])?)));
    }
    let count = |key: &str| found(key)?.parse::<u64>().map_err(|_| fail(format!("`{key}` is not a number")));
    let mut state = State {
        epochs: count(KEYS[0])? as usize,
        updates: count(KEYS[1])?,
        steps: count(KEYS[2])?,
        raw: Weights::new(),
        average: saved.weights,
        slots: Weights::new(),
    };
    for (key, tensor) in model::tensors(path, &bytes)? {
        let Some(key) = key.strip_prefix(PREFIX) else { continue };
        match key.strip_prefix(RAW) {
            Some(key) => state.raw.insert(key.to_owned(), tensor),
            None => state.slots.insert(key.to_owned(), tensor),
        };
    }
    for (key, tensor) in &state.slots {
        let param = key.split_once('/').map_or(key.as_str(), |(_, param)| param);
        if state.average.get(param).is_none_or(|t| t.shape() != tensor.shape()) {
            return Err(fail(format!("`{PREFIX}{key}` does not fit the network")));
        }
    }
    // Refuses missing tensors and wrong shapes.
    let raw = Model::new(model.graph.clone(), std::mem::take(&mut state.raw), Info::default())?;
    state.raw = raw.weights;
    Ok(state)
}
