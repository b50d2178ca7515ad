//! Checkpoints: the state of a training in one file.
//!
//! The file is a model file: what loads models loads the averaged model of the last finished epoch. Further tensors,
//! which that reader leaves out, hold the rest: `train/raw/{key}` the weights that are being trained,
//! `train/{slot}/{key}` the optimizer. Counters, the training's [`Identity`] and a digest of all of it stand in the
//! provenance below `train.`. One file, written beside and renamed, so that an interrupted training never leaves parts
//! of two epochs; a file that was changed since is refused.

use super::config::TrainError;
use super::identity::{Identity, hex};
use super::stepper::State;
use crate::files;
use crate::model::{self, Info, Model, Weights};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};

/// All that a training needs to resume after a finished epoch.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    /// Finished epochs.
    pub epochs: usize,
    /// What the steps have changed.
    pub state: State,
}

const PREFIX: &str = "train/";
const RAW: &str = "raw/";
const KEYS: [&str; 4] = ["train.epochs", "train.updates", "train.steps", "train.identity"];
const DIGEST: &str = "train.sha256";

impl Saved {
    /// SHA-256 of everything in it, and of whose it is.
    fn digest(&self, identity: &str) -> String {
        let mut digest = Sha256::new();
        let Self { epochs, state } = self;
        let counts = [*epochs as u64, state.updates, state.steps, identity.len() as u64];
        counts.iter().for_each(|count| digest.update(count.to_le_bytes()));
        digest.update(identity);
        for weights in [&state.raw, &state.average, &state.slots] {
            digest.update((weights.len() as u64).to_le_bytes());
            for (key, tensor) in weights {
                digest.update(format!("{key} {:?} ", tensor.shape()));
                digest.update(bytemuck::cast_slice::<f32, u8>(tensor.data()));
            }
        }
        hex(&digest.finalize())
    }
}

/// Writes a state; `model` lends its graph and its info.
pub(super) fn save(saved: &Saved, model: &Model, identity: &Identity, path: &Path) -> Result<(), TrainError> {
    let state = &saved.state;
    let mut weights = state.average.clone();
    let raw = state.raw.iter().map(|(key, tensor)| (format!("{PREFIX}{RAW}{key}"), tensor.clone()));
    let slots = state.slots.iter().map(|(key, tensor)| (format!("{PREFIX}{key}"), tensor.clone()));
    weights.extend(raw.chain(slots));
    let mut info = model.info.clone();
    let identity = identity.text();
    let digest = saved.digest(&identity);
    let values = [saved.epochs.to_string(), state.updates.to_string(), state.steps.to_string(), identity];
    info.provenance.extend(KEYS.map(str::to_owned).into_iter().zip(values));
    info.provenance.insert(DIGEST.to_owned(), digest);
    // Not through `Model::new`, which drops the further tensors.
    model::save(&Model { graph: model.graph.clone(), weights, info }, path)?;
    Ok(())
}

/// Reads a state that was written by the same training.
///
/// # Errors
/// [`TrainError::Checkpoint`] if the file cannot be used by anyone, [`TrainError::OtherTraining`] if it belongs to
/// another training.
pub(super) fn load(model: &Model, identity: &Identity, path: &Path) -> Result<Saved, TrainError> {
    let fail = |problem: String| TrainError::Checkpoint { path: path.into(), problem };
    let bytes = files::read(path, model::MAX_FILE).map_err(|e| fail(e.to_string()))?;
    // A file's own errors begin with its path, which stands before the problem already.
    let place = format!("{}: ", path.display());
    let unread = |e: &dyn std::fmt::Display| {
        let text = e.to_string();
        fail(text.strip_prefix(&place).map_or(text.clone(), str::to_owned))
    };
    let file = model::from_bytes(path, &bytes).map_err(|e| unread(&e))?;
    let found = |key: &str| file.info.provenance.get(key).ok_or_else(|| fail("is a model, not a checkpoint".into()));
    let count = |key: &str| found(key)?.parse::<u64>().map_err(|_| fail(format!("`{key}` is not a number")));
    let epochs = count(KEYS[0])? as usize;
    let mut state = State {
        updates: count(KEYS[1])?,
        steps: count(KEYS[2])?,
        raw: Weights::new(),
        average: file.weights.clone(),
        slots: Weights::new(),
    };
    for (key, tensor) in model::tensors(path, &bytes).map_err(|e| unread(&e))? {
        let Some(key) = key.strip_prefix(PREFIX) else { continue };
        match key.strip_prefix(RAW) {
            Some(key) => state.raw.insert(key.to_owned(), tensor),
            None => state.slots.insert(key.to_owned(), tensor),
        };
    }
    let written = found(KEYS[3])?;
    let whose: Identity = serde_json::from_str(written).map_err(|_| fail(format!("`{}` cannot be read", KEYS[3])))?;
    let mut saved = Saved { epochs, state };
    if *found(DIGEST)? != saved.digest(written) {
        return Err(fail("has been damaged: its content does not have the digest that it names".into()));
    }
    if whose != *identity || file.graph != model.graph {
        let differences = identity.differences(&whose);
        let differences = if differences.is_empty() { "another network".into() } else { differences };
        return Err(TrainError::OtherTraining { path: path.into(), differences });
    }
    let state = &mut saved.state;
    for (key, tensor) in &state.slots {
        let param = key.split_once('/').map_or(key.as_str(), |(_, param)| param);
        if state.average.get(param).is_none_or(|t| t.shape() != tensor.shape()) {
            return Err(fail(format!("`{PREFIX}{key}` does not fit the network")));
        }
    }
    // Refuses missing tensors and wrong shapes.
    let raw = Model::new(model.graph.clone(), std::mem::take(&mut state.raw), Info::default());
    state.raw = raw.map_err(|e| fail(e.to_string()))?.weights;
    Ok(saved)
}

/// Moves a checkpoint that cannot be continued out of the way, beside its place, and says where it is now.
///
/// # Errors
/// Those of the operating system.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(".unusable");
    let aside = PathBuf::from(name);
    std::fs::rename(path, &aside)?;
    Ok(aside)
}
